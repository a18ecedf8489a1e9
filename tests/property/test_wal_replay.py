"""A killed replica replays exactly what it had written, once, in the records in which it had been cut."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from ingress.adapters.journal import Journal
from ingress.adapters.recovery import ID, Backlog, Cut, Outgoing
from ingress.adapters.wal import ADMITTED, CUT, EVENT, Segment, Wal, find_segments, read_frames
from ingress.core.admission import Registry
from schemas.codec import decode_event, decode_record
from schemas.usage import Batch, Totals
from tests.unit.ingress.governed import START_MS, event_of

PARTITIONS = 2
STEP = st.tuples(
    st.sampled_from(["admit", "end", "refuse", "refuse", "cut", "ack", "ack", "round", "round", "decide", "switch"]),
    st.integers(0, PARTITIONS - 1),
    st.integers(0, 4),
)
"""What, where, and whether the loop turns afterwards (not at 0)."""
STEPS = st.integers(0, 80).flatmap(lambda count: st.lists(STEP, min_size=count, max_size=count))
Step = tuple[str, int, int]
Key = tuple[int, int, int]
"""Partition, epoch, seq."""


class Told(NamedTuple):
    """A record: the ids of its events, whether it ends its epoch, and what it says was told."""

    events: list[bytes]
    final: bool
    told: Totals


def told_by(record: Outgoing) -> Told:
    """Return what a record says."""
    batch = decode_record(record.value)
    assert isinstance(batch, Batch)
    return Told([decode_event(event).id for event in batch.events], batch.final, batch.told)


class Life:
    """One run of a replica: steps taken, what it had on disk for sure, what the broker got."""

    def __init__(self, path: Path, memory_bytes: int, segment_bytes: int) -> None:
        self.journal = Journal(Wal(path, 7, segment_bytes), Registry(PARTITIONS), "i", 7, memory_bytes=memory_bytes)
        self.path = path
        self.open: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.admitted: set[bytes] = set()
        """Events of admissions whose requests may have reached a provider."""
        self.events = 0
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
            getattr(self, f"_{what}")(partition)
            if turns:
                await asyncio.sleep(0)
        shutil.copytree(self.path, self.path / "crashed")
        self.known = self.durable | self.admitted

    def _event(self) -> bytes:
        self.events += 1
        return event_of(self.events, cost_nanos=None if self.events % 3 else self.events)

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
        assert told.events == sum(len(records[partition, epoch, seq].events) for seq in seqs)


@settings(max_examples=50)
@given(
    steps=STEPS,
    memory=st.sampled_from([0, 1_500, 1 << 20]),
    segment=st.sampled_from([900, 3_000, 1 << 20]),
    data=st.data(),
)
def test_a_kill_loses_nothing_and_repeats_nothing(
    steps: list[Step], memory: int, segment: int, data: st.DataObject
) -> None:
    """Killed after any step, whether or not the broker had the record in flight: each event arrives once."""
    path = Path(tempfile.mkdtemp())
    try:
        life = Life(path, memory, segment)
        asyncio.run(life.run(steps))
        crashed = path / "crashed"
        arrived = life.acked | {key for key in life.flying.values() if data.draw(st.booleans())}
        broker = {key: life.cut[key] for key in arrived}
        again = replay(crashed)
        for key, record in again.items():
            assert broker.setdefault(key, record) == record
        check_whole(broker)
        seen = [event for record in broker.values() for event in record.events]
        assert sorted(seen) == sorted(life.known)
        assert replay(crashed) == again
    finally:
        life.journal.close(delete=False)
        shutil.rmtree(path)


@settings(max_examples=50)
@given(steps=STEPS, segment=st.sampled_from([900, 3_000, 1 << 20]), data=st.data())
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
