"""The meter through an outage of its broker: it waits, goes on by itself, and evicts nobody for the silence."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from deploy.kafka import EmbeddedKafka
from tests.integration.meter_lab import MeterProcess, laboratory, until
from tests.integration.test_meter_worker import Traffic

LEASE_MS = 4_000
OUTAGE_S = 6.0


@pytest.mark.slow
async def test_a_broker_that_dies_and_returns_costs_no_events_and_no_member(tmp_path: Path) -> None:
    """Kill −9 the broker for longer than the lease: the same process folds on, and every member is still one."""
    kafka = EmbeddedKafka(tmp_path / "state")
    await kafka.start()
    try:
        async with laboratory(kafka.bootstrap, "outage.", 2) as lab:
            traffic = Traffic(lab)
            meter = MeterProcess(lab.connection, tmp_path / "meter.log", lease_ms=str(LEASE_MS))
            meter.start()
            try:
                await meter.ready()
                await traffic.flow(1.0)
                pid = meter.pid
                kafka.kill()
                await kafka.wait()
                dark = time.monotonic() + OUTAGE_S
                while time.monotonic() < dark:  # the outage itself is what is being waited for
                    await asyncio.sleep(0.1)
                await kafka.start()
                await traffic.flow(1.0)
                ends = await lab.ends()
                await until(lambda: lab.view.fences == ends, 60, lambda: (lab.view.fences, ends, meter.log_text()))
                assert {key: row.settled for key, row in lab.view.rows.items()} == traffic.rows
                assert await meter.metric("tollway_meter_evictions_total") == 0
                assert meter.pid == pid
                assert meter.stop()[0] == 0
            finally:
                meter.end()
    finally:
        await kafka.stop()
