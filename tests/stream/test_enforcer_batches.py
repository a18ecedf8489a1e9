"""The batcher over topics in memory whose writes fail at any place, with and without having been done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import NamedTuple

import pytest

from enforcer import batches
from enforcer.adapters.batch_log import Placed
from enforcer.batches import Batcher
from enforcer.core.control import ControlState
from enforcer.telemetry import Telemetry
from schemas.batches import BatchSeen, Line, LinesSeen, Sighting, line_id
from schemas.codec import decode_step, encode_json, encode_sighting
from schemas.errors import TransportError
from schemas.policy import PolicyRecord
from schemas.topics import POLICY
from tests.property.batch_world import (
    DAY_MS,
    DOCUMENT,
    JOBS,
    OWNERS,
    PARTITIONS,
    PRICES,
    START_MS,
    counted,
    metered,
    usage_of,
)

JOB = JOBS[1]
DEADLINE_S = 20.0
WRITES = 13
"""The creation is noted; two steps of the first lines and one each of two others are noted, written, concluded."""


class Fault(NamedTuple):
    """The call that fails, and whether what it was to do is done."""

    call: int
    is_done: bool


class FakeBatchLog:
    """The three topics in memory."""

    def __init__(self, seen: list[bytes], fault: Fault | None = None) -> None:
        self.seen, self.fault = seen, fault
        self.kept: list[tuple[str, bytes]] = []
        self.usage: list[tuple[int, bytes]] = []
        self.calls = self.starts = 0
        self.is_idle = asyncio.Event()
        self.batcher: Batcher | None = None
        """Who uses it."""
        self._position = 0

    async def start(self) -> None:
        """Count starts."""
        self.starts += 1

    async def stop(self) -> None:
        """Do nothing."""

    async def steps(self) -> AsyncIterator[bytes]:
        """Yield the last version of each step, as after a compaction."""
        last = {key: place for place, (key, _) in enumerate(self.kept)}
        for place in sorted(last.values()):
            yield self.kept[place][1]

    def seek(self, position: int) -> None:
        """Go to a position."""
        self._position = position

    async def read(self) -> list[Placed]:
        """Return two sightings, or wait."""
        found = [Placed(at, self.seen[at]) for at in range(self._position, min(self._position + 2, len(self.seen)))]
        self._position += len(found)
        if not found:
            self.is_idle.set()
        await asyncio.sleep(0)
        return found

    def lag(self, position: int) -> int | None:
        """Return how many are left."""
        return len(self.seen) - position

    async def write_step(self, key: str, value: bytes) -> None:
        """Keep a step, unless this is the call that fails."""
        with self._failing() as is_done:
            if is_done:
                self.kept.append((key, value))

    async def write_usage(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Keep records; of those of the call that fails, the first or all."""
        found = list(records)
        with self._failing() as is_done:
            self.usage += found if is_done else found[:1]
        return len(found)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[bool]:
        self.calls += 1
        is_it = self.fault is not None and self.calls == self.fault.call
        yield not is_it or (self.fault is not None and self.fault.is_done)
        if is_it:
            raise TransportError("nobody answers")


def control() -> ControlState:
    """Return what the control topics say: a policy."""
    state = ControlState()
    apply(state)
    return state


def apply(state: ControlState) -> None:
    """Put the policy in force."""
    record = PolicyRecord(3, DOCUMENT, "", START_MS, "ann", "", PRICES)
    state.apply(POLICY, record.key.encode(), encode_json(record))


def sightings() -> list[bytes]:
    """Return a batch whose lines are seen more than once, and something that cannot be read."""
    lines = [Line(line_id(f"r{number}"), JOB.model, usage_of(JOB, number), START_MS - 5) for number in range(5)]
    seen: list[Sighting] = [BatchSeen(JOB.provider, JOB.name, START_MS, OWNERS[1], True, "chat.completions")]
    seen += [LinesSeen(JOB.provider, JOB.name, "", START_MS, OWNERS[2], lines[at : at + 3]) for at in (0, 1, 0, 2)]
    values = [encode_sighting(one) for one in seen]
    return [*values[:2], b"TWB\x09", *values[2:]]


