"""What the worker needs of the outside. Kafka has each of them in `adapters`; tests bring fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Outlet(Protocol):
    """Appends records to topics, those of a partition in the order of the calls."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""

    async def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> asyncio.Future[object]:
        """Hand over a record; the future ends when the broker has it, or with the fault that kept it from it."""
        ...


class LogBounds(Protocol):
    """Knows where the partitions of `usage` begin and end, as of now."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""

    async def ends(self, partitions: list[int]) -> dict[int, int]:
        """Return the offset that the next record of each partition will have."""
        ...

    async def beginnings(self, partitions: list[int]) -> dict[int, int]:
        """Return the offset of the oldest record of each partition."""
        ...


class Host(Protocol):
    """Assigns partitions, delivers their records, and keeps their changelog."""

    app: Any
    source: Any
    table: Any
    usage: str
    state: str

    @property
    def fault(self) -> BaseException | None:
        """Why nothing is delivered any more; None as long as it is."""
        ...

    def assigned(self) -> list[int]:
        """Return the partitions of `usage` that are this worker's."""
        ...

    def records(self) -> dict[bytes, bytes]:
        """Return the newest value of every key of the changelog."""
        ...

    async def start(self, fences: Callable[[], dict[int, int]]) -> None:
        """Begin to deliver, from the fences."""

    async def seek(self, partition: int, offset: int) -> None:
        """Deliver a partition from `offset` on."""
