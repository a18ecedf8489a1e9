"""The journal: one write a loop iteration, records cut from what is written, segments that come and go."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from ingress.adapters.epochs import StateDir
from ingress.adapters.journal import Journal, JournalClosed
from ingress.adapters.marks import ID, Outgoing
from ingress.adapters.recovery import Backlog
from ingress.adapters.wal import EVENT, SEGMENT_BYTES, Head, Wal, WalCorrupt, find_segments, read_frames
from ingress.core.admission import Registry
from schemas.codec import decode_decisions, decode_event, decode_record
from schemas.decisions import Decision
from schemas.errors import ConfigError
from schemas.published import MAX_EVENTS_PER_RECORD
from schemas.usage import Attribution, Batch
from tests.unit.ingress.governed import START_MS, event_of, held, member_of, plan_of, resolver_of


def journal_of(path: Path, *, segment_bytes: int = SEGMENT_BYTES, memory_bytes: int = 1 << 20) -> Journal:
    """Return a journal of epoch 7 with two partitions."""
    return Journal(Wal(path, 7, segment_bytes), Registry(2), "ingress-1", 7, memory_bytes=memory_bytes)


def nothing() -> None:
    """Wait for nothing."""


def batch_of(record: Outgoing) -> Batch:
    """Return the record as the meter reads it."""
    batch = decode_record(record.value)
    assert isinstance(batch, Batch)
    assert (batch.epoch, batch.seq) == (record.epoch, record.seq)
    return batch


def ids(batch: Batch) -> list[int]:
    """Return the numbers of a record's events."""
    return [int.from_bytes(decode_event(event).id, "big") for event in batch.events]


def decision_of(number: int) -> bytes:
    """Return an encoded decision."""
    return msgspec.msgpack.encode(
        Decision(number.to_bytes(16, "big"), bytes(16), 1, "i", "refuse", "rpm", Attribution())
    )


def test_an_events_id_is_where_the_journal_looks() -> None:
    """The journal reads ids without decoding events."""
    assert event_of(77)[ID] == decode_event(event_of(77)).id


async def test_one_write_an_iteration_then_what_waited_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything journalled in an iteration is written at once and before anybody is told, in order."""
    journal = journal_of(tmp_path)
    writes: list[bytes] = []
    told: list[tuple[str, int]] = []
    write = os.write

    def watched(file: int, data: memoryview) -> int:
        writes.append(bytes(data))
        return write(file, data)

    monkeypatch.setattr(os, "write", watched)
    journal.admitted(0, event_of(1), lambda: told.append(("sent", len(writes))))
    journal.terminal(1, event_of(2), lambda: told.append(("answered", len(writes))), decision_of(2))
    assert (writes, told) == ([], [])
    await asyncio.sleep(0)
    assert len(writes) == 1
    assert told == [("sent", 1), ("answered", 1)]
    assert journal.open_admissions == 1


async def test_a_failing_step_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """Each waits for the disk, none for another."""
    journal = journal_of(tmp_path)
    told: list[int] = []
    faults: list[BaseException] = []

    def fail() -> None:
        raise RuntimeError("gone")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    try:
        journal.terminal(0, event_of(1), fail)
        journal.terminal(0, event_of(2), lambda: told.append(2))
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert told == [2]
    assert [str(fault) for fault in faults] == ["gone"]


async def test_a_failed_write_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told, the process is told to stop, and nothing more is taken."""
    journal = journal_of(tmp_path)
    told: list[int] = []
    faults: list[BaseException] = []
    journal.log._on_fault = faults.append

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: None)
    try:
        monkeypatch.setattr(os, "write", full)
        journal.terminal(0, event_of(1), lambda: told.append(1))
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert told == []
    assert len(faults) == 1
    with pytest.raises(JournalClosed, match="No space"):
        journal.terminal(0, event_of(2), nothing)


