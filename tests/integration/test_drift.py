"""A history whose ledgers really differ: one alert that names the range, and one when it has been mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.alerts import METERING_DRIFT, METERING_DRIFT_OK, METERING_LEDGERS
from schemas.connection import KafkaConnection
from schemas.topics import ALERTS
from tests.fixtures.broker import Broker
from tests.fixtures.clickhouse_http import serving
from tests.integration.enforcer_lab import running, until, values
from tests.integration.sink_lab import a_producer, a_sink
from tests.integration.test_history_repair import Replica, change, post


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
            replica = Replica(producer, f"{topic_prefix}usage", "ingress-1", 0)
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
