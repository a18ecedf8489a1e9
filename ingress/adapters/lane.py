"""One partition's way from the log to the broker: what is written, what was cut into records, what is acknowledged.

Payloads wait in memory up to a bound that all lanes share; beyond it they are read back from the log. One record is
in flight at a time: that alone keeps order, makes sending one again trivial, and tells a recovery all it has to know.
Writes no files and speaks to no broker.
"""

from __future__ import annotations

from collections import deque

from ingress.adapters.marks import MAX_RECORD_BYTES, Cut, EpochState, LaneState
from ingress.adapters.reader import Reader
from ingress.adapters.wal import Segment, WalCorrupt
from schemas.usage import Totals


class Memory:
    """Bytes that wait in memory, and how many may."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Outbox:
    """Payloads of one kind and partition, in the order in which they were written."""

    __slots__ = (
        "_fold", "_fresh", "_kind", "_memory", "_partition", "_queue", "_reader", "is_held", "sent", "taken", "written",
    )  # fmt: skip

    def __init__(self, kind: int, partition: int, memory: Memory) -> None:
        """Begin empty; `kind` is that of the frames."""
        self._kind = kind
        self._partition = partition
        self._memory = memory
        self._fresh: list[bytes] = []
        self._queue: deque[bytes] = deque()
        self._reader: Reader | None = None
        self._fold = (0, 0)
        """Events above the first number, up to the second, are folded; those that stand for them may not be taken."""
        self.is_held = False
        """Whether nothing may be taken: what waits is being folded."""
        self.written = 0
        """Number of the last payload on the log."""
        self.taken = 0
        """Number of the last one that is in a record, or was."""
        self.sent = 0
        """Number of the last one that the broker has acknowledged."""

    @property
    def waiting(self) -> int:
        """Payloads on the log that may be put into a record."""
        return 0 if self.is_held else self.written - self.taken

    @property
    def told(self) -> int:
        """Number of the last payload that is in a record together with all before it, folded or not."""
        since, until = self._fold
        return since if self.taken < until else self.taken

    def add(self, payload: bytes) -> None:
        """Take a payload that is about to be written."""
        self._fresh.append(payload)

    def publish(self, segments: list[Segment], start: int) -> None:
        """Take that what was added is on the log, from offset `start` of the last of `segments`."""
        fresh, self._fresh = self._fresh, []
        self.written += len(fresh)
        if self._reader is not None:
            return
        size = sum(map(len, fresh))
        memory = self._memory
        if memory.used + size > memory.limit:
            self._reader = Reader(segments, segments[-1].number, start, self._kind, self._partition)
            return
        memory.used += size
        self._queue.extend(fresh)

    def take(self, count: int, max_bytes: int = MAX_RECORD_BYTES) -> list[bytes]:
        """Return the next payloads: up to `count`, up to the one that reaches `max_bytes`.

        Raises:
            WalCorrupt: payloads wait on the log, and it has none. The process has to end: the next one finds what is
                there, where this one would stand still.
        """
        queue, size = self._queue, 0
        found: list[bytes] = []
        if self.is_held:
            return found
        while queue and len(found) < count and size < max_bytes:
            payload = queue.popleft()
            size += len(payload)
            found.append(payload)
        self._memory.used -= size
        if self._reader is not None and not queue and len(found) < count and size < max_bytes:
            asked = min(count - len(found), self.waiting - len(found))
            read = self._reader.take(asked, max_bytes - size)
            if asked and not read:
                raise WalCorrupt(f"partition {self._partition}: {asked} payloads are written, and the log has none")
            found += read
            if self.taken + len(found) == self.written:
                self._reader = None
        self.taken += len(found)
        return found

    def reread(self, segments: list[Segment], number: int, skip: int) -> None:
        """Go on from the log: with what follows `skip` payloads from the beginning of segment `number`."""
        self._reader = Reader(segments, number, 0, self._kind, self._partition)
        self._reader.skip(skip)
        self._memory.used -= sum(map(len, self._queue))
        self._queue.clear()
        if self.taken == self.written:
            self._reader = None

    @property
    def is_reading(self) -> bool:
        """Whether payloads are read back from the log."""
        return self._reader is not None

    def dropped(self, number: int) -> bool:
        """Take that what waits up to `number` is gone; return whether anything was."""
        if number <= self.taken:
            return False
        self.taken = number
        self.sent = max(self.sent, number)
        return True

    def folded(self, number: int, count: int) -> None:
        """Take that all that waits up to `number` has become `count` payloads: the last ones up to there."""
        self._fold = (self.told, number)
        self.taken = number - count


class Lane:
    """The state of one partition."""

    __slots__ = ("carried", "decisions", "epochs", "events", "in_flight", "partition")

    def __init__(self, partition: int, epoch: int, events: Outbox, decisions: Outbox) -> None:
        self.partition = partition
        self.events = events
        self.decisions = decisions
        self.epochs = [EpochState(epoch, 0, Totals())]
        """Those that are not over; the last one is current."""
        self.in_flight: Cut | None = None
        self.carried = 0
        """Events in it."""

    @property
    def unsent(self) -> int:
        """Events that the broker has not acknowledged, as they are on the log."""
        return self.events.written - self.events.taken + self.carried

    @property
    def state(self) -> LaneState:
        """What a checkpoint says of it."""
        return LaneState(
            events=self.events.written,
            decisions=self.decisions.written,
            through=self.events.taken,
            sent=self.events.sent,
            sent_decisions=self.decisions.sent,
            last=self.in_flight,
            epochs=self.epochs,
        )

    def acknowledged(self) -> None:
        """Take that the broker has the record in flight."""
        cut = self.in_flight
        assert cut is not None
        self.in_flight = None
        self.carried = 0
        self.events.sent = cut.through
        if cut.final:
            self.epochs = [epoch for epoch in self.epochs if epoch.epoch != cut.epoch]
