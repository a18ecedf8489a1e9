"""When records are sent, what an acknowledgement allows, how a run ends; the broker is a fake that can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ingress.adapters import sender as module
from ingress.adapters.journal import Journal
from ingress.adapters.recovery import Backlog
from ingress.adapters.sender import Sender
from ingress.adapters.wal import Wal, find_segments
from ingress.core.admission import Registry
from schemas.codec import decode_decisions, decode_event, decode_record
from schemas.published import HEARTBEAT_MS, SELF_FENCE_MS, TICK_MS
from schemas.usage import Batch
from tests.unit.ingress.governed import START_MS, denied, event_of, held, member_of, plan_of, resolver_of
from tests.unit.ingress.test_journal import decision_of, nothing

DEADLINE_S = 5.0


class FakeBroker:
    """Takes records in order; can be held up, and can fail."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, bytes, float]] = []
        self.is_up = asyncio.Event()
        self.is_up.set()
        self.waiting = 0
        self.fault: Exception | None = None
        self.changed = asyncio.Condition()

    async def deliver(self, topic: str, partition: int, value: bytes) -> int:
        """Take a record once the broker is up."""
        self.waiting += 1
        await self.is_up.wait()
        self.waiting -= 1
        if self.fault is not None:
            raise self.fault
        self.records.append((topic, partition, value, asyncio.get_running_loop().time()))
        async with self.changed:
            self.changed.notify_all()
        return len(self.records)

    def batches(self, partition: int = 0) -> list[Batch]:
        """Return the records of a partition."""
        found = [decode_record(value) for topic, p, value, _ in self.records if topic == "usage" and p == partition]
        return [record for record in found if isinstance(record, Batch)]

    def events(self) -> list[int]:
        """Return the numbers of all events, in the order of their records."""
        return [int.from_bytes(decode_event(event).id, "big") for batch in self.batches() for event in batch.events]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds after a delivery."""
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(condition)


class Running:
    """A sender over a journal and a fake broker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ms = START_MS
        self.broker = FakeBroker()
        self.registry = member_of(Registry(1))
        self.faults: list[BaseException] = []
        self.run = 7

    def start(self) -> None:
        """Begin a run, with what earlier ones left."""
        backlogs = [Backlog(segments) for segments in find_segments(self.path).values()]
        self.journal = Journal(Wal(self.path, self.run), self.registry, "i", self.run)
        self.sender = Sender(
            self.journal,
            self.registry,
            self.broker,
            usage_topic="usage",
            decisions_topic="decisions",
            backlogs=backlogs,
            now_ms=lambda: self.now_ms,
            on_fault=self.faults.append,
        )
        self.journal.on_dirty = self.sender.note_dirty
        self.sender.start()


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a sender that has joined."""
    lab = Running(tmp_path)
    lab.start()
    await lab.broker.until(lambda: lab.broker.records)
    yield lab
    await lab.sender.stop(0)


async def test_the_first_record_joins_and_allows_admissions(running: Running) -> None:
    """Before it, nothing is admitted; after it, as long as the published time says."""
    assert running.sender.is_attached
    assert running.registry.shards[0].joined_at == 1
    assert running.registry.shards[0].fence_at_ms == START_MS + SELF_FENCE_MS
    assert [batch.seq for batch in running.broker.batches()] == [1]


async def test_events_of_a_tick_travel_together(running: Running) -> None:
    """A record goes out a tick after its first event, with all that came meanwhile."""
    began = running.sender._clocks[0].cut_at
    for number in (1, 2, 3):
        running.journal.terminal(0, event_of(number), nothing)
        await asyncio.sleep(0)
    await running.broker.until(lambda: running.broker.events())
    assert running.broker.events() == [1, 2, 3]
    waited_ms = (running.broker.records[-1][3] - began) * 1000
    assert TICK_MS - 2 <= waited_ms < HEARTBEAT_MS


async def test_silence_is_broken_by_heartbeats(running: Running) -> None:
    """A replica without traffic says that it lives."""
    await running.broker.until(lambda: len(running.broker.records) >= 3)
    first, second, third = (record[3] for record in running.broker.records[:3])
    assert third - first >= 2 * HEARTBEAT_MS / 1000 * 0.9
    assert second > first
    assert all(not batch.events and not batch.gauges for batch in running.broker.batches())


async def test_an_acknowledgement_that_is_due_goes_out_at_once(running: Running) -> None:
    """It does not wait for the heartbeat."""
    began = asyncio.get_running_loop().time()
    running.sender.note_dirty(0)
    await running.broker.until(lambda: len(running.broker.records) == 2)
    assert running.broker.records[-1][3] - began < HEARTBEAT_MS / 1000 * 0.8
    assert running.broker.batches()[-1].ack == running.registry.shards[0].fence


async def test_one_record_is_in_flight_and_the_rest_waits_for_the_next(running: Running) -> None:
    """While the broker is away nothing is cut; then everything goes in few records, in order."""
    running.broker.is_up.clear()
    running.journal.terminal(0, event_of(0), nothing)
    async with asyncio.timeout(DEADLINE_S):
        while not running.broker.waiting:
            await asyncio.sleep(0.005)
    for number in range(1, 600):
        running.journal.terminal(0, event_of(number), nothing)
    running.broker.is_up.set()
    await running.broker.until(lambda: len(running.broker.events()) == 600)
    assert running.broker.events() == list(range(600))
    assert len([batch for batch in running.broker.batches() if batch.events]) <= 5


async def test_decisions_follow_their_events(running: Running) -> None:
    """On their own topic, in the partition of the organisation."""
    for number in (1, 2):
        running.journal.terminal(0, event_of(number), nothing, decision_of(number))
    await running.broker.until(lambda: running.broker.records[-1][0] == "decisions")
    _, partition, value, _ = running.broker.records[-1]
    assert partition == 0
    assert [decision.id[-1] for decision in decode_decisions(value)] == [1, 2]


async def test_a_broker_that_says_nothing_ends_admissions(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock of the request, and by this process's own clock where that one stands still."""
    plan = plan_of(resolver_of(registry=running.registry))
    held(plan.admit(running.now_ms, 1, 0))
    assert denied(plan.admit(START_MS + SELF_FENCE_MS, 1, 0)).reason == "detached"
    running.broker.is_up.clear()
    monkeypatch.setattr(module, "SELF_FENCE_MS", 300)
    async with asyncio.timeout(DEADLINE_S):
        while running.sender.is_attached:
            await asyncio.sleep(0.01)
    assert running.sender.ack_age_ms >= 300
    assert denied(plan.admit(running.now_ms, 1, 0)).reason == "detached"


