"""One assigned partition: the fold, what is to be published and flushed of it, and the events that wait for their ack.

It decides when; the worker does the input and output. Times are milliseconds: `now_ms` monotonic, `wall_ms` of the
calendar.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from meter.adapters.lease import LeaseWatch
from meter.core.changelog import Changelog, Flush
from meter.core.faults import Fault
from meter.core.shares import takes_part
from meter.core.snapshots import Stamp, snapshot
from schemas.codec import encode_snapshot
from schemas.published import HEARTBEAT_MS, PUBLISH_MS

FULL_EVERY_MS = 600_000
FULL_AGAIN_MS = 5_000
"""Everything is published again after this while a member that joined has not acknowledged it."""


class Ackable(Protocol):
    """An event of the engine that can be acknowledged."""

    def ack(self) -> bool:
        """Allow the event's offset to be committed."""
        ...


class Partition:
    """The shell's view of one partition of `usage`."""

    def __init__(self, changelog: Changelog, barrier: int, publisher: str, lease_ms: int) -> None:
        self.changelog = changelog
        self.shard = changelog.shard
        self.number = changelog.shard.partition
        self.barrier = barrier
        """The end of the log when this worker took over: what others have seen published may be up to here."""
        self.lease = LeaseWatch(lease_ms)
        self.unacked: deque[tuple[int, Ackable]] = deque()
        self.published = 0
        """Snapshots of this worker so far."""
        self.flushed_fence = self.shard.fence
        self.end = barrier
        """The end of the log when it was last asked for."""
        self.resynced_ms = 0
        """When the engine was last told to read again from the fence."""
        self._seen: tuple[int, int] | None = None
        self._publisher = publisher
        self._published_ms = -FULL_EVERY_MS
        self._full_ms: int | None = None

    @property
    def caught_up(self) -> bool:
        """Whether the fold has passed everything that may have been published before, so that no reader goes back."""
        return self.shard.fence >= self.barrier and self.shard.whole

    @property
    def lag(self) -> int:
        """Records that are known to be on the log and are not folded yet."""
        return max(0, self.end - self.shard.fence)

    def is_stuck(self, end: int) -> bool:
        """Note the end of the log, and return whether nothing has arrived since the last look although there was."""
        before, self._seen = self._seen, (self.shard.fence, end)
        self.end = end
        return before is not None and before[0] == self.shard.fence < before[1]

    def take(self, offset: int, log_ms: int, value: bytes, event: Ackable) -> Fault | None:
        """Fold a record and keep its event until its effects are durable."""
        self.unacked.append((offset, event))
        return self.shard.apply(offset, log_ms, value)

    def due_in_ms(self, now_ms: int) -> int | None:
        """Return how long to wait before the next snapshot (0: now); None until the barrier is passed."""
        if not self.caught_up:
            return None
        urgent = self.shard.urgent or self._full_is_due(now_ms)
        return max(0, self._published_ms + (PUBLISH_MS if urgent else HEARTBEAT_MS) - now_ms)

    def snapshot(self, now_ms: int, wall_ms: int) -> list[bytes]:
        """Return the records of the next snapshot."""
        full = self._full_is_due(now_ms)
        self.published += 1
        self._published_ms = now_ms
        if full:
            self._full_ms = now_ms
        stamp = Stamp(self._publisher, self.published, wall_ms)
        return [encode_snapshot(part) for part in snapshot(self.shard, stamp, full)]

    def flush(self) -> Flush | None:
        """Return what is to be written to the changelog now; None if nothing was folded since the last flush."""
        return self.changelog.begin() if self.shard.fence > self.flushed_fence else None

    def flushed(self, flush: Flush) -> None:
        """Note that `flush` is durable: acknowledge, in order, every record below its fence."""
        self.flushed_fence = flush.fence
        while self.unacked and self.unacked[0][0] < flush.fence:
            self.unacked.popleft()[1].ack()

    def key(self, name: str) -> bytes:
        """Return the changelog key of a part."""
        return part_key(self.number, name)

    def _full_is_due(self, now_ms: int) -> bool:
        if self.shard.joined or self._full_ms is None:
            return True
        since_ms = now_ms - self._full_ms
        if since_ms < FULL_AGAIN_MS:
            return False
        return since_ms >= FULL_EVERY_MS or not all(map(takes_part, self.shard.runs.members))


def part_key(partition: int, name: str) -> bytes:
    """Return the changelog key of the part `name` of a partition."""
    return f"{partition}/{name}".encode()


def parts_of(partition: int, records: dict[bytes, bytes]) -> dict[str, bytes]:
    """Return the parts of one partition among the records of the changelog."""
    prefix = part_key(partition, "")
    return {key[len(prefix) :].decode(): value for key, value in records.items() if key.startswith(prefix)}
