"""The journal of this replica: what it must not forget is on disk before anybody is told of it.

Everything that exchanges journal in one iteration of the event loop is written by one `os.write` at the iteration's
end; then, in order, come the things that were waiting for it: requests go to providers, last bytes go to clients. A
process that is killed loses nothing that a client has. With a `Syncer` that syncs always, they come after the sync
that follows the write, and a machine that loses power loses nothing either.

Cuts records from what is written and notes each cut on the log before it may be sent. A disk without room is not the
end: a reserve takes what is under way to its end (`spool` sees to the rest). Knows no broker.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import msgspec

from ingress.adapters.lane import Lane, Memory, Outbox
from ingress.adapters.log import Log
from ingress.adapters.marks import ID, NO_GAUGES, Checkpoint, Cut, EpochState, Outgoing, encode, tell
from ingress.adapters.syncer import Syncer
from ingress.adapters.upkeep import Open, Upkeep
from ingress.adapters.wal import ADMITTED, CHECKPOINT, CUT, DECISION, EVENT, Head, Wal
from ingress.core.admission import Registry
from schemas.codec import DECISIONS_HEADER, encode_record
from schemas.crash_points import IS_ARMED, crash_here
from schemas.published import MAX_EVENTS_PER_RECORD
from schemas.usage import Batch, Totals, Want

MEMORY_BYTES = 32 * 1024 * 1024


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
        syncer: Syncer | None = None,
        take_reserve: Callable[[], Path | None] = lambda: None,
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
            syncer: brings the log onto the medium; without one, that is left to the system.
            take_reserve: returns a file with room in it, once the disk has none; None if there is none.
        """
        self.instance = instance
        self.on_dirty = on_dirty
        self.on_roll: Callable[[], None] = _nothing
        """Called when a segment was closed and another begun."""
        self.wal = wal
        self.log = Log(wal, syncer, take_reserve, self._first, self._ends, on_fault)
        self._registry = registry
        self._memory = Memory(memory_bytes)
        partitions = range(len(registry.shards))
        self.lanes = [Lane(p, epoch, Outbox(EVENT, p, self._memory), Outbox(DECISION, p, self._memory))
                      for p in partitions]  # fmt: skip
        self._heads = [tuple(Head(kind, p) for kind in (ADMITTED, EVENT, DECISION, CUT)) for p in partitions]
        self._checkpoint_head = Head(CHECKPOINT, 0)
        self._open: dict[bytes, Open] = {}
        self._parts: list[bytes] = []
        self._thens: list[Callable[[], None]] = []
        self._dirty: set[int] = set()
        self._closed = ""
        self.epoch = epoch
        self.cuts = 0
        """Records cut."""
        self.upkeep = Upkeep(self.log, self.lanes, self._open, lambda partition: self.on_dirty(partition))
        self.log.begin()

    # ------------------------------------------------------------------------------------------------- the path

    def admitted(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write the event that is to count if this process dies before the request ends; then call `then`.

        `decisions` are encoded, and about the way to the admission.
        """
        if self._closed or self.log.fault:
            raise JournalClosed(f"the journal is closed: {self.log.fault or self._closed}")
        self._open[event[ID]] = Open(partition, event, self.wal.segments[-1])
        if decisions:
            self._decide(partition, decisions)
        if IS_ARMED:
            then = functools.partial(_crash_then, "ingress.admission_written", then)
        if not self._thens:
            self._flush_soon()
        self._parts += (self._heads[partition][0].frame(event), event)
        self._thens.append(then)

    def terminal(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write a terminal event, and encoded `Decision`s if there are any; then call `then`.

        Call `Hold.settle` in the same step, without awaiting anything in between.
        """
        if self._closed or self.log.fault:
            raise JournalClosed(f"the journal is closed: {self.log.fault or self._closed}")
        self._open.pop(event[ID], None)
        heads, lane = self._heads[partition], self.lanes[partition]
        lane.events.add(event)
        if decisions:
            self._decide(partition, decisions)
        self._dirty.add(partition)
        if IS_ARMED:
            then = functools.partial(_crash_then, "ingress.terminal_written", then)
        if not self._thens:
            self._flush_soon()
        self._parts += (heads[1].frame(event), event)
        self._thens.append(then)

    def _decide(self, partition: int, decisions: tuple[bytes, ...]) -> None:
        head, lane = self._heads[partition][2], self.lanes[partition]
        for decision in decisions:
            lane.decisions.add(decision)
            self._parts += (head.frame(decision), decision)
        self._dirty.add(partition)

    def _flush_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        log = self.log
        if log.is_rolling:
            return
        parts, self._parts = self._parts, []
        thens, self._thens = self._thens, []
        dirty, self._dirty = self._dirty, set()
        start = log.append(b"".join(parts))
        wal, syncer = self.wal, log.syncer
        for partition in dirty:
            lane = self.lanes[partition]
            lane.events.publish(wal.segments, start)
            lane.decisions.publish(wal.segments, start)
            self._registry.journalled(partition, lane.events.written)
            self.on_dirty(partition)
        if syncer is not None and syncer.is_always:
            syncer.after(functools.partial(_run_all, thens))
        else:
            _run_all(thens)
        if wal.is_full:
            log.roll(self._rolled)

    def _rolled(self) -> None:
        if self._thens:
            self._flush()
        self.on_roll()

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
            gauges = self._registry.cut(partition, epoch.seq + 1, lane.events.told)
            wants = self._registry.wants(partition)
        epoch.seq += 1
        epoch.final = final
        epoch.told = told = tell(epoch.told, events)
        cut = lane.in_flight = Cut(
            epoch.epoch, epoch.seq, lane.events.taken, shard.ackable, now_ms, policy_version, final, told,
            lane.decisions.sent,
        )  # fmt: skip
        lane.carried = len(events)
        note = encode(cut)
        self.log.append(self._heads[partition][3].frame(note) + note, is_said=True)
        crash_here("ingress.cut_noted")
        self.cuts += 1
        batch = Batch(
            self.instance, epoch.epoch, epoch.seq, shard.ackable, now_ms, policy_version, final, gauges, wants, told,
            [msgspec.Raw(event) for event in events],
        )  # fmt: skip
        return Outgoing(epoch.epoch, epoch.seq, encode_record(batch), bool(gauges or events))

    def acknowledged(self, partition: int) -> None:
        """Take that the broker has the partition's record in flight; delete what is not needed any more."""
        crash_here("ingress.produced")
        self.lanes[partition].acknowledged()
        if len(self.wal.segments) > 1 and not self._parts:
            self.upkeep.tidy()  # not while there are parts: a request may end between two places

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
        if not self.log.is_rolling:  # else the next segment begins with it
            self.log.append(self._first(), is_said=True)

    def must_sync(self, partition: int) -> bool:
        """Whether the record that was cut last may be sent only after a sync.

        A cut that power loss takes away is cut again, under the same seq. Where nothing that was there has been left
        out of the first one, all that the second one can have besides is younger than the cut, and taken away as well.
        """
        syncer = self.log.syncer
        if syncer is None:
            return False
        return syncer.is_always or bool(self._open) or self.lanes[partition].events.waiting > 0

    # -------------------------------------------------------------------------------------------------- segments

    @property
    def open_admissions(self) -> int:
        """Requests that were admitted and have not ended."""
        return len(self._open)

    @property
    def unsent_events(self) -> int:
        """Events on the log that the broker has not acknowledged."""
        return sum(lane.unsent for lane in self.lanes)

    @property
    def wal_bytes(self) -> int:
        """Size of the log on disk."""
        return self.wal.size

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
        self.log.close(delete)

    def checkpoint(self) -> Checkpoint:
        """Return the state as it is now."""
        return Checkpoint(self.instance, self.epoch, [lane.state for lane in self.lanes])

    def _first(self) -> bytes:
        state = encode(self.checkpoint())
        return self._checkpoint_head.frame(state) + state

    def _ends(self) -> list[tuple[int, int]]:
        return [(lane.events.written, lane.decisions.written) for lane in self.lanes]


def encode_decision_batch(decisions: list[bytes]) -> bytes:
    """Return encoded decisions as the value of a record on `decisions`."""
    return DECISIONS_HEADER + encode([msgspec.Raw(decision) for decision in decisions])


def _nothing() -> None:
    """Do nothing."""


def _crash_then(name: str, then: Callable[[], None]) -> None:
    crash_here(name)
    then()


def _run_all(thens: list[Callable[[], None]]) -> None:
    """Call what waited for the write; the failure of one must not keep others waiting."""
    for then in thens:
        try:
            then()
        except Exception as error:
            context = {"message": "a step after the journal's write failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