async def test_a_fault_that_does_not_pass_is_reported(running: Running) -> None:
    """The process is told to stop."""
    running.broker.fault = ValueError("a record that no broker takes")
    running.sender.note_dirty(0)
    async with asyncio.timeout(DEADLINE_S):
        while not running.faults:
            await asyncio.sleep(0.005)
    assert str(running.faults[0]) == "a record that no broker takes"


async def test_the_end_sends_everything_and_the_final_record(running: Running) -> None:
    """Then nothing is needed any more."""
    running.journal.terminal(0, event_of(1), nothing, decision_of(1))
    assert await running.sender.stop(DEADLINE_S)
    assert running.journal.is_idle
    last = running.broker.batches()[-1]
    assert (last.final, last.told.events) == (True, 1)
    assert running.broker.events() == [1]


async def test_a_request_that_has_not_ended_keeps_the_epoch_open(running: Running) -> None:
    """The next run tells of it under the same epoch, ends that, and only then joins."""
    running.journal.admitted(0, event_of(5), nothing)
    assert not await running.sender.stop(DEADLINE_S)
    assert not running.broker.batches()[-1].final
    running.journal.close(delete=False)
    running.run = 8
    running.registry = member_of(Registry(1))
    running.start()
    await running.broker.until(lambda: any(batch.epoch == 8 for batch in running.broker.batches()))
    assert running.sender.has_replayed
    assert list(find_segments(running.path)) == [8]
    epochs = [(batch.epoch, batch.final) for batch in running.broker.batches()]
    assert epochs[-2:] == [(7, True), (8, False)]
    assert running.broker.events() == [5]


async def test_a_broker_that_is_away_at_the_end_leaves_the_log(running: Running) -> None:
    """Stopping takes no longer than it is given."""
    running.broker.is_up.clear()
    running.journal.terminal(0, event_of(1), nothing)
    assert not await running.sender.stop(0.1)
    running.journal.close(delete=False)
    assert list(find_segments(running.path)) == [7]