async def test_records_are_cut_in_order_and_noted_before_they_are_sent(tmp_path: Path) -> None:
    """Seq counts from one in each partition; told adds up; a killed process finds the same cut again."""
    journal = journal_of(tmp_path)
    for number in range(1, 4):
        journal.terminal(0, event_of(number), nothing)
    journal.terminal(1, event_of(9), nothing)
    await asyncio.sleep(0)
    first = journal.cut(0, START_MS, policy_version=4)
    batch = batch_of(first)
    assert (batch.instance, batch.seq, batch.policy_version, batch.final) == ("ingress-1", 1, 4, False)
    assert ids(batch) == [1, 2, 3]
    assert (batch.told.events, batch.told.input_tokens, batch.told.cost_nanos) == (3, 9, 15)
    assert ids(batch_of(journal.cut(1, START_MS))) == [9]
    replayed = next(iter(Backlog(find_segments(tmp_path)[7]).records(0, 0)))
    assert replayed[:3] == first[:3]
    journal.acknowledged(0)
    journal.terminal(0, event_of(4), nothing)
    await asyncio.sleep(0)
    second = batch_of(journal.cut(0, START_MS))
    assert (second.seq, ids(second), second.told.events) == (2, [4], 4)
    assert journal.unsent_events == 2
    assert journal.cuts == 3


async def test_a_record_holds_a_bounded_number_of_events(tmp_path: Path) -> None:
    """The rest follows."""
    journal = journal_of(tmp_path)
    for number in range(MAX_EVENTS_PER_RECORD + 1):
        journal.terminal(0, event_of(number), nothing)
    await asyncio.sleep(0)
    assert len(batch_of(journal.cut(0, START_MS)).events) == MAX_EVENTS_PER_RECORD
    journal.acknowledged(0)
    assert ids(batch_of(journal.cut(0, START_MS))) == [MAX_EVENTS_PER_RECORD]


async def test_events_beyond_the_memory_are_read_back_from_disk(tmp_path: Path) -> None:
    """In order, over several segments, and back to memory when all of them are through."""
    size = len(event_of(0))
    journal = journal_of(tmp_path, segment_bytes=10 * size, memory_bytes=3 * size)
    seen: list[int] = []
    expected = []
    for number in range(60):
        journal.terminal(number % 2, event_of(number), nothing)
        expected += [number] * (number % 2 == 0)
        await asyncio.sleep(0)
        if number in (20, 40, 41, 42):
            seen += ids(batch_of(journal.cut(0, START_MS)))
            journal.acknowledged(0)
    seen += ids(batch_of(journal.cut(0, START_MS)))
    assert seen == expected


async def test_a_log_that_lacks_what_waits_on_it_is_a_fault(tmp_path: Path) -> None:
    """A lane that would find nothing for ever ends the process instead."""
    journal = journal_of(tmp_path, memory_bytes=0)
    journal.terminal(0, event_of(1), nothing)
    await asyncio.sleep(0)
    journal.wal.segments[0].truncate(0)
    with pytest.raises(WalCorrupt, match="partition 0: 1 payloads are written"):
        journal.cut(0, START_MS)


async def test_decisions_travel_in_batches_of_their_own(tmp_path: Path) -> None:
    """In the order of their refusals, once."""
    journal = journal_of(tmp_path)
    for number in (1, 2):
        journal.terminal(0, event_of(number), nothing, decision_of(number))
    assert journal.take_decisions(0) is None
    await asyncio.sleep(0)
    value = journal.take_decisions(0)
    assert value is not None
    assert [decision.id[-1] for decision in decode_decisions(value)] == [1, 2]
    assert not journal.is_idle
    journal.decisions_acknowledged(0)
    assert journal.take_decisions(0) is None


async def test_segments_go_when_all_of_them_is_acknowledged(tmp_path: Path) -> None:
    """An admission that goes on is carried over, so that its request is still told of after a kill."""
    size = len(event_of(0))
    journal = journal_of(tmp_path, segment_bytes=4 * size)
    journal.admitted(1, event_of(99), nothing)
    for number in range(20):
        journal.terminal(0, event_of(number), nothing)
        await asyncio.sleep(0)
    before = len(find_segments(tmp_path)[7])
    journal.cut(0, START_MS)
    journal.cut(1, START_MS)
    journal.acknowledged(0)
    journal.acknowledged(1)
    segments = find_segments(tmp_path)[7]
    assert (before > 3, len(segments)) == (True, 1)
    assert journal.wal_bytes == segments[0].size
    records = [decode_record(record.value) for record in Backlog(segments).records(1, 0)]
    assert [
        decode_event(event).id[-1] for record in records if isinstance(record, Batch) for event in record.events
    ] == [99]