async def charge(log: FakeBatchLog, state: ControlState, now_ms: list[int]) -> Batcher:
    """Let a batcher charge until nothing is left."""
    log.batcher = batcher = Batcher(state, log, Telemetry(lambda: []), lambda: now_ms[0], PARTITIONS)
    task = asyncio.create_task(batcher.run(), name="batches")
    try:
        async with asyncio.timeout(DEADLINE_S):
            await log.is_idle.wait()
            while close_is_due(batcher, now_ms[0]) or batcher.state.pending:
                await asyncio.sleep(0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return batcher


def close_is_due(batcher: Batcher, now_ms: int) -> bool:
    """Tell whether a run of an earlier day is open."""
    run = batcher.state.run
    return bool(run.seqs) and run.epoch < now_ms // DAY_MS


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without a pause, and let a step have two lines."""
    monkeypatch.setattr(batches, "RETRY_S", 0)
    monkeypatch.setattr("enforcer.core.batches.MAX_STEP_BYTES", 800)


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("call", range(1, WRITES + 1))
async def test_a_write_that_fails_is_made_good(call: int, is_done: bool) -> None:
    """Whichever it is, and whether or not it was done: each line is charged once, and nothing stays pending."""
    log = FakeBatchLog(sightings(), Fault(call, is_done))
    batcher = await charge(log, control(), [START_MS])
    events = list(counted(log.usage))
    assert len(events) == len({event.id for event in events}) == 5
    assert sum(shard.counts.events for shard in metered(log.usage)) == 5
    assert [book.requests for book in batcher.state.books.values()] == [5]
    assert all(decode_step(value).records == [] for value in dict(log.kept).values())
    assert log.starts == 2


class Watched(FakeBatchLog):
    """Notes before each write whether something is said to be left to do."""

    def __init__(self) -> None:
        super().__init__(sightings())
        self.lags: list[float] = []

    @contextlib.contextmanager
    def _failing(self) -> Iterator[bool]:
        assert self.batcher is not None
        self.lags += [value for name, _, value in self.batcher.samples() if name == "batch_lag_sightings"]
        with super()._failing() as is_done:
            yield is_done


async def test_nothing_is_left_to_do_only_when_all_is_written() -> None:
    """The gauge says what is not dealt with, also of the last sighting between its note and the end of its writing."""
    log = Watched()
    batcher = await charge(log, control(), [START_MS])
    assert len(log.lags) == WRITES
    assert min(log.lags) > 0
    assert list(batcher.samples())[-1] == ("batch_lag_sightings", (), 0)


async def test_it_waits_for_a_policy() -> None:
    """Without one there are no prices and no rows; sightings wait on their topic."""
    log, state = FakeBatchLog(sightings()), ControlState()
    batcher = Batcher(state, log, Telemetry(lambda: []), lambda: START_MS, PARTITIONS)
    task = asyncio.create_task(batcher.run(), name="batches")
    async with asyncio.timeout(DEADLINE_S):
        while not batcher.is_read:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert (log.kept, log.usage) == ([], [])
        apply(state)
        await log.is_idle.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(list(counted(log.usage))) == 5


async def test_an_idle_run_is_closed_when_its_day_is_over() -> None:
    """A start days later closes what the last one left open, and charges in a run of its own."""
    log, now_ms = FakeBatchLog(sightings()), [START_MS]
    await charge(log, control(), now_ms)
    now_ms[0] += 3 * DAY_MS
    log.is_idle.clear()
    batcher = await charge(log, control(), now_ms)
    shards = metered(log.usage)
    assert [run for shard in shards for run in shard.runs.open] == []
    assert batcher.state.run.epoch == now_ms[0] // DAY_MS
    assert list(batcher.samples()) == [
        ("batches", ("total",), 0), ("batches", ("lines",), 1), ("batches", ("nothing",), 0),
        ("batch_lag_sightings", (), 0),
    ]  # fmt: skip
