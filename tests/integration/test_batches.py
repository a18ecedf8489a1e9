"""Usage of batches charged by the enforcer's process on a real broker: once, through kills, restarts and a rival."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from deploy import topics
from enforcer.adapters.batch_log import BatchLog
from enforcer.adapters.log import Fenced
from enforcer.core.adjustments import derived_id
from meter.core.shard import Shard
from schemas.batches import BATCHER, BatchRun, BatchSeen, Book, Line, LinesSeen, Sighting, Step, line_id
from schemas.codec import (
    decode_attribution,
    decode_event,
    decode_record,
    decode_rows,
    decode_step,
    encode_attribution,
    encode_sighting,
    encode_step,
)
from schemas.connection import KafkaConnection
from schemas.ids import shard_of
from schemas.tokens import TokenUsage
from schemas.topics import BATCHES, BATCHES_CHARGED, USAGE, topic_name
from schemas.usage import Attribution, Batch, Totals, UsageEvent
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import Enforcer, now_ms, records, running, until

OWNER = Attribution("acme", "chat", "search", "ada", "key_1", "openai", "gpt-4o-mini", "account", {}, 1, "v0")
OTHER = Attribution("acme", "chat", "ml", "", "key_2", "openai", "gpt-4o-mini", "account", {}, 1, "v0")
SNAPSHOT = "gpt-4o-mini-2024-07-18"


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    return connection


def created(batch: str = "batch_1") -> BatchSeen:
    """Return the sighting of a creation."""
    return BatchSeen("openai", batch, now_ms(), encode_attribution(OWNER), True, "chat.completions")


def over(batch: str = "batch_1", total: TokenUsage | None = None, requests: int = 0) -> BatchSeen:
    """Return what somebody else is told of a batch that is over."""
    return BatchSeen(
        "openai", batch, now_ms(), encode_attribution(OTHER), False, "chat.completions", True, now_ms() - 50,
        (f"file-{batch}",), SNAPSHOT, total, requests,
    )  # fmt: skip


def results(first: int, last: int, batch: str = "batch_1", by_file: bool = True) -> LinesSeen:
    """Return what somebody else reads of the results."""
    lines = [
        Line(line_id(f"request-{number}"), SNAPSHOT, TokenUsage(input=1_000 + number, output=10), now_ms() - 40)
        for number in range(first, last)
    ]
    return LinesSeen(
        "openai", "" if by_file else batch, f"file-{batch}", now_ms(), encode_attribution(OTHER), lines
    )  # fmt: skip


async def tell(connection: KafkaConnection, sightings: Iterable[Sighting]) -> None:
    """Write sightings as replicas do."""
    producer = AIOKafkaProducer(**connection.client_options(), acks="all")
    await producer.start()
    try:
        for seen in sightings:
            await producer.send_and_wait(
                topic_name(BATCHES, connection.topic_prefix), encode_sighting(seen), partition=0
            )  # fmt: skip
    finally:
        await producer.stop()


async def all_dealt_with(enforcer: Enforcer, requests: int, batch: str = "batch_1") -> dict[str, object]:
    """Return the batch once so many requests of it are charged and nothing waits."""

    async def look() -> dict[str, object] | None:
        found = await enforcer.get("/v1/batches")
        listed = {one["batch"]: one for one in found["batches"]}
        done = found["complete"] and batch in listed and listed[batch]["requests"] == requests
        waits = "tollway_enforcer_batch_lag_sightings 0.0" in (await enforcer.client.get("/metrics")).text
        return dict(listed[batch]) if done and waits else None

    one: dict[str, object] = await until(look, f"{requests} requests of {batch} are charged")
    return one


async def charged(connection: KafkaConnection) -> tuple[list[UsageEvent], list[Batch]]:
    """Return the events that the meter counts, each record once, and its records as they are on the log."""
    events, found = [], []
    for partition in range(connection.partitions):
        shard, sums, seen = Shard(partition), Totals(), set[tuple[int, int]]()
        for record in await records(connection, USAGE, partition):
            assert shard.apply(record.offset, record.timestamp, record.value) is None
            batch = decode_record(record.value)
            assert isinstance(batch, Batch)
            assert batch.instance == BATCHER
            found.append(batch)
            if (batch.epoch, batch.seq) in seen:
                continue
            seen.add((batch.epoch, batch.seq))
            for raw in batch.events:
                event = decode_event(raw)
                assert shard_of(decode_attribution(event.attribution).org, connection.partitions) == partition
                sums.add(event)
                events.append(event)
        assert shard.counts.events == len([event for event in events if _in(event, connection) == partition])
        assert [run.told == run.totals == sums for run in shard.runs.open.values()] in ([], [True])
        assert not shard.runs.members
    return events, found


def _in(event: UsageEvent, connection: KafkaConnection) -> int:
    return shard_of(decode_attribution(event.attribution).org, connection.partitions)


async def test_lines_are_charged_once_to_whom_created_the_batch(connection: KafkaConnection) -> None:
    """Whoever fetches the results, however often and over a restart: one event a line, at the price of batches."""
    async with running(connection) as enforcer:
        await enforcer.apply()
        await tell(connection, [created(), results(0, 3), over(), results(0, 3), results(1, 5), results(0, 5)])
        one = await all_dealt_with(enforcer, 5)
        assert one["owner"] == {"org": "acme", "project": "chat", "team": "search", "user": "ada", "key": "key_1"}
        assert (one["charged_by"], one["state"], one["unpriced"], one["is_created_here"]) == ("lines", "over", 0, True)
        assert await enforcer.end(signal.SIGTERM) == 0
    async with running(connection) as enforcer:
        await tell(connection, [results(3, 7), over(), results(0, 7, by_file=False)])
        one = await all_dealt_with(enforcer, 7)
    events, found = await charged(connection)
    names = {derived_id("batch", "openai", "batch_1", line_id(f"request-{number}").hex()) for number in range(7)}
    assert {event.id for event in events} == names
    assert len(events) == 7
    assert [record.seq for record in found] == [1, 2, 3]
    assert one["tokens"] == sum(event.charge_tokens for event in events) == sum(range(1_000, 1_007)) + 70
    for event in events:
        attribution = decode_attribution(event.attribution)
        assert (attribution.team, attribution.model, attribution.model_requested) == (
            "search",
            "gpt-4o-mini",
        ) * 1 + ("gpt-4o-mini",)
        assert (event.operation, event.model_reported) == ("chat.completions", SNAPSHOT)
        assert event.detail is not None
        assert (event.detail.service_tier, event.detail.note, event.detail.flags) == ("batch", "batch batch_1", ())
        half = 75 * event.usage.input + 300 * event.usage.output
        assert event.cost_nanos == event.charge_nanos == half
        (row,) = decode_rows(event.rows)
        assert row.startswith("team-month/cost/org=acme,team=search/month@")


async def test_a_batch_whose_sum_is_told_is_charged_as_a_whole(connection: KafkaConnection) -> None:
    """Once, whatever lines come later; one that was begun by lines is not charged as a whole."""
    async with running(connection) as enforcer:
        await tell(connection, [created(), over(total=TokenUsage(40_000, 900), requests=12), results(0, 12)])
        await tell(connection, [over("batch_2", TokenUsage(5, 5), 3), over(total=TokenUsage(40_000, 900), requests=12)])
        assert (await enforcer.get("/v1/batches"))["batches"] == []
        await enforcer.apply()
        assert (await all_dealt_with(enforcer, 12))["charged_by"] == "total"
        found = await all_dealt_with(enforcer, 3, "batch_2")
        assert (found["is_created_here"], found["charged_by"]) == (False, "total")
        listed = await enforcer.get("/v1/batches?org=globex")
        assert (listed["batches"], listed["known"]) == ([], 2)
        assert (await enforcer.client.get("/v1/batches?limit=x")).status_code == 422
        metrics = (await enforcer.client.get("/metrics")).text
        assert 'tollway_enforcer_batch_requests_total{charged="total"} 15.0' in metrics
        assert 'tollway_enforcer_batches{charged="total"} 2.0' in metrics
    events, _ = await charged(connection)
    assert sorted(event.charge_requests for event in events) == [3, 12]
    whole = next(event for event in events if event.charge_requests == 12)
    assert whole.detail is not None
    assert (whole.detail.kind, whole.detail.stands_for, whole.detail.flags) == ("folded", 12, ("batch_total",))
    assert whole.cost_nanos == 75 * 40_000 + 300 * 900


@pytest.mark.slow
@pytest.mark.parametrize("place", ["batch_noted", "batch_written", "batch_charged", "batch_noted:2", "batch_charged:2"])
async def test_what_a_kill_leaves_is_completed_once(
    connection: KafkaConnection, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each place, it goes on where it was: the same bytes under the same numbers, and then the rest."""
    monkeypatch.setenv("TOLLWAY_CRASH_AT", f"enforcer.{place}")
    async with running(connection) as enforcer:
        await enforcer.apply()
        await tell(connection, [created(), over(), results(0, 3), results(2, 6), results(0, 6)])
        assert enforcer.process is not None
        async with asyncio.timeout(30):
            assert await enforcer.process.wait() == -signal.SIGKILL
    monkeypatch.delenv("TOLLWAY_CRASH_AT")
    before, found = await charged(connection)
    number = 2 if place.endswith(":2") else 1
    assert len(found) == (number - 1 if "noted" in place else number)
    async with running(connection) as enforcer:
        await tell(connection, [results(0, 6), results(5, 8)])
        await all_dealt_with(enforcer, 8)
    events, after = await charged(connection)
    assert len(events) == len({event.id for event in events}) == 8
    assert {event.id for event in before} <= {event.id for event in events}
    assert len(after) == 3 + ("written" in place)
    last = {record.key: decode_step(record.value) for record in await records(connection, BATCHES_CHARGED)}
    assert all(step.records == [] for step in last.values())


