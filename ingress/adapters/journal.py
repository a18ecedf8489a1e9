"""The journal of this replica: what it must not forget is on disk before anybody is told of it.

Everything that exchanges journal in one iteration of the event loop is written by one `os.write` at the iteration's
end; then, in order, come the things that were waiting for it: requests go to providers, last bytes go to clients. A
process that is killed loses nothing that a client has. (Power loss may: nothing is synced to the medium.)

Cuts records from what is written and notes each cut on the log before it may be sent. Knows no broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from ingress.adapters.lane import Lane, Memory, Outbox
from ingress.adapters.recovery import ID, NO_GAUGES, Checkpoint, Cut, EpochState, Outgoing, tell
from ingress.adapters.wal import ADMITTED, CHECKPOINT, CUT, DECISION, EVENT, Head, Segment, Wal
from ingress.core.admission import Registry
from schemas.codec import DECISIONS_HEADER, encode_record
from schemas.published import MAX_EVENTS_PER_RECORD
from schemas.usage import Batch, Totals, Want

MEMORY_BYTES = 32 * 1024 * 1024
_encode = msgspec.msgpack.Encoder().encode


class _Open:
    """An admission whose request has not ended."""

    __slots__ = ("event", "partition", "segment")

    def __init__(self, partition: int, event: bytes, segment: Segment) -> None:
        self.partition = partition
        self.event = event
        self.segment = segment


class JournalClosed(RuntimeError):
    """Something was journalled after a failed write, or after the end."""


class Journal:
    """Write-ahead log with one write per loop iteration."""

    def __init__(
        self,
        wal: Wal,
        registry: Registry,
        instance: str,
        epoch: int,
        *,
        on_dirty: Callable[[int], None] = lambda partition: None,
        on_fault: Callable[[BaseException], None] = lambda error: None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Begin the log of `epoch`.

        Args:
            wal: without segments yet.
            registry: its partitions are the lanes.
            instance: this replica.
            epoch: of this run.
            on_dirty: called with a partition that has something to send.
            on_fault: called when the log cannot be written: the process has to stop.
            memory_bytes: events beyond these wait on disk.
        """
        self.instance = instance
        self.on_dirty = on_dirty
        self.on_fault = on_fault
        self._wal = wal
        self._registry = registry
        self._memory = Memory(memory_bytes)
        partitions = range(len(registry.shards))
        self.lanes = [Lane(p, epoch, Outbox(EVENT, p, self._memory), Outbox(DECISION, p, self._memory))
                      for p in partitions]  # fmt: skip
        self._heads = [tuple(Head(kind, p) for kind in (ADMITTED, EVENT, DECISION, CUT)) for p in partitions]
        self._checkpoint_head = Head(CHECKPOINT, 0)
        self._open: dict[bytes, _Open] = {}
        self._parts: list[bytes] = []
        self._thens: list[Callable[[], None]] = []
        self._dirty: set[int] = set()
        self._closed = ""
        self.epoch = epoch
        self.cuts = 0
        """Records cut."""
        wal.begin_segment(self._checkpoint())

    # ------------------------------------------------------------------------------------------------- the path

    def admitted(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write the event that is to count if this process dies before the request ends; then call `then`.

        `decisions` are encoded, and about the way to the admission.
        """
        if self._closed:
            raise JournalClosed(f"the journal is closed: {self._closed}")
        self._open[event[ID]] = _Open(partition, event, self._wal.segments[-1])
        if decisions:
            self._decide(partition, decisions)
        self._write(self._heads[partition][0].frame(event), event, then)

    def terminal(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write a terminal event, and encoded `Decision`s if there are any; then call `then`.

        Call `Hold.settle` in the same step, without awaiting anything in between.
        """
        if self._closed:
            raise JournalClosed(f"the journal is closed: {self._closed}")
        self._open.pop(event[ID], None)
        heads, lane = self._heads[partition], self.lanes[partition]
        lane.events.add(event)
        if decisions:
            self._decide(partition, decisions)
        self._dirty.add(partition)
        self._write(heads[1].frame(event), event, then)

    def _decide(self, partition: int, decisions: tuple[bytes, ...]) -> None:
        head, lane = self._heads[partition][2], self.lanes[partition]
        for decision in decisions:
            lane.decisions.add(decision)
            self._parts += (head.frame(decision), decision)
        self._dirty.add(partition)

    def _write(self, head: bytes, payload: bytes, then: Callable[[], None]) -> None:
        if not self._thens:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts += (head, payload)
        self._thens.append(then)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        thens, self._thens = self._thens, []
        dirty, self._dirty = self._dirty, set()
        wal = self._wal
        start = wal.segments[-1].size
        self._append(b"".join(parts))
        for partition in dirty:
            lane = self.lanes[partition]
            lane.events.publish(wal.segments, start)
            lane.decisions.publish(wal.segments, start)
            self._registry.journalled(partition, lane.events.written)
            self.on_dirty(partition)
        for then in thens:
            _run(then)
        if wal.is_full:
            self._roll()

    def _append(self, data: bytes) -> None:
        try:
            self._wal.append(data)
        except OSError as error:
            self._closed = f"{self._wal.segments[-1].path} cannot be written: {error}"
            self.on_fault(error)
            raise

    # --------------------------------------------------------------------------------------------------- records

    def cut(self, partition: int, now_ms: int, policy_version: int = 0, final: bool = False) -> Outgoing:
        """Cut the next record of a partition and note it on the log; the one before must be acknowledged.

        `final` ends the epoch. An epoch that was replaced is ended by itself, once its successor carries everything.
        """
        lane, shard = self.lanes[partition], self._registry.shards[partition]
        assert lane.in_flight is None
        wants: list[Want] = []
        if len(lane.epochs) > 1 and lane.epochs[-1].seq and not shard.rejoining:
            epoch, final, gauges, events = lane.epochs[0], True, NO_GAUGES, []
        else:
            epoch = lane.epochs[-1]
            events = lane.events.take(MAX_EVENTS_PER_RECORD)
            gauges = self._registry.cut(partition, epoch.seq + 1, lane.events.taken)
            wants = self._registry.wants(partition)
        epoch.seq += 1
        epoch.final = final
        epoch.told = told = tell(epoch.told, events)
        cut = lane.in_flight = Cut(
            epoch.epoch, epoch.seq, lane.events.taken, shard.ackable, now_ms, policy_version, final, told,
            lane.decisions.sent,
        )  # fmt: skip
        note = _encode(cut)
        self._append(self._heads[partition][3].frame(note) + note)
        self.cuts += 1
        batch = Batch(
            self.instance, epoch.epoch, epoch.seq, shard.ackable, now_ms, policy_version, final, gauges, wants, told,
            [msgspec.Raw(event) for event in events],
        )  # fmt: skip
        return Outgoing(epoch.epoch, epoch.seq, encode_record(batch), bool(gauges or events))

    def acknowledged(self, partition: int) -> None:
        """Take that the broker has the partition's record in flight; delete what is not needed any more."""
        self.lanes[partition].acknowledged()
        if len(self._wal.segments) > 1 and not self._parts:  # else a request may end between two places
            self._tidy()

    def take_decisions(self, partition: int) -> bytes | None:
        """Return the value of the next record on `decisions`; None if there is none."""
        found = self.lanes[partition].decisions.take(MAX_EVENTS_PER_RECORD)
        return encode_decision_batch(found) if found else None

    def decisions_acknowledged(self, partition: int) -> None:
        """Take that the broker has the decisions taken last."""
        decisions = self.lanes[partition].decisions
        decisions.sent = decisions.taken

    def switch_epoch(self, epoch: int) -> None:
        """Begin a new epoch in every partition; the records that follow join it and carry all that is in flight."""
        self.epoch = epoch
        for lane in self.lanes:
            if lane.epochs[-1].seq == 0:
                lane.epochs.pop()  # it was never told to anybody
            lane.epochs.append(EpochState(epoch, 0, Totals()))
            self._registry.rejoin(lane.partition)
        self._append(self._checkpoint())

    # -------------------------------------------------------------------------------------------------- segments

    @property
    def open_admissions(self) -> int:
        """Requests that were admitted and have not ended."""
        return len(self._open)

    @property
    def unsent_events(self) -> int:
        """Events on the log that the broker has not acknowledged."""
        return sum(lane.events.written - lane.events.sent for lane in self.lanes)

    @property
    def wal_bytes(self) -> int:
        """Size of the log on disk."""
        return self._wal.size

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting: neither to be written, nor to be sent, nor to end."""
        return (
            not self._thens
            and not self._open
            and not any(
                lane.in_flight
                or lane.events.sent != lane.events.written
                or lane.decisions.sent != lane.decisions.written
                for lane in self.lanes
            )
        )

    def seal(self) -> None:
        """Take nothing more from exchanges; what was taken is still written."""
        self._closed = self._closed or "the ingress is stopping"

    def close(self, delete: bool) -> None:
        """End the journal; with `delete` everything in it has been acknowledged, a final record too."""
        self.seal()
        self._wal.close(delete)

    def _checkpoint(self) -> bytes:
        state = _encode(Checkpoint(self.instance, self.epoch, [lane.state for lane in self.lanes]))
        return self._checkpoint_head.frame(state) + state

    def _roll(self) -> None:
        self._wal.segments[-1].ends = [(lane.events.written, lane.decisions.written) for lane in self.lanes]
        try:
            self._wal.begin_segment(self._checkpoint())
        except OSError as error:
            self._closed = f"{self._wal.directory}: no new segment: {error}"
            self.on_fault(error)
            raise

    def _tidy(self) -> None:
        """Delete leading segments of which all is acknowledged; admissions that go on are carried over first."""
        segments = self._wal.segments
        done = 0
        while done < len(segments) - 1 and self._is_sent(segments[done]):
            done += 1
        if not done:
            return
        parts = []
        for admission in self._open.values():
            if admission.segment in segments[:done]:
                admission.segment = segments[-1]
                parts += [self._heads[admission.partition][0].frame(admission.event), admission.event]
        self._append(b"".join(parts))
        for _ in range(done):
            self._wal.drop_first()

    def _is_sent(self, segment: Segment) -> bool:
        return all(
            lane.events.sent >= events and lane.decisions.sent >= decisions
            for lane, (events, decisions) in zip(self.lanes, segment.ends, strict=True)
        )


def encode_decision_batch(decisions: list[bytes]) -> bytes:
    """Return encoded decisions as the value of a record on `decisions`."""
    return DECISIONS_HEADER + _encode([msgspec.Raw(decision) for decision in decisions])


def _run(then: Callable[[], None]) -> None:
    """Call what waited for the write; its failure must not keep others waiting."""
    try:
        then()
    except Exception as error:
        context = {"message": "a step after the journal's write failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