async def test_no_segment_goes_between_an_end_and_its_write(tmp_path: Path) -> None:
    """A request that has ended in memory only is still told of by its admission."""
    journal = journal_of(tmp_path, segment_bytes=200)
    journal.admitted(0, event_of(1), nothing)
    await asyncio.sleep(0)
    journal.cut(0, START_MS)
    journal.terminal(0, event_of(1), nothing)
    journal.acknowledged(0)
    assert len(find_segments(tmp_path)[7]) == 2
    assert ids(batch_of(list(Backlog(find_segments(tmp_path)[7]).records(0, 0))[-1])) == [1]
    await asyncio.sleep(0)
    journal.cut(0, START_MS)
    journal.acknowledged(0)
    assert len(find_segments(tmp_path)[7]) == 1


async def test_a_segment_stays_while_something_in_it_is_needed(tmp_path: Path) -> None:
    """Events that are not acknowledged, and decisions that are not, keep it."""
    journal = journal_of(tmp_path, segment_bytes=200)
    journal.terminal(0, event_of(1), nothing, decision_of(1))
    await asyncio.sleep(0)
    journal.terminal(0, event_of(2), nothing)
    await asyncio.sleep(0)
    journal.cut(0, START_MS)
    journal.acknowledged(0)
    assert len(find_segments(tmp_path)[7]) == 3
    journal.take_decisions(0)
    journal.decisions_acknowledged(0)
    journal.cut(0, START_MS)
    journal.acknowledged(0)
    assert len(find_segments(tmp_path)[7]) == 1


async def test_a_new_epoch_joins_before_the_old_one_ends(tmp_path: Path) -> None:
    """Its first record carries what is in flight; then the old epoch gets its final record, and counts go on."""
    registry = member_of(Registry(1))
    journal = Journal(Wal(tmp_path, 7), registry, "ingress-1", 7)
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 100, 0))
    journal.terminal(0, event_of(1), nothing)
    await asyncio.sleep(0)
    journal.cut(0, START_MS)
    journal.switch_epoch(8)  # while a record of the old epoch is in flight
    journal.terminal(0, event_of(2), nothing)
    await asyncio.sleep(0)
    journal.acknowledged(0)
    join = batch_of(journal.cut(0, START_MS))
    assert (join.epoch, join.seq, ids(join), join.told.events) == (8, 1, [2], 1)
    assert [gauge.inflight for gauge in join.gauges if "/tokens/" in gauge.row] == [100]
    journal.acknowledged(0)
    end = batch_of(journal.cut(0, START_MS))
    assert (end.epoch, end.seq, end.final, end.told.events, end.gauges) == (7, 2, True, 1, [])
    journal.acknowledged(0)
    assert batch_of(journal.cut(0, START_MS)).seq == 2


async def test_the_clean_end_leaves_nothing(tmp_path: Path) -> None:
    """After the final record the log is deleted, and nothing more is taken."""
    journal = journal_of(tmp_path)
    journal.terminal(0, event_of(1), nothing)
    await asyncio.sleep(0)
    for partition in (0, 1):
        assert batch_of(journal.cut(partition, START_MS, final=True)).final
        journal.acknowledged(partition)
    assert journal.is_idle
    journal.close(delete=True)
    assert find_segments(tmp_path) == {}
    with pytest.raises(JournalClosed):
        journal.admitted(0, event_of(2), nothing)


async def test_what_is_not_over_stays_on_disk(tmp_path: Path) -> None:
    """Closing without the end keeps the log for the next run."""
    journal = journal_of(tmp_path)
    journal.terminal(0, event_of(1), nothing)
    await asyncio.sleep(0)
    journal.close(delete=False)
    (segment,) = find_segments(tmp_path)[7]
    assert sum(frame.kind == EVENT for frame in read_frames(segment.path)) == 1


async def damaged(path: Path) -> list[Path]:
    """Return the segments of a log of which nothing is acknowledged."""
    journal = journal_of(path, segment_bytes=200)
    for number in range(3):
        journal.terminal(0, event_of(number), nothing)
        await asyncio.sleep(0)
    journal.cut(0, START_MS)
    journal.close(delete=False)
    return [segment.path for segment in find_segments(path)[7]]