@pytest.mark.slow
async def test_of_two_enforcers_the_later_one_charges(connection: KafkaConnection) -> None:
    """Who has lost the right to write steps notes nothing any more, and ends."""
    async with running(connection) as first:
        await first.apply()
        await tell(connection, [created(), results(0, 2, by_file=False)])
        await all_dealt_with(first, 2)
        async with running(connection) as second:
            await all_dealt_with(second, 2)
            await tell(connection, [results(1, 4, by_file=False)])
            await all_dealt_with(second, 4)
            assert first.process is not None
            async with asyncio.timeout(30):
                assert await first.process.wait() == 1
            await tell(connection, [results(0, 5, by_file=False)])
            await all_dealt_with(second, 5)
    events, _ = await charged(connection)
    assert len(events) == 5


async def test_a_step_of_who_was_replaced_is_not_written(connection: KafkaConnection) -> None:
    """The right goes with the start: who had it before writes no step any more."""
    first, second = BatchLog(connection), BatchLog(connection)
    book = Book("openai", "batch_1", encode_attribution(OWNER), True, now_ms())
    try:
        await first.start()
        await first.write_step("step/1/0/0", encode_step(Step(1, book, b"", BatchRun(), [])))
        await second.start()
        with pytest.raises(Fenced):
            await first.write_step("step/9/1/1", encode_step(Step(9, book, b"", BatchRun(1), [(0, b"x")])))
        assert [decode_step(value).position async for value in second.steps()] == [1]
    finally:
        await first.stop()
        await second.stop()
