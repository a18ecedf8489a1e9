"""The watch over metering, with a meter that is really killed and really frozen: one alert, and one when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.alerts import METERING_BEHIND, METERING_OK, METERING_SILENT
from schemas.codec import encode_record
from schemas.topics import ALERTS, USAGE
from schemas.usage import Batch, Totals
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import Enforcer, fake_meter, running, until, values
from tests.integration.meter_lab import Lab, MeterProcess, laboratory

PROMPTLY = {"metering_silent_ms": "1000", "metering_behind_ms": "1000"}


@pytest.fixture
async def lab(broker: Broker, topic_prefix: str) -> AsyncIterator[Lab]:
    """Yield a deployment of its own on the shared broker."""
    async with laboratory(broker.bootstrap, topic_prefix, 2) as made:
        yield made


async def _told(lab: Lab, count: int) -> list[Any]:
    """Return the metering alerts, once there are `count`."""

    async def enough() -> list[Any] | None:
        found = [alert for alert in await values(lab.connection, ALERTS) if "metering" in alert["type"]]
        return found if len(found) >= count else None

    found: list[Any] = await until(enough, f"{count} alerts about metering")
    return found


async def _state(enforcer: Enforcer) -> str:
    status = await enforcer.get("/v1/status")
    return str(status["metering"]["state"])


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_killed_and_a_frozen_meter_are_each_told_once_and_so_is_their_end(lab: Lab, tmp_path: Path) -> None:
    """Kill −9, a new start, SIGSTOP, SIGCONT: silent, ok, silent, ok, each with its own id and naming its incident."""
    meter = MeterProcess(lab.connection, tmp_path / "meter.log", lease_ms="2000")
    try:
        meter.start()
        await meter.ready()
        async with running(lab.connection, **PROMPTLY) as enforcer:
            meter.kill()
            await _told(lab, 1)
            assert await _state(enforcer) == "silent"
            meter.start()
            await meter.ready()
            await _told(lab, 2)
            os.kill(meter.pid, signal.SIGSTOP)
            await _told(lab, 3)
            os.kill(meter.pid, signal.SIGCONT)
            told = await _told(lab, 4)
            assert await _state(enforcer) == "ok"
            metrics = (await enforcer.client.get("/metrics")).text
        assert [alert["type"] for alert in told] == [METERING_SILENT, METERING_OK] * 2
        assert len({alert["id"] for alert in told}) == 4
        assert [told[1]["data"]["incident"], told[3]["data"]["incident"]] == [told[0]["id"], told[2]["id"]]
        assert told[0]["data"]["partitions"] == [0, 1]
        assert told[0]["data"]["silent_ms"] >= 1_000
        assert 'tollway_enforcer_alerts_written_total{type="dev.tollway.metering.silent.v1"} 2.0' in metrics
    finally:
        meter.end()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_meter_that_publishes_without_folding_is_behind(lab: Lab) -> None:
    """Snapshots come, their fence stands still while `usage` goes on: behind; when it catches up, ok."""
    async with fake_meter(lab.connection) as meter, running(lab.connection, **PROMPTLY) as enforcer:
        stopped, caught_up = asyncio.Event(), asyncio.Event()

        async def publish() -> None:
            while not stopped.is_set():
                # Its fence rises by 10 a snapshot: keep it where it is.
                meter.fence = 990 if caught_up.is_set() else -10
                await meter.publish("org-0", [], partition=0)
                meter.fence = 990 if caught_up.is_set() else -10
                await meter.publish("org-1", [], partition=1)
                await asyncio.wait([asyncio.create_task(stopped.wait())], timeout=0.2)

        publishing = asyncio.create_task(publish(), name="publish")
        try:
            for seq in range(1, 4):
                batch = Batch("ingress-1", 1, seq, 0, 0, 1, False, [], [], Totals(), [])
                await lab.producer.send_and_wait(lab.topic(USAGE), encode_record(batch), partition=1)
            told = await _told(lab, 1)
            assert (told[0]["type"], told[0]["data"]["partitions"]) == (METERING_BEHIND, [1])
            assert told[0]["data"]["records_not_folded"] == 3
            assert await _state(enforcer) == "behind"
            caught_up.set()
            told = await _told(lab, 2)
            assert told[1]["type"] == METERING_OK
        finally:
            stopped.set()
            await publishing
