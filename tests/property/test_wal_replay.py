"""A killed replica replays exactly what it had written, once, in the records in which it had been cut."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from ingress.adapters import compaction, spool, wal
from ingress.adapters.journal import Journal
from ingress.adapters.marks import ID, Cut, Outgoing, checkpoints, encode
from ingress.adapters.recovery import Backlog
from ingress.adapters.wal import ADMITTED, CUT, EVENT, Segment, Wal, find_segments, read_frames
from ingress.core.admission import Registry
from schemas.codec import decode_event, decode_record, encode_event
from schemas.tokens import TokenUsage
from schemas.usage import Batch, Totals, UsageEvent
from tests.unit.ingress.governed import START_MS, event_of

PARTITIONS = 2
Step = tuple[str, int, int]
STEPS_WITHOUT_FOLDS = (
    "admit", "end", "refuse", "refuse", "burst", "cut", "ack", "ack", "round", "round", "decide", "switch",
)  # fmt: skip
ALL_STEPS = (*STEPS_WITHOUT_FOLDS, "fold", "fold", "pressed")


def steps_of(kinds: tuple[str, ...]) -> st.SearchStrategy[list[Step]]:
    """Return lists of steps: what, where, and whether the loop turns afterwards (not at 0)."""
    step = st.tuples(st.sampled_from(kinds), st.integers(0, PARTITIONS - 1), st.integers(0, 4))
    return st.integers(0, 40).flatmap(lambda count: st.lists(step, min_size=count, max_size=count))


Sums = Counter[tuple[object, ...]]
Key = tuple[int, int, int]
"""Partition, epoch, seq."""


class Told(NamedTuple):
    """A record: the ids of its events, whether it ends its epoch, what it says was told, what its events add up to."""

    events: list[bytes]
    final: bool
    told: Totals
    stands_for: int
    sums: Sums


def told_by(record: Outgoing) -> Told:
    """Return what a record says."""
    batch = decode_record(record.value)
    assert isinstance(batch, Batch)
    events = [decode_event(event) for event in batch.events]
    return Told(
        [event.id for event in events], batch.final, batch.told, sum(map(stands_for, events)), sums_of(events)
    )  # fmt: skip


def stands_for(event: UsageEvent) -> int:
    """Return how many events an event stands for."""
    return 1 if event.detail is None else event.detail.stands_for


def sums_of(events: Iterable[UsageEvent]) -> Sums:
    """Return, by all that folding has to keep apart, what it has to keep."""
    sums: Sums = Counter()
    for event in events:
        kind = (bytes(event.attribution), bytes(event.rows), event.operation, event.status, event.cost_nanos is None)
        values = {
            "events": stands_for(event), "cost": event.cost_nanos or 0, "requests": event.charge_requests,
            "tokens": event.charge_tokens, "nanos": event.charge_nanos, "input": event.usage.input,
            "cached": event.usage.cache_read, "output": event.usage.output,
        }  # fmt: skip
        sums.update({(*kind, name): value for name, value in values.items()})
    return sums


class Stage(NamedTuple):
    """What was on disk, with the broker, and promised to somebody when a fold could have been killed."""

    path: Path
    cut: dict[Key, Told]
    acked: set[Key]
    flying: dict[int, Key]
    known: set[bytes]


class Life:
    """One run of a replica: steps taken, what it had on disk for sure, what the broker got."""

    def __init__(self, path: Path, memory_bytes: int, segment_bytes: int) -> None:
        self.journal = Journal(Wal(path, 7, segment_bytes), Registry(PARTITIONS), "i", 7, memory_bytes=memory_bytes)
        self.path = path
        self.open: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.admitted: set[bytes] = set()
        """Events of admissions whose requests may have reached a provider."""
        self.events = 0
        self.encoded: dict[bytes, UsageEvent] = {}
        """All events by id."""
        self.stages: list[Stage] = []
        """What a kill in the middle of a fold would have left."""
        self.durable: set[bytes] = set()
        """Events whose clients may have been answered."""
        self.known: set[bytes] = set()
        """Both of them, when it was killed."""
        self.cut: dict[Key, Told] = {}
        self.acked: set[Key] = set()
        self.flying: dict[int, Key] = {}

    async def run(self, steps: list[Step]) -> None:
        """Take `steps`, then be killed: the log is left as it is, in `crashed`."""
        for what, partition, turns in steps:
            if what in ("burst", "pressed"):
                await getattr(self, f"_{what}")(partition)
            else:
                getattr(self, f"_{what}")(partition)
            if turns:
                await asyncio.sleep(0)
        self._keep("crashed")
        self.known = self.durable | self.admitted

    async def live_on(self, steps: list[Step]) -> None:
        """Take `steps`, then go on until nothing is left to send."""
        await self.run(steps)
        await asyncio.sleep(0)
        for _ in range(self.events + self.journal.epoch):  # an event a record, and the end of each epoch
            for partition in range(PARTITIONS):
                self._round(partition)
                self._decide(partition)

    def _keep(self, name: str) -> Path:
        """Copy the log as it is now."""
        copy = self.path / name
        copy.mkdir()
        for path in self.path.iterdir():
            if path.is_file():
                shutil.copy(path, copy)
        return copy

    def _event(self) -> bytes:
        self.events += 1
        number = self.events
        event = msgspec.structs.replace(
            decode_event(event_of(number, rows=(f"row-{number % 2}",), cost_nanos=None)),
            cost_nanos=None if number % 3 else number << 30,
            charge_nanos=pow(7, number, (1 << 40) - 87),  # so that no two sets of events have the same sum
            charge_tokens=number,
            usage=TokenUsage(number, 2 * number, 3 * number),
            occurred_ms=START_MS + 1_000 * number,
        )
        self.encoded[event.id] = event
        return encode_event(event)

    def _admit(self, partition: int) -> None:
        event = self._event()

        def then() -> None:
            self.open[partition].append(event)
            self.admitted.add(event[ID])

        self.journal.admitted(partition, event, then)

    def _end(self, partition: int) -> None:
        if self.open[partition]:
            event = self.open[partition].pop(0)
            self.journal.terminal(partition, event, lambda: self.durable.add(event[ID]))

    def _refuse(self, partition: int) -> None:
        event = self._event()
        self.journal.terminal(partition, event, lambda: self.durable.add(event[ID]), b"\x90")

    async def _burst(self, partition: int) -> None:
        for _ in range(8):
            self._refuse(partition)
            await asyncio.sleep(0)

    async def _pressed(self, partition: int) -> None:
        """Let a fold find something in flight and something that waits."""
        self._round(partition)
        self._admit(partition)
        await self._burst(partition)
        self._cut(partition)
        await self._burst(partition)
        self._fold(partition)

    def _round(self, partition: int) -> None:
        self._ack(partition)
        self._cut(partition)
        self._ack(partition)

    def _decide(self, partition: int) -> None:
        if self.journal.take_decisions(partition) is not None:
            self.journal.decisions_acknowledged(partition)

    def _cut(self, partition: int) -> None:
        if partition not in self.flying:
            record = self.journal.cut(partition, START_MS)
            key = self.flying[partition] = (partition, record.epoch, record.seq)
            self.cut[key] = told_by(record)

    def _ack(self, partition: int) -> None:
        if partition in self.flying:
            self.acked.add(self.flying.pop(partition))
            self.journal.acknowledged(partition)

    def _switch(self, partition: int) -> None:
        self.journal.switch_epoch(self.journal.epoch + 1)

    def _fold(self, partition: int) -> None:
        journal = self.journal
        segments = journal.upkeep.hold()
        if segments:
            state = checkpoints.decode(encode(journal.checkpoint()))
            with pytest.MonkeyPatch.context() as patch:
                for module in (compaction, spool, wal):
                    patch.setattr(module, "crash_here", self._stage)
                folded = compaction.fold(compaction.Task(segments, state, 1_000, None, lambda: True))
                replaced = journal.upkeep.take_folded(len(segments), folded)
                spool.delete(replaced)
        journal.upkeep.release()

    def _stage(self, name: str) -> None:
        """Remember what a kill here would leave."""
        copy = self._keep(f"stage-{len(self.stages)}-{name}")
        self.stages.append(
            Stage(copy, dict(self.cut), set(self.acked), dict(self.flying), self.durable | self.admitted)
        )


def replay(path: Path) -> dict[Key, Told]:
    """Return the records that the next run sends."""
    backlog = Backlog(find_segments(path)[7])
    found: dict[Key, Told] = {}
    for partition in range(backlog.partitions):
        for record in backlog.records(partition, START_MS):
            key = (partition, record.epoch, record.seq)
            assert key not in found
            found[key] = told_by(record)
        list(backlog.decisions(partition))
    return found


def on_disk(segments: list[Segment]) -> tuple[set[bytes], set[bytes], list[tuple[int, Cut]]]:
    """Return ids of events, ids of admissions without one, and the cuts."""
    events: set[bytes] = set()
    admitted: set[bytes] = set()
    cuts: list[tuple[int, Cut]] = []
    for segment in segments:
        for frame in read_frames(segment.path):
            if frame.kind == EVENT:
                events.add(frame.payload[ID])
            elif frame.kind == ADMITTED:
                admitted.add(frame.payload[ID])
            elif frame.kind == CUT:
                cuts.append((frame.partition, msgspec.msgpack.decode(frame.payload, type=Cut)))
    return events, admitted - events, cuts


def check_whole(records: dict[Key, Told]) -> None:
    """Every epoch counts from one without a gap, ends once, and its last word is the sum of its events."""
    for partition, epoch in {key[:2] for key in records}:
        seqs = sorted(seq for p, e, seq in records if (p, e) == (partition, epoch))
        assert seqs == list(range(1, len(seqs) + 1))
        assert [records[partition, epoch, seq].final for seq in seqs] == [False] * (len(seqs) - 1) + [True]
        told = records[partition, epoch, seqs[-1]].told
        assert told.events == sum(records[partition, epoch, seq].stands_for for seq in seqs)


def check_stage(stage: Stage, encoded: dict[bytes, UsageEvent], arrives: Callable[[], bool]) -> None:
    """What the broker has and what is replayed, twice and by anybody, is each known event once, in sums."""
    arrived = stage.acked | {key for key in stage.flying.values() if arrives()}
    broker = {key: stage.cut[key] for key in arrived}
    again = replay(stage.path)
    for key, record in again.items():
        assert broker.setdefault(key, record) == record
    check_whole(broker)
    seen: Sums = Counter()
    for record in broker.values():
        seen.update(record.sums)
    assert seen == sums_of(encoded[event] for event in stage.known)
    ids = [event for record in broker.values() for event in record.events]
    assert len(ids) == len(set(ids))
    assert set(ids) <= stage.known
    assert replay(stage.path) == again


@settings(max_examples=40)
@given(
    steps=steps_of(ALL_STEPS),
    memory=st.sampled_from([0, 1_500, 1 << 20]),
    segment=st.sampled_from([900, 900, 3_000, 1 << 20]),
    data=st.data(),
)
def test_a_kill_loses_nothing_and_repeats_nothing(
    steps: list[Step], memory: int, segment: int, data: st.DataObject
) -> None:
    """Killed after any step or within a fold, whether or not the broker had what was in flight: each event once."""
    path = Path(tempfile.mkdtemp())
    try:
        life = Life(path, memory, segment)
        asyncio.run(life.run(steps))
        stage = Stage(path / "crashed", life.cut, life.acked, life.flying, life.known)
        for each in [
            stage,
            *data.draw(st.lists(st.sampled_from(life.stages), max_size=3) if life.stages else st.just([])),
        ]:
            check_stage(each, life.encoded, lambda: data.draw(st.booleans()))
    finally:
        life.journal.close(delete=False)
        shutil.rmtree(path)


@settings(max_examples=60)
@given(
    steps=steps_of(ALL_STEPS),
    memory=st.sampled_from([0, 1_500, 1 << 20]),
    segment=st.sampled_from([900, 900, 3_000, 1 << 20]),
    most=st.sampled_from([1, 2, 5, 256]),
)
def test_who_is_not_killed_sends_everything(steps: list[Step], memory: int, segment: int, most: int) -> None:
    """However records and segments end, and whenever segments go: each event once, and nothing stays on the log."""
    path = Path(tempfile.mkdtemp())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ingress.adapters.journal.MAX_EVENTS_PER_RECORD", most)
            life = Life(path, memory, segment)
            asyncio.run(life.live_on(steps))
        sums: Sums = Counter()
        for key in life.acked:
            sums.update(life.cut[key].sums)
        assert life.journal.unsent_events == 0
        assert sums == sums_of(life.encoded[event] for event in life.durable)
        assert not any(lane.decisions.waiting for lane in life.journal.lanes)
    finally:
        life.journal.close(delete=False)
        shutil.rmtree(path)


@settings(max_examples=40)
@given(steps=steps_of(STEPS_WITHOUT_FOLDS), segment=st.sampled_from([900, 3_000, 1 << 20]), data=st.data())
def test_a_torn_end_loses_only_what_was_torn(steps: list[Step], segment: int, data: st.DataObject) -> None:
    """Cut at any byte of its last file, a log replays what is whole in it, in the records whose cuts are whole."""
    path = Path(tempfile.mkdtemp())
    try:
        life = Life(path, 1 << 20, segment)
        asyncio.run(life.run(steps))
        crashed = path / "crashed"
        last = find_segments(crashed)[7][-1]
        with last.path.open("r+b") as file:
            file.truncate(data.draw(st.integers(0, last.size), label="bytes left"))
        events, orphans, cuts = on_disk(find_segments(crashed)[7])
        again = replay(crashed)
        records = {(partition, cut.epoch, cut.seq): life.cut[partition, cut.epoch, cut.seq] for partition, cut in cuts}
        for key in records.keys() & again.keys():
            assert again[key] == records[key]
        in_a_cut = {event for record in records.values() for event in record.events}
        in_the_last = {event for key in {key[0]: key for key in records}.values() for event in records[key].events}
        seen = [event for record in again.values() for event in record.events]
        assert len(seen) == len(set(seen))
        assert set(seen) - in_the_last == events - in_a_cut | orphans
    finally:
        life.journal.close(delete=False)
        shutil.rmtree(path)
