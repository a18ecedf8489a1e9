"""What earlier runs have left is sent old before new, each record once, however often that is begun again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingress.adapters.epochs import StateDir, is_locked
from ingress.adapters.foreign import replay, show, spools_in
from ingress.adapters.journal import Journal
from ingress.adapters.leftover import left_behind
from ingress.adapters.replay import Replay
from ingress.adapters.wal import Wal, find_segments
from ingress.core.admission import Registry
from schemas.codec import decode_event, decode_record
from schemas.connection import KafkaConnection
from schemas.errors import ConfigError
from schemas.usage import Batch
from tests.unit.ingress.governed import START_MS, event_of
from tests.unit.ingress.test_journal import decision_of, nothing

RUNS = (7, 9, 12)
PARTITIONS = 2


class Killed(Exception):
    """This process is gone."""


class FakeBroker:
    """Takes records until the process that sends them is killed; counts each seq once, as the meter does."""

    def __init__(self) -> None:
        self.left = 0
        self.seen: dict[tuple[int, int, int], Batch] = {}
        self.order: list[tuple[int, int, int]] = []
        self.deliveries = 0
        self.decisions = 0

    async def deliver(self, topic: str, partition: int, value: bytes) -> int:
        """Take a record, or be gone before or after it."""
        if not self.left:
            raise Killed
        self.left -= 1
        self.deliveries += 1
        if topic == "decisions":
            self.decisions += 1
            return 0
        batch = decode_record(value)
        assert isinstance(batch, Batch)
        key = (partition, batch.epoch, batch.seq)
        if key in self.seen:
            assert [bytes(event) for event in batch.events] == [bytes(event) for event in self.seen[key].events]
        else:
            self.seen[key] = batch
            self.order.append(key)
        await asyncio.sleep(0)
        return 0


async def leave(path: Path) -> None:
    """Leave three runs behind, each killed with records in flight, events that wait and a request under way."""
    number = 0
    for run in RUNS:
        journal = Journal(Wal(path, run, 900), Registry(PARTITIONS), "lost", run)
        for partition in range(PARTITIONS):
            for _ in range(3):
                number += 1
                journal.terminal(partition, event_of(number), nothing, decision_of(number))
            number += 1
            journal.admitted(partition, event_of(number), nothing)
            await asyncio.sleep(0)
            journal.cut(partition, START_MS)
            number += 1
            journal.terminal(partition, event_of(number), nothing)
            await asyncio.sleep(0)
        journal.close(delete=False)


async def send(path: Path, broker: FakeBroker) -> bool:
    """Send what is left; False if the process was killed meanwhile."""
    sending = Replay(left_behind(path, PARTITIONS, 1 << 30), broker, "usage", "decisions", PARTITIONS, lambda: START_MS)
    tasks = [asyncio.create_task(sending.run(partition), name=f"replay-{partition}") for partition in range(PARTITIONS)]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(end is None or isinstance(end, Killed) for end in ends)
    assert sending.is_done == (not any(ends))
    return sending.is_done


@pytest.mark.parametrize("patience", range(1, 24, 2))
async def test_three_generations_are_sent_in_order_whenever_the_sender_is_killed(tmp_path: Path, patience: int) -> None:
    """Old before new in each partition, every event once, every epoch ended; then nothing is left."""
    await leave(tmp_path)
    broker = FakeBroker()
    starts = 0
    while not broker.left:
        starts += 1
        broker.left = patience + 3 * starts  # one that is always killed at the same place would never end
        if await send(tmp_path, broker):
            break
        broker.left = 0
    assert find_segments(tmp_path) == {}
    for partition in range(PARTITIONS):
        keys = [key[1:] for key in broker.order if key[0] == partition]
        assert keys == sorted(keys)
        assert [epoch for epoch, _ in keys if epoch in RUNS] == [epoch for epoch, _ in keys]
        for run in RUNS:
            batches = [broker.seen[partition, run, seq] for epoch, seq in keys if epoch == run]
            assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
            assert [batch.final for batch in batches] == [False] * (len(batches) - 1) + [True]
            assert {batch.instance for batch in batches} == {"lost"}
    ids = [decode_event(event).id for batch in broker.seen.values() for event in batch.events]
    assert sorted(int.from_bytes(each, "big") for each in ids) == list(range(1, len(RUNS) * PARTITIONS * 5 + 1))


async def test_a_copy_that_is_sent_too_changes_nothing(tmp_path: Path) -> None:
    """Two that send the same log at the same time send the same records."""
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.mkdir()
        await leave(path)
    broker = FakeBroker()
    broker.left = 1_000
    assert all(await asyncio.gather(send(first, broker), send(second, broker)))
    assert broker.deliveries > len(broker.seen) + broker.decisions / 2
    assert sum(len(batch.events) for batch in broker.seen.values()) == len(RUNS) * PARTITIONS * 5


async def test_a_spool_is_shown_and_left_as_it_is(tmp_path: Path) -> None:
    """Runs, sums, what is under way, whether somebody has it; a torn end stays for the one who repairs it."""
    wal = tmp_path / "ingress" / "lost" / "wal"
    wal.mkdir(parents=True)
    await leave(wal)
    last = find_segments(wal)[12][-1].path
    last.write_bytes(last.read_bytes()[:-3])
    before = {path.name: path.read_bytes() for path in sorted(wal.iterdir())}
    (path,) = spools_in(tmp_path)
    held = show(path)
    assert (held.in_use, [run.epoch for run in held.runs]) == (False, list(RUNS))
    assert [run.sums.events for run in held.runs] == [10, 10, 9]
    assert [(run.instance, run.open_admissions) for run in held.runs] == [("lost", 2)] * 3
    assert held.runs[0].sums.cost_nanos == 50
    assert {path.name: path.read_bytes() for path in sorted(wal.iterdir())} == before
    state = StateDir(path)
    assert show(path).in_use
    assert is_locked(path)
    with pytest.raises(ConfigError, match="another ingress uses it"):
        await replay(path, KafkaConnection(partitions=PARTITIONS), lambda: START_MS, 1.0)
    state.release()
    assert not show(path).in_use


def test_a_directory_without_a_spool_is_named(tmp_path: Path) -> None:
    """Nothing to send is not the same as nothing found."""
    with pytest.raises(ConfigError, match="no spool"):
        spools_in(tmp_path)