async def test_of_several_admissions_of_a_request_the_last_counts(tmp_path: Path) -> None:
    """A reservation that has grown is journalled again: a replay charges what was held in the end, once."""
    journal = journal_of(tmp_path)
    journal.admitted(0, event_of(1, cost_nanos=5), nothing)
    journal.admitted(0, event_of(2, cost_nanos=6), nothing)
    await asyncio.sleep(0)
    journal.admitted(0, event_of(1, cost_nanos=50), nothing)
    journal.terminal(0, event_of(2, cost_nanos=60), nothing)
    await asyncio.sleep(0)
    assert journal.open_admissions == 1
    journal.close(delete=False)
    backlog = Backlog(find_segments(tmp_path)[7])
    events = [decode_event(event) for record in backlog.records(0, START_MS) for event in batch_of(record).events]
    assert [(event.id[-1], event.cost_nanos) for event in events] == [(2, 60), (1, 50)]


async def test_a_log_that_is_torn_in_its_middle_is_not_used(tmp_path: Path) -> None:
    """Only the last segment can have been torn by an end of this machine."""
    first = (await damaged(tmp_path))[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(WalCorrupt, match="later segments exist"):
        Backlog(find_segments(tmp_path)[7])


async def test_a_file_that_is_no_log_of_ours_is_not_used(tmp_path: Path) -> None:
    """A segment begins with a checkpoint and holds known frames."""
    paths = await damaged(tmp_path)
    whole = paths[0].read_bytes()
    frames = list(read_frames(paths[0]))
    paths[0].write_bytes(whole[frames[1].start :])
    with pytest.raises(WalCorrupt, match="checkpoint"):
        Backlog(find_segments(tmp_path)[7])
    paths[0].write_bytes(whole + Head(99, 0).frame(b"") + b"")
    with pytest.raises(WalCorrupt, match="unknown kind 99"):
        Backlog(find_segments(tmp_path)[7])


async def test_a_log_that_changes_under_a_replay_is_a_fault(tmp_path: Path) -> None:
    """Events that were there and are gone are never left out silently."""
    await damaged(tmp_path)
    backlog = Backlog(find_segments(tmp_path)[7])
    last = backlog.segments[-1]
    uncut = backlog.lanes[0].state
    for keep in (True, False):
        if not keep:
            uncut.last, uncut.through = None, 0
        backlog.segments[1].path.write_bytes(
            backlog.segments[0].path.read_bytes()[: next(iter(read_frames(last.path))).end]
        )
        with pytest.raises(WalCorrupt, match="missing"):
            list(backlog.records(0, 0))


def test_a_segment_without_its_first_frame_is_empty(tmp_path: Path) -> None:
    """A kill between making a file and writing to it leaves nothing to replay, and is no fault."""
    (tmp_path / f"{7:020d}-{1:010d}.wal").write_bytes(b"")
    backlog = Backlog(find_segments(tmp_path)[7])
    assert backlog.partitions == 0
    backlog.delete()
    assert find_segments(tmp_path) == {}


async def test_a_disk_that_is_full_when_a_segment_ends_stops_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is told of; then nothing more is taken."""
    journal = journal_of(tmp_path, segment_bytes=200)
    told: list[int] = []
    faults: list[BaseException] = []
    journal.log._on_fault = faults.append

    def full(path: Path, flags: int, mode: int) -> int:
        raise OSError(28, "No space left on device")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: None)
    try:
        monkeypatch.setattr(os, "open", full)
        journal.terminal(0, event_of(1), lambda: told.append(1))
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert told == [1]
    assert len(faults) == 1
    with pytest.raises(JournalClosed, match="no new segment"):
        journal.terminal(0, event_of(2), nothing)


def test_epochs_rise_with_every_start(tmp_path: Path) -> None:
    """Also when the clock goes back, and past the clock when the disk is new."""
    state = StateDir(tmp_path / "state")
    assert state.next_epoch(1_000) == 1_000
    assert state.next_epoch(1_000) == 1_001
    state.release()
    again = StateDir(tmp_path / "state")
    assert again.next_epoch(5) == 1_002
    with pytest.raises(ConfigError, match="another ingress uses it"):
        StateDir(tmp_path / "state")
    again.release()
