"""A log near its bound, and a disk that is full: sums, then no new requests, and nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingress.adapters.compaction import SUFFIX
from ingress.adapters.journal import Journal, JournalClosed
from ingress.adapters.leftover import left_behind
from ingress.adapters.recovery import Backlog
from ingress.adapters.reserve import LOG, Reserve
from ingress.adapters.spool import Bound, Spool
from ingress.adapters.wal import Wal, WalCorrupt, find_segments
from ingress.core.admission import Registry
from schemas.codec import decode_event, decode_record
from schemas.usage import Batch, Totals
from tests.unit.ingress.governed import START_MS, event_of
from tests.unit.ingress.test_journal import decision_of, nothing

DEADLINE_S = 10.0
SEGMENT = 4_000


class Lab:
    """A journal with a spool, on a disk that can be full."""

    def __init__(self, path: Path, max_bytes: int = 1 << 30, max_age_s: int = 60) -> None:
        self.path = path
        self.now_ms = START_MS
        self.faults: list[BaseException] = []
        self.told: list[int] = []
        self.reserve = Reserve(path, SEGMENT)
        self.journal = Journal(
            Wal(path, 7, SEGMENT), Registry(2), "i", 7, on_fault=self.faults.append,
            take_reserve=lambda: self.reserve.take(LOG),
        )  # fmt: skip
        self.spool = Spool(
            self.journal, Bound(max_bytes, max_age_s), self.reserve, backlog_bytes=lambda: 0,
            backlog_since_ms=lambda: 0, now_ms=lambda: self.now_ms,
        )  # fmt: skip
        self.problems: list[str] = []
        self.spool.on_problem = lambda: self.problems.append(self.spool.problem)
        self.events = 0

    async def write(self, count: int, decide: bool = False, rows: Callable[[int], str] = lambda number: "") -> None:
        """Write so many events."""
        for _ in range(count):
            self.events += 1
            number = self.events
            decisions = (decision_of(number),) if decide else ()
            event = event_of(number, rows=(rows(number),), cost_nanos=number)
            self.journal.terminal(number % 2, event, functools.partial(self.told.append, number), *decisions)
            await asyncio.sleep(0)

    async def fill(self, count: int, **options: Any) -> None:
        """Write some events; none while a fold is under way, which takes longer than they do here."""
        await self.write(count, **options)
        await self.until(lambda: self.spool._folding is None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.spool.look()
                await asyncio.sleep(0.002)

    def send_all(self) -> Totals:
        """Bring everything to the broker; return its sums, which each partition's last word has to be."""
        sums, told = Totals(), 0
        for partition in (0, 1):
            while True:
                batch = decode_record(self.journal.cut(partition, START_MS).value)
                assert isinstance(batch, Batch)
                for event in batch.events:
                    sums.add(decode_event(event))
                self.journal.acknowledged(partition)
                if self.journal.take_decisions(partition) is not None:
                    self.journal.decisions_acknowledged(partition)
                if not self.journal.lanes[partition].events.waiting:
                    break
            told += batch.told.events
        assert told == sums.events
        return sums


def expected(count: int) -> Totals:
    """Return the sums of the first `count` events."""
    sums = Totals()
    for number in range(1, count + 1):
        sums.add(decode_event(event_of(number, cost_nanos=number)))
    return sums


def replayed(path: Path) -> Totals:
    """Return the sums of what the next run would send."""
    sums = Totals()
    for backlog in left_behind(path, 2, 1 << 30):
        for partition in range(backlog.partitions):
            for record in backlog.records(partition, START_MS):
                batch = decode_record(record.value)
                assert isinstance(batch, Batch)
                for event in batch.events:
                    sums.add(decode_event(event))
    return sums


