"""The meter and the broker's absences: it waits for it, goes on by itself, and evicts nobody for the silence."""

from __future__ import annotations

import asyncio
import time
from functools import partial
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
                # A client that tries ten times a second says so once in half a minute.
                assert 1 <= (tmp_path / "meter.log").read_text().count("Unable connect to node") <= 4
            finally:
                meter.end()
    finally:
        await kafka.stop()


@pytest.mark.slow
async def test_a_meter_that_starts_before_its_broker_waits_and_says_so(tmp_path: Path) -> None:
    """No process ends for it: the one that was there first folds the log as soon as the broker is back."""
    kafka = EmbeddedKafka(tmp_path / "state")
    await kafka.start()
    try:
        async with laboratory(kafka.bootstrap, "early.", 2) as lab:
            traffic = Traffic(lab)
            await traffic.flow(0.5)
            kafka.kill()
            await kafka.wait()
            meter = MeterProcess(lab.connection, tmp_path / "meter.log")
            impatient = MeterProcess(lab.connection, tmp_path / "impatient.log", slot="1")
            meter.start()
            impatient.start()
            try:
                for process in (meter, impatient):
                    await until(partial(_says_what_it_waits_for, process, kafka.bootstrap), 30, process.log_text)
                assert impatient.stop()[0] == 0
                await kafka.start()
                await meter.ready()
                ends = await lab.ends()
                await until(lambda: lab.view.fences == ends, 60, lambda: (lab.view.fences, ends, meter.log_text()))
                assert {key: row.settled for key, row in lab.view.rows.items()} == traffic.rows
                assert meter.stop()[0] == 0
            finally:
                meter.end()
                impatient.end()
    finally:
        await kafka.stop()


async def _says_what_it_waits_for(meter: MeterProcess, address: str) -> bool:
    log = meter.log_text()
    assert "Traceback" not in log
    said = "waiting for the broker" in log and address in log and "TOLLWAY_METER_KAFKA__BOOTSTRAP" in log
    return said and await meter.waiting() == ["the broker"]
