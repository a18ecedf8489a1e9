"""Ledgers of a history and a meter that really differ: one alert that names the range, and one when they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from schemas.alerts import METERING_DRIFT, METERING_DRIFT_OK, METERING_LEDGERS
from schemas.codec import decode_record, encode_record, encode_snapshot
from schemas.connection import KafkaConnection
from schemas.quota import hour_text
from schemas.topics import ALERTS, QUOTA_UPDATES
from schemas.usage import Batch, UsageEvent
from tests.fixtures.broker import Broker
from tests.fixtures.clickhouse_http import serving
from tests.history_builders import a_batch, an_event, totals_of
from tests.integration import test_history_repair as repair
from tests.integration.enforcer_lab import FakeMeter, fake_meter, now_ms, running, until, values
from tests.integration.sink_lab import a_producer, a_sink
from tests.integration.test_history_repair import change, post

HOUR_MS = 3_600_000


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_drift_is_told_once_with_its_range_and_so_is_its_end(
    broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Nothing is said while ledgers agree; a row that is deleted is one alert, a repair one more; status says both."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)

    async def told(count: int) -> list[Any]:
        async def enough() -> list[Any] | None:
            found = [alert for alert in await values(connection, ALERTS) if alert["type"] in METERING_LEDGERS]
            return found if len(found) >= count else None

        found: list[Any] = await until(enough, f"{count} alerts about ledgers")
        return found

    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "max_batch_age_ms": 30, "audit_s": 1}
        async with (
            a_sink(connection, tmp_path / "state", **settings) as sink,
            a_producer(connection) as producer,
            running(connection) as enforcer,
        ):
            replica = repair.Replica(producer, f"{topic_prefix}usage", "ingress-1", 0)
            await replica.send(3)
            await sink.up_to(3)

            async def audited() -> bool:
                found = (await sink.get("/v1/audit"))["audit"]
                return bool(found and found["ok"] and found["partitions"][0]["position"] == 3)

            await sink.until(audited)
            assert (await enforcer.get("/v1/status"))["ledgers"]["state"] == "agree"
            change(server, "ALTER TABLE usage_events DELETE WHERE seq = 2 AND src_index = 0")
            (begun,) = await told(1)
            assert (begun["type"], begun["subject"], begun["data"]["partition"]) == (METERING_DRIFT, "metering", 0)
            first, last = begun["data"]["offsets"]
            assert first <= 1 <= last
            assert (await enforcer.get("/v1/status"))["ledgers"]["state"] == "drift"
            assert (await post(sink, "/v1/repair", {"apply": True}))["after"]["ok"]
            _, ended = await told(2)
            assert (ended["type"], ended["data"]["incident"]) == (METERING_DRIFT_OK, begun["id"])
            metrics = (await enforcer.client.get("/metrics")).text
            assert 'tollway_enforcer_metering_incident{kind="drift"} 0.0' in metrics


class Replica:
    """A replica of two hours, on the log, and the meter's fold of what is on it."""

    def __init__(self, producer: AIOKafkaProducer, connection: KafkaConnection, meter: FakeMeter) -> None:
        self._producer, self._topic, self._meter = producer, f"{connection.topic_prefix}usage", meter
        self._number, self.hour = 0, now_ms() // HOUR_MS - 1
        self._sent: list[UsageEvent] = []
        self.values: list[bytes] = []

    async def send(self) -> None:
        """Send a record with two events of the hour before, and one of this."""
        whens = (self.hour * HOUR_MS, self.hour * HOUR_MS + 7, self.hour * HOUR_MS + HOUR_MS)
        self._sent += [an_event(row_keys=(), occurred_ms=when, cost_nanos=11) for when in whens]
        self.values.append(a_batch(self._sent[-3:], len(self.values) + 1, told=totals_of(self._sent)))
        await self._producer.send_and_wait(self._topic, self.values[-1], partition=0)

    async def publish(self, lacking: int | None = None) -> None:
        """Publish what the meter has folded; of one record it may have left out the first event."""
        shard = Shard(0)
        for offset, value in enumerate(self.values):
            record = decode_record(value)
            assert isinstance(record, Batch)
            if offset == lacking:
                value = encode_record(msgspec.structs.replace(record, events=record.events[1:]))
            assert shard.apply(offset, now_ms(), value) is None
        self._number += 1
        for part in snapshot(shard, Stamp("meter", self._number, now_ms()), full=True):
            await self._meter.raw(QUOTA_UPDATES, 0, encode_snapshot(part))


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_hour_is_named_whichever_ledger_lacks_it(broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    """Rows of an hour that are gone from all tables, an event that the meter left out: run, hour, sums, records."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    with serving(tmp_path / "server") as server:
        settings = {"clickhouse_url": server.url, "max_batch_age_ms": 30, "audit_s": 1}
        async with (
            a_sink(connection, tmp_path / "state", **settings) as sink,
            a_producer(connection) as producer,
            running(connection) as enforcer,
            fake_meter(connection) as meter,
        ):

            async def state() -> str:
                return str((await enforcer.get("/v1/status"))["ledgers"]["state"])

            async def alert(number: int) -> dict[str, Any] | None:
                found = [one for one in await values(connection, ALERTS) if one["type"] in METERING_LEDGERS]
                return found[number] if len(found) > number else None

            replica = Replica(producer, connection, meter)
            for _ in range(3):
                await replica.send()
            await replica.publish()
            await sink.up_to(3)
            run = f"instance=ingress-1/epoch=1/hour={hour_text(replica.hour)}"
            assert [row["key"] for row in (await enforcer.get("/v1/ledger"))["hours"]][:1] == [run]
            # Lost by the history: every table agrees that there never was such an hour.
            began_s = replica.hour * 3_600
            of_hour = f"toUnixTimestamp(toStartOfHour(toDateTime(occurred_at, 'UTC'))) = {began_s}"
            rollups = [f"ALTER TABLE {name} DELETE WHERE toUnixTimestamp(hour) = {began_s}"
                       for name in ("usage_ledger_hourly", "usage_hourly")]  # fmt: skip
            change(server, f"ALTER TABLE usage_events DELETE WHERE {of_hour}", *rollups)
            begun = await until(lambda: alert(0), "the history's hour is named")
            assert (begun["data"]["ledgers"], begun["data"]["key"]) == ("meter ≠ history", run)
            assert "events 6 and 0" in begun["data"]["first"]
            assert (begun["data"]["seqs"], begun["data"]["offsets"]) == ([1, 3], [0, 2])
            assert (await post(sink, "/v1/repair", {"apply": True}))["after"]["ok"]
            assert (await until(lambda: alert(1), "it is mended"))["type"] == METERING_DRIFT_OK
            # Lost by the meter: what it folds from here on lacks an event of the second record.
            await replica.send()
            await replica.publish(lacking=1)
            await sink.up_to(4)
            begun = await until(lambda: alert(2), "the meter's hour is named")
            assert (begun["data"]["ledgers"], begun["data"]["key"]) == ("meter ≠ history", run)
            assert "events 7 and 8" in begun["data"]["first"]
            assert (begun["data"]["seqs"], begun["data"]["offsets"]) == ([1, 4], [0, 3])
            listed = [text.partition(" partition")[0] for text in begun["data"]["listed"]]
            assert "told ≠ meter: instance=ingress-1/epoch=1" in listed
            assert any(text.startswith("meter ≠ history: org=acme/day=") for text in listed)
            await replica.publish()
            assert (await until(lambda: alert(3), "it agrees again"))["type"] == METERING_DRIFT_OK
            assert await state() == "agree"
