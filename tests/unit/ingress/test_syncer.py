"""When the log is synced, who waits for it, and that the loop does not."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingress.adapters.journal import Journal
from ingress.adapters.safety import Safety
from ingress.adapters.syncer import Syncer
from ingress.adapters.wal import Wal, find_segments
from ingress.core.admission import Registry
from ingress.settings import Fsync
from tests.unit.ingress.governed import START_MS, event_of
from tests.unit.ingress.test_journal import nothing

DEADLINE_S = 5.0


class Disk:
    """Syncs when it may."""

    def __init__(self) -> None:
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.begun = 0
        self.fault: OSError | None = None

    def fdatasync(self, file: int) -> None:
        """Sync, once it may."""
        self.begun += 1
        assert self.may_sync.wait(DEADLINE_S)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Put the disk in place."""
    found = Disk()
    monkeypatch.setattr(os, "fdatasync", found.fdatasync)
    yield found
    found.may_sync.set()


class Lab:
    """A journal that is synced."""

    def __init__(self, path: Path, policy: Fsync, segment_bytes: int = 1 << 20) -> None:
        self.faults: list[BaseException] = []
        self.told: list[int] = []
        wal = Wal(path, 7, segment_bytes)
        syncer = Safety(policy, 50).syncer_of(wal, self.faults.append)
        assert syncer is not None
        self.syncer: Syncer = syncer
        self.journal = Journal(wal, Registry(1), "i", 7, on_fault=self.faults.append, syncer=syncer)

    async def write(self, *numbers: int) -> None:
        """Write events, each in an iteration of its own."""
        for number in numbers:
            self.journal.terminal(0, event_of(number), lambda number=number: self.told.append(number))  # type: ignore[misc]  # the default binds it
            await asyncio.sleep(0)

    async def until(self, *told: int) -> None:
        """Wait until these were told."""
        async with asyncio.timeout(DEADLINE_S):
            while self.told != list(told):
                await asyncio.sleep(0.001)


async def test_always_tells_nobody_before_the_sync(tmp_path: Path, disk: Disk) -> None:
    """The loop goes on meanwhile; what comes during a sync shares the next one."""
    lab = Lab(tmp_path, "always")
    await lab.syncer.wait()
    disk.may_sync.clear()
    begun = disk.begun
    await lab.write(1, 2, 3)
    await asyncio.sleep(0.02)
    assert lab.told == []
    assert lab.syncer.unsynced_bytes > 0
    assert lab.journal.must_sync(0)
    disk.may_sync.set()
    await lab.until(1, 2, 3)
    assert disk.begun == begun + 2
    assert lab.syncer.unsynced_bytes == 0
    assert sum(lab.syncer.latencies.buckets) >= 2
    assert lab.syncer.latencies.worst_ms >= 15
    lab.journal.close(delete=False)


async def test_an_interval_keeps_nobody_waiting(tmp_path: Path, disk: Disk) -> None:
    """Told at once, synced within the interval, once for all of it; nothing is synced while nothing is written."""
    lab = Lab(tmp_path, "interval")
    await lab.syncer.wait()
    begun = disk.begun
    await lab.write(1, 2, 3)
    assert (lab.told, disk.begun) == ([1, 2, 3], begun)
    async with asyncio.timeout(DEADLINE_S):
        while lab.syncer.unsynced_bytes:
            await asyncio.sleep(0.005)
    assert disk.begun == begun + 1
    await asyncio.sleep(0.12)
    assert disk.begun == begun + 1
    lab.journal.close(delete=False)


async def test_a_record_waits_for_a_sync_only_where_something_stays_behind(tmp_path: Path, disk: Disk) -> None:
    """A request under way does: its reservation would go out under the seq of the record that was lost."""
    lab = Lab(tmp_path, "interval")
    await lab.write(1)
    lab.journal.cut(0, START_MS)
    assert not lab.journal.must_sync(0)
    lab.journal.acknowledged(0)
    lab.journal.admitted(0, event_of(2), nothing)
    await asyncio.sleep(0)
    lab.journal.cut(0, START_MS)
    assert lab.journal.must_sync(0)
    lab.journal.close(delete=False)


async def test_the_next_segment_waits_until_all_of_this_one_is_safe(tmp_path: Path, disk: Disk) -> None:
    """What comes meanwhile is held back, and nothing is cut; then it is in the new segment, in order."""
    lab = Lab(tmp_path, "interval", segment_bytes=400)
    await lab.syncer.wait()
    disk.may_sync.clear()
    await lab.write(1, 2, 3)
    assert lab.journal.log.is_rolling
    told = list(lab.told)
    await lab.write(4, 5)
    assert lab.told == told
    assert len(find_segments(tmp_path)[7]) == 1
    rolled = asyncio.create_task(lab.journal.log.until_rolled(), name="until-rolled")
    disk.may_sync.set()
    await lab.until(1, 2, 3, 4, 5)
    await rolled
    assert len(find_segments(tmp_path)[7]) >= 2
    lab.journal.close(delete=False)


async def test_a_sync_that_fails_stops_the_process(tmp_path: Path, disk: Disk) -> None:
    """Nobody knows what is on the medium then, so nobody is told anything more."""
    lab = Lab(tmp_path, "always")
    await lab.syncer.wait()
    disk.fault = OSError(5, "Input/output error")
    await lab.write(1)
    async with asyncio.timeout(DEADLINE_S):
        while not lab.faults:
            await asyncio.sleep(0.001)
    assert lab.told == []
    disk.fault = None
    lab.journal.close(delete=False)


def test_a_policy_says_what_power_loss_may_take() -> None:
    """In the words of the status page; without a policy nothing is synced."""
    assert Safety().syncer_of(Wal(Path("unused"), 1), nothing_more) is None
    assert "has not written by itself" in Safety().power_loss
    assert "last 50 ms" in Safety("interval", 50).power_loss
    assert Safety("always").power_loss.startswith("nothing")


def nothing_more(error: BaseException) -> None:
    """Take a fault."""
