"""A history that was broken on purpose: the audit finds and names it, a repair mends it from the log, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from meter.sink.engines import server as connect_to
from schemas.audits import Audit
from schemas.codec import decode_json
from schemas.connection import KafkaConnection
from schemas.usage import UsageEvent
from tests.fixtures.broker import Broker
from tests.fixtures.clickhouse_http import ClickHouseHttp, serving
from tests.history_builders import MONTH_END_MS, a_batch, an_event, totals_of
from tests.integration.sink_lab import SinkProcess, a_producer, a_sink, read_all

ROLLUPS = ("usage_hourly", "usage_daily_actor", "usage_ledger_hourly")


class Replica:
    """A replica that tells what it has told."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, instance: str, partition: int) -> None:
        self._producer, self._topic = producer, topic
        self._instance, self._partition = instance, partition
        self.sent: list[UsageEvent] = []
        self.records = 0

    async def send(self, count: int) -> None:
        """Send records of four events over the end of a month."""
        for _ in range(count):
            self.records += 1
            self.sent += [an_event(occurred_ms=MONTH_END_MS + when, cost_nanos=11) for when in (-1, -1, 0, 1)]
            value = a_batch(self.sent[-4:], self.records, self._instance, told=totals_of(self.sent))
            await self._producer.send_and_wait(self._topic, value, partition=self._partition)


def change(server: ClickHouseHttp, *statements: str) -> None:
    """Do something to the tables that no history ever does."""
    client = connect_to(server.url)("tollway", {"mutations_sync": 1})
    for statement in statements:
        client.command(statement)
    client.close()


