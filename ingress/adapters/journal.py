"""The journal of this replica: what it must not forget, on disk before anybody is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Journal(Protocol):
    """Write-ahead log with one write per loop iteration for everything journalled in it."""

    def admitted(self, partition: int, event: bytes, then: Callable[[], None]) -> None:
        """Write the event to count if this process dies before the request ends; then call `then`."""

    def terminal(self, partition: int, event: bytes, then: Callable[[], None], decision: bytes | None = None) -> None:
        """Write the terminal event, and an encoded `Decision` if there is one; then call `then`."""
