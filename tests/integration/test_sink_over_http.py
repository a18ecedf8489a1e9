"""The history over a ClickHouse server that is stopped, frozen, cut off and ambiguous: each event is there once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from meter.sink.engines import server as connect_to
from schemas.connection import KafkaConnection
from schemas.usage import UsageEvent
from tests.clickhouse_faults import Fault
from tests.fixtures.broker import Broker
from tests.fixtures.clickhouse_http import ClickHouseHttp, serving
from tests.history_builders import MONTH_END_MS, a_batch, an_event
from tests.integration.sink_lab import SinkProcess, a_producer, a_sink

TABLES = ("usage_hourly", "usage_daily_actor", "usage_ledger_hourly")
ONE_TABLE_A_MONTH = 2
REMEMBERED = 2 * ONE_TABLE_A_MONTH


class Replica:
    """A replica that sends records of two months to one shard, and knows what it has sent."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self.sent: list[UsageEvent] = []
        self.values: list[bytes] = []
        self.records = 0

    async def send(self) -> None:
        """Send a record of identical, legitimate requests on both sides of the end of a month."""
        events = [an_event(occurred_ms=MONTH_END_MS + when, cost_nanos=7) for when in (-1, -1, 0, 0, 0)]
        self.values.append(a_batch(events, len(self.values) + 1))
        self.sent += events
        await self._put(self.values[-1])

    async def send_again(self, number: int) -> None:
        """Send a record that was sent before."""
        await self._put(self.values[number])

    async def _put(self, value: bytes) -> None:
        await self._producer.send_and_wait(self._topic, value, partition=0)
        self.records += 1


async def assert_exact(sink: SinkProcess, replica: Replica) -> None:
    """Check that the ledger and every rollup have what was sent, to the nano-dollar, without FINAL."""
    await sink.up_to(replica.records)
    expected = [len(replica.sent), Decimal(sum(event.cost_nanos or 0 for event in replica.sent)).scaleb(-9)]
    sql = "SELECT count(), toString(sum(cost_usd)) FROM usage_events" + "".join(
        f" UNION ALL SELECT sum(events), toString(sum(cost_usd)) FROM {name}" for name in TABLES
    )
    assert [[int(row[0]), Decimal(row[1])] for row in await sink.sql(sql)] == [expected] * (1 + len(TABLES)), (
        await sink.sql(sql)
    )


def connection_to(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return how to reach a broker with one shard."""
    return KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)


FAULTS = (
    Fault("reset", times=2),
    Fault("lost", times=1),
    Fault("lost", times=ONE_TABLE_A_MONTH + 1),
    Fault("error", times=3),
    Fault("slow", seconds=0.4),
    Fault("slow", seconds=1.6),  # longer than an answer may take: sent again while the first is under way
    Fault("dies"),
)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_each_event_is_there_once_whatever_the_server_does(
    broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Cut off, refused, slow, frozen or dead: the same batch again is whole and not doubled."""
    connection = connection_to(broker, topic_prefix)
    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "clickhouse_answer_s": 1, "max_batch_age_ms": 50}
        async with a_sink(connection, tmp_path / "state", **settings) as sink, a_producer(connection) as producer:
            replica = Replica(producer, f"{topic_prefix}usage")
            for fault in FAULTS:
                server.disturb(fault)
                await replica.send()
                if fault.action == "dies":
                    await sink.until(lambda: gone(server))
                    server.kill()
                    await replica.send()
                    server.start()
                else:
                    await sink.until(lambda: all_done(server))
                await assert_exact(sink, replica)
            before = await failures(sink)

            async def has_failed() -> bool:
                return await failures(sink) > before

            with server.frozen():
                await replica.send()
                await sink.until(has_failed)
                await replica.send()
            await assert_exact(sink, replica)
            assert (await sink.get("/v1/status"))["duplicates_dropped"] == 0
            assert await sink.stop() == 0


async def gone(server: ClickHouseHttp) -> bool:
    """Whether the server has ended."""
    return not server.answers()


async def all_done(server: ClickHouseHttp) -> bool:
    """Whether every fault was done."""
    return server.faults_left() == 0


async def failures(sink: SinkProcess) -> float:
    """Return how many inserts have failed and were tried again."""
    lines = (await sink.http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tollway_history_insert_failures_total{"))


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_duplicates_are_dropped_after_any_time(broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    """A record that comes again after the store has forgotten its batch, and the group its offsets, counts once."""
    connection = connection_to(broker, topic_prefix)
    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "max_batch_age_ms": 30}
        async with a_sink(connection, tmp_path / "state", **settings) as sink, a_producer(connection) as producer:
            replica = Replica(producer, f"{topic_prefix}usage")
            for _ in range(3):
                await replica.send()
                await sink.up_to(replica.records)
            forget_batches(server)
            for _ in range(2):
                await replica.send()
                await sink.up_to(replica.records)
            await replica.send_again(0)
            await assert_exact(sink, replica)
            assert await sink.stop() == 0
            await forget_offsets(connection)
            await replica.send_again(1)
            await sink.start()
            await replica.send_again(2)
            await replica.send()
            await assert_exact(sink, replica)


def forget_batches(server: ClickHouseHttp) -> None:
    """Have every table remember the last batches only."""
    client = connect_to(server.url)("tollway", {})
    for table in ("usage_events", *TABLES):
        client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {REMEMBERED}")
    client.close()


async def forget_offsets(connection: KafkaConnection) -> None:
    """Set the history's group back to the beginning of the log, without a mark."""
    prefix = connection.topic_prefix
    where = TopicPartition(f"{prefix}usage", 0)
    consumer = AIOKafkaConsumer(
        **connection.client_options(), group_id=f"{prefix}history", enable_auto_commit=False
    )  # fmt: skip
    await consumer.start()
    try:
        consumer.assign([where])
        async with asyncio.timeout(60):
            while not await _set_back(consumer, where):  # until the broker knows that the member is gone
                await asyncio.sleep(0.2)
    finally:
        await consumer.stop()


async def _set_back(consumer: AIOKafkaConsumer, where: TopicPartition) -> bool:
    try:
        await consumer.commit({where: (0, "")})
    except KafkaError:
        return False
    return True