async def post(sink: SinkProcess, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer to a POST that succeeds."""
    answer = await sink.http.post(path, json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


async def sums(sink: SinkProcess) -> list[tuple[int, str]]:
    """Return events and costs by the ledger and by each rollup."""
    sql = "SELECT sum(events), toString(sum(cost_usd)) FROM "
    rows = await sink.sql("SELECT count(), toString(sum(cost_usd)) FROM usage")
    for name in ROLLUPS:
        rows += await sink.sql(sql + name)
    return [(int(count), cost) for count, cost in rows]


BROKEN = {
    "a row that is gone from the events": (
        ("ALTER TABLE usage_events DELETE WHERE seq = 2 AND src_index = 1 AND instance = 'enforcer/adjust'",),
        ("history ≠ usage_ledger_hourly", "instance=enforcer/adjust/epoch=1/hour=2026-11-30T23Z", 2, "insert"),
    ),
    "everything that is gone": (
        tuple(f"TRUNCATE TABLE {name}" for name in ("usage_events", *ROLLUPS)),
        ("told ≠ history", "instance=enforcer/adjust/epoch=1", 2, "insert"),
    ),
    "a rollup that was doubled": (
        ("INSERT INTO usage_daily_actor SELECT * FROM usage_daily_actor SETTINGS insert_deduplicate = 0",),
        ("history ≠ usage_daily_actor", "org=acme/day=2026-11-30", 0, "rebuild"),
    ),
    "a rollup that was emptied": (
        ("TRUNCATE TABLE usage_hourly",),
        ("history ≠ usage_hourly", "org=acme/hour=2026-11-30T23Z", 0, "rebuild"),
    ),
    "events that are stored twice": (
        (
            "SYSTEM STOP MERGES usage_events",
            "INSERT INTO usage_events SELECT * FROM usage_events SETTINGS insert_deduplicate = 0",
            "SYSTEM START MERGES usage_events",
        ),
        ("history ≠ usage_ledger_hourly", "instance=enforcer/adjust/epoch=1/hour=2026-11-30T23Z", 1, "insert"),
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_whatever_is_broken_is_found_named_and_mended(broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    """Rows deleted, rollups doubled or emptied: named first by partition and range, mended, and everything agrees."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "max_batch_age_ms": 30, "audit_s": 1}
        async with a_sink(connection, tmp_path / "state", **settings) as sink, a_producer(connection) as producer:
            replicas = [Replica(producer, f"{topic_prefix}usage", name, number)
                        for number, name in enumerate(("ingress-1", "enforcer/adjust"))]  # fmt: skip
            for replica in replicas:
                await replica.send(3)
            await sink.up_to(6)
            whole = await sums(sink)
            assert whole == [(24, "0.000000264")] * 4
            assert (await post(sink, "/v1/audit"))["audit"]["differences"] == []
            for name, (statements, (ledgers, key, seq, remedy)) in BROKEN.items():
                change(server, *statements)
                await _found_and_mended(sink, name, (ledgers, key, seq, remedy))
                assert await sums(sink) == whole, name
            await _told_of(sink, connection)
            await _killed_while_repairing(sink, server)
            assert await sums(sink) == whole
            assert await sink.stop() == 0


async def _killed_while_repairing(sink: SinkProcess, server: ClickHouseHttp) -> None:
    """Killed when the tables are changed and nobody was told: what comes back has nothing left to mend."""
    await sink.kill()
    await sink.start(dying_at="sink.repaired")
    change(server, *BROKEN["a rollup that was doubled"][0])
    with pytest.raises(httpx.TransportError):
        await sink.http.post("/v1/repair", json={"apply": True})
    await sink.kill()
    await sink.start()
    assert (await post(sink, "/v1/audit"))["audit"]["differences"] == []


async def _found_and_mended(sink: SinkProcess, name: str, expected: tuple[str, str, int, str]) -> None:
    audit = (await post(sink, "/v1/audit"))["audit"]
    assert not audit["ok"], name
    first = next(one for one in audit["differences"] if (one["ledgers"], one["key"]) == expected[:2])
    assert first["remedy"] == expected[3], name
    if expected[2]:
        assert first["partition"] == 1
        assert first["first_seq"] <= expected[2] <= first["last_seq"]
        assert first["first_offset"] <= expected[2] - 1 <= first["last_offset"]
    planned = await post(sink, "/v1/repair", {"apply": False})
    assert planned["steps"], name
    assert (planned["hopeless"], planned["after"]) == ([], None)
    done = await post(sink, "/v1/repair", {"apply": True})
    assert [one["text"] for one in done["after"]["differences"]] == [], (name, done["steps"])


async def _told_of(sink: SinkProcess, connection: KafkaConnection) -> None:
    """The enforcer is told of each partition; metrics say how often ledgers were compared."""

    async def agrees() -> bool:
        text = (await sink.http.get("/metrics")).text
        return "tollway_history_differences 0.0" in text and 'tollway_history_audits_total{outcome="agree"}' in text

    await sink.until(agrees)
    values = await read_all(connection, f"{connection.topic_prefix}history.audits", 0, 2)
    audits = [decode_json(Audit, value) for value in values]
    assert {audit.partition for audit in audits} == {0, 1}
    assert audits[0].runs[0].told == audits[0].runs[0].sums


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_rollups_are_not_made_of_events_that_nobody_has_any_more(
    broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Rows that are gone from the events and from the log are named as hopeless, and the rollups stay."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    topic = f"{topic_prefix}usage"
    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "max_batch_age_ms": 30, "audit_s": 3_600}
        async with a_sink(connection, tmp_path / "state", **settings) as sink, a_producer(connection) as producer:
            replica = Replica(producer, topic, "ingress-1", 0)
            await replica.send(3)
            await sink.up_to(3)
            admin = AIOKafkaAdminClient(**connection.client_options())
            await admin.start()
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
            await admin.close()
            change(server, "ALTER TABLE usage_events DELETE WHERE seq = 1 AND src_index = 0")
            done = await post(sink, "/v1/repair", {"apply": True})
            assert any("the log begins at offset 2 now" in text for text in done["hopeless"])
            assert any("stay as they are" in text for text in done["hopeless"])
            counts = [count for count, _ in await sums(sink)]
            assert counts == [11, 12, 12, 12]
            assert await sink.stop() == 0
