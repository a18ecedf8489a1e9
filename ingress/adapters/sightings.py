"""Tells on the topic `batches` what was seen of batches, and whoever waits for it whether that was in time.

Connects at the first sighting: who has no batches pays for no connection. What is late goes on being sent: to tell it
twice changes nothing, and a batch whose creator gave up waiting still gets its owner. A batch that looks as it did a
moment ago, because a client polls it, is not told again. Decides nothing about batches.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog
from aiokafka.errors import KafkaError

from ingress.core.stats import Stats
from schemas.batches import BatchSeen, Sighting
from schemas.codec import encode_sighting

TELL_S = 4.0
"""A client waits for no longer."""
MOST_WAITING_BYTES = 64 * 1024 * 1024
"""More is not kept for a broker that does not answer."""
MOST_KNOWN = 8_192
KNOWN_S = 600.0
"""After this long a batch that has not changed is told again."""
_NOBODY = msgspec.Raw(b"\x90")
_log = structlog.get_logger("ingress.sightings")

Then = Callable[[bool], None]


class Deliverer(Protocol):
    """What is needed of a producer."""

    async def deliver(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> int:
        """Return once the broker has the record."""

    async def stop(self) -> None:
        """Close."""


class Sightings:
    """What this replica tells of batches."""

    def __init__(self, producer: Deliverer, topic: str, stats: Stats) -> None:
        """Prepare; `topic` is with the prefix."""
        self._producer = producer
        self._topic = topic
        self._stats = stats
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: dict[bytes, float] = {}
        """Batches as they are on the log, with the loop time since when."""
        self.waiting_bytes = 0

    def tell(self, sighting: Sighting, then: Then) -> None:
        """Write a sighting; call `then` in a later turn of the loop: whether it is on the log, after `TELL_S` not."""
        loop = asyncio.get_running_loop()
        looks = _looks(sighting)
        if loop.time() - self._known.get(looks, -KNOWN_S) < KNOWN_S:
            self._stats.told("known")
            loop.call_soon(then, True)
            return
        value = encode_sighting(sighting)
        if self.waiting_bytes + len(value) > MOST_WAITING_BYTES:
            self._stats.told("refused")
            loop.call_soon(then, False)
            return
        self._stats.batch_lines += 0 if isinstance(sighting, BatchSeen) else len(sighting.lines)
        task = loop.create_task(self._deliver(_key(sighting), value, looks, _Answer(then)), name="tell-batches")
        self._tasks.add(task)
        self.waiting_bytes += len(value)
        task.add_done_callback(functools.partial(self._ended, len(value)))

    async def stop(self, deadline_s: float) -> None:
        """Wait for what is being sent, within `deadline_s`; close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if left:
            _log.warning("sightings_left_behind", count=len(left))
        await self._producer.stop()

    async def _deliver(self, key: bytes, value: bytes, looks: bytes, answer: _Answer) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.call_later(TELL_S, self._end, answer, "late")
        try:
            await self._producer.deliver(self._topic, 0, value, key)
        except KafkaError as error:  # one that sending again does not help
            _log.error("sighting_refused", fault=f"{type(error).__name__}: {error}")
            self._end(answer, "failed")
            return
        finally:
            limit.cancel()
        if looks:
            self._remember(looks, loop.time())
        self._stats.told("recorded")
        answer.give(True)

    def _end(self, answer: _Answer, outcome: str) -> None:
        self._stats.told(outcome)
        answer.give(False)

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.waiting_bytes -= size
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("sighting_failed", fault=f"{type(error).__name__}: {error}")

    def _remember(self, looks: bytes, now: float) -> None:
        self._known.pop(looks, None)
        self._known[looks] = now
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]


class _Answer:
    """Whom to tell, once."""

    __slots__ = ("_then",)

    def __init__(self, then: Then) -> None:
        self._then: Then | None = then

    def give(self, is_recorded: bool) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(is_recorded)


def _key(sighting: Sighting) -> bytes:
    name = sighting.batch_id or ("" if isinstance(sighting, BatchSeen) else sighting.file_id)
    return f"{sighting.provider}/{name}".encode()


def _looks(sighting: Sighting) -> bytes:
    """Return what a batch looks like, whoever saw it and when; empty for lines, which are always told."""
    if not isinstance(sighting, BatchSeen):
        return b""
    return encode_sighting(msgspec.structs.replace(sighting, seen_ms=0, attribution=_NOBODY))