async def test_a_log_near_its_bound_is_folded_and_goes_on(tmp_path: Path) -> None:
    """First an alarm, then sums; requests go on, and what reaches the broker adds up to all of it."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    while not lab.spool.alarm:
        await lab.write(1)
    assert not lab.spool.problem
    assert lab.spool.size >= 0.8 * 20 * SEGMENT
    while not lab.spool.folds:
        await lab.fill(5)
    await lab.until(lambda: not lab.spool.alarm)
    assert lab.spool.size < 0.5 * 20 * SEGMENT
    assert lab.problems == []
    await lab.write(50)
    assert lab.told == list(range(1, lab.events + 1))
    assert lab.spool.folded_events > 100
    sums = lab.send_all()
    assert sums == expected(lab.events)
    assert lab.journal.is_idle
    assert len(find_segments(tmp_path)[7]) == 1


async def test_the_next_run_sends_the_sums_too(tmp_path: Path) -> None:
    """Also when it was killed after the fold, and folds again because it may keep less."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    lab.journal.admitted(0, event_of(10_000, cost_nanos=7), nothing)
    while not lab.spool.folds:
        await lab.fill(5)
    await lab.write(60)
    lab.journal.close(delete=False)
    (tmp_path / f"x{SUFFIX}").write_bytes(b"half a fold")
    found = replayed(tmp_path)
    orphan = expected(lab.events)
    orphan.add(decode_event(event_of(10_000, cost_nanos=7)))
    assert found == orphan
    before = sum(backlog.size for backlog in left_behind(tmp_path, 2, 1 << 30))
    left_behind(tmp_path, 2, before)
    assert len(find_segments(tmp_path)[7]) == 1
    assert sum(segment.size for segment in find_segments(tmp_path)[7]) < before / 4
    assert replayed(tmp_path) == orphan


async def test_what_does_not_fold_stops_new_requests_until_there_is_room(tmp_path: Path) -> None:
    """Each event is in a row of its own: at the bound there is a problem, and none once the broker has them."""
    lab = Lab(tmp_path, max_bytes=10 * SEGMENT)
    while not lab.spool.problem:
        await lab.fill(3, rows=str)
    assert "all that it may keep" in lab.spool.problem
    await lab.write(5, rows=str)  # what was admitted before ends
    assert lab.told == list(range(1, lab.events + 1))
    await lab.until(lambda: lab.spool._folding is None)
    assert lab.send_all() == expected(lab.events)
    await lab.until(lambda: not lab.spool.problem)
    assert [bool(problem) for problem in lab.problems] == [True, False]


async def test_decisions_go_only_where_they_do_not_fit(tmp_path: Path) -> None:
    """They are detail as well: kept while there is room, counted when they are given up; the sums stay."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    while lab.spool.dropped_decisions == 0:
        await lab.fill(4, decide=True)
    assert lab.spool.folds > 1
    assert lab.spool.dropped_decisions < lab.events
    assert lab.send_all() == expected(lab.events)
    assert lab.journal.is_idle


async def test_old_events_are_an_alarm_only(tmp_path: Path) -> None:
    """The clock starts with the first event that waits, and stops when the broker has all of them."""
    lab = Lab(tmp_path, max_age_s=60)
    await lab.write(1)
    lab.spool.look()
    lab.now_ms += 61_000
    lab.spool.look()
    assert (lab.spool.oldest_ms, lab.spool.problem) == (61_000, "")
    assert "more than 60 s" in lab.spool.alarm
    lab.send_all()
    lab.spool.look()
    assert (lab.spool.oldest_ms, lab.spool.alarm) == (0, "")


class FullDisk:
    """Takes writes into room that files have, and no others; one write may fail in another way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self.code = errno.ENOSPC
        write, fallocate, self._open = os.write, os.posix_fallocate, os.open

        def limited(file: int, data: memoryview) -> int:
            end = os.lseek(file, 0, os.SEEK_CUR) + len(data)
            if self.is_full and end > os.fstat(file).st_size:
                write(file, data[: len(data) // 2])  # what a disk does that fills up in the middle
                raise OSError(self.code, os.strerror(self.code))
            return write(file, data)

        def limited_fallocate(file: int, offset: int, size: int) -> None:
            if self.is_full:
                raise OSError(self.code, os.strerror(self.code))
            fallocate(file, offset, size)

        monkeypatch.setattr(os, "write", limited)
        monkeypatch.setattr(os, "posix_fallocate", limited_fallocate)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_ends_nothing_that_was_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The reserve takes it; nothing new is admitted; folding makes room for a new reserve, and all goes on."""
    lab = Lab(tmp_path)
    await lab.write(40)
    disk = FullDisk(monkeypatch)
    disk.code = code
    await lab.write(3)
    assert lab.told == list(range(1, 44))
    assert lab.faults == []
    assert "its disk is full" in lab.problems[0]
    lab.journal.cut(0, START_MS)  # a record may be cut then, too
    await lab.until(lambda: lab.spool.folds)
    assert lab.spool.problem, "the disk is still full"
    disk.is_full = False
    await lab.until(lambda: not lab.spool.problem)
    await lab.write(60)
    assert lab.told == list(range(1, lab.events + 1))
    lab.journal.close(delete=False)
    assert replayed(tmp_path) == expected(lab.events)


async def test_a_cut_that_finds_the_disk_full_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segment that begins in the reserve says it; a kill afterwards replays the same record."""
    lab = Lab(tmp_path)
    await lab.write(8)
    FullDisk(monkeypatch)
    record = lab.journal.cut(0, START_MS)
    lab.journal.close(delete=False)
    again = next(iter(Backlog(find_segments(tmp_path)[7]).records(0, 0)))
    assert again[:3] == record[:3]
    assert replayed(tmp_path) == expected(8)


async def test_a_reserve_that_is_used_up_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of what is not on the disk; the process has to stop, and the next one has what was told."""
    lab = Lab(tmp_path)
    await lab.write(8)
    FullDisk(monkeypatch)
    monkeypatch.setattr(lab.spool, "_is_stopping", True)  # nobody folds
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: None)
    try:
        with pytest.raises(JournalClosed):
            await lab.write(100)
    finally:
        loop.set_exception_handler(None)
    assert [type(fault) for fault in lab.faults] == [OSError]
    lab.journal.close(delete=False)
    assert replayed(tmp_path) == expected(len(lab.told))


async def test_a_disk_that_fails_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input/output error is no lack of room: no reserve is tried."""
    lab = Lab(tmp_path)
    disk = FullDisk(monkeypatch)
    disk.code = errno.EIO
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: None)
    try:
        with pytest.raises(JournalClosed):
            await lab.write(2)
    finally:
        loop.set_exception_handler(None)
    assert lab.told == []
    assert len(lab.faults) == 1
    assert lab.reserve.is_whole


async def test_a_fold_that_is_not_wanted_any_more_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """A stop does not wait for it, and what waits is sent as it is."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    lab.spool.folds = -1
    while lab.spool._folding is None:
        await lab.write(1)
    await lab.spool.stop()
    assert lab.send_all() == expected(lab.events)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(SUFFIX)]


async def test_a_log_that_cannot_be_read_is_not_folded(tmp_path: Path) -> None:
    """It stays for a person to look at; the replica goes on."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    await lab.write(30)
    path = lab.journal.wal.segments[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + b"\xff" + whole[301:])
    while lab.spool._folding is None:
        await lab.write(1)
    await lab.until(lambda: lab.spool._folding is None)
    assert lab.spool.folds == 0
    with pytest.raises(WalCorrupt):
        Backlog(find_segments(tmp_path)[7])


async def test_a_start_on_a_full_disk_makes_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the killed run has left is folded into its own reserve; then there is room for the next run."""
    lab = Lab(tmp_path)
    await lab.write(60)
    lab.journal.close(delete=False)
    lab.reserve.path(LOG).unlink()  # it was used when the disk became full
    disk = FullDisk(monkeypatch)
    reserve = Reserve(tmp_path, SEGMENT)
    (backlog,) = left_behind(tmp_path, 2, 1 << 30, reserve)
    assert not reserve.is_whole
    reserve = Reserve(tmp_path, SEGMENT)
    disk.is_full = False
    (same,) = left_behind(tmp_path, 2, 1 << 30, reserve)
    assert (reserve.is_whole, same.size) == (True, backlog.size)
    assert replayed(tmp_path) == expected(60)


async def test_a_fold_that_goes_wrong_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are sent as before, and the process is told to stop: it does not know what its log says."""
    lab = Lab(tmp_path, max_bytes=20 * SEGMENT)
    faults: list[BaseException] = []
    lab.spool._on_fault = faults.append

    def wrong(task: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("ingress.adapters.spool.fold", wrong)
    while not faults:
        await lab.write(1)
        await asyncio.sleep(0)
    assert lab.send_all() == expected(lab.events)
