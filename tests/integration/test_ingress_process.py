"""An ingress as a process: killed at each marked step, stopped with streams in flight, its disk filled, replayed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from deploy import topics
from deploy.kafka import EmbeddedKafka
from deploy.simulator import Simulator
from schemas.connection import KafkaConnection
from schemas.ids import format_id
from tests.fixtures.broker import Broker
from tests.integration.ingress_lab import Lab, events_of, lab
from tests.integration.ingress_process import Process, until
from tests.unit.ingress import governed

PARTITIONS = 2
WIDE = "\n".join(f"  - {{name: wide-{n}, per: [team, user], rpm: 1000000, tpm: 1000000000}}" for n in range(4))
POLICY = f"{governed.POLICY[: governed.POLICY.index('limits:')]}limits:\n{WIDE}\n"
"""Limits that nobody reaches, so that events have rows."""


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Simulator]:
    """Yield the simulated provider."""
    simulator = Simulator(keep_entries=True)
    await simulator.start()
    yield simulator
    await simulator.stop()


@contextlib.asynccontextmanager
async def deployed(connection: KafkaConnection) -> AsyncIterator[Lab]:
    """Yield a deployment with a policy, a key and a meter."""
    await topics.create(connection)
    async with lab(connection) as deployment, deployment.meter():
        await deployment.apply(1, POLICY)
        await deployment.issue(governed.key_of())
        yield deployment


@pytest_asyncio.fixture
async def deployment(broker: Broker, topic_prefix: str) -> AsyncIterator[Lab]:
    """Yield a deployment on the broker of the session."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=PARTITIONS)
    async with deployed(connection) as ready:
        yield ready


async def counted(deployment: Lab) -> Counter[str]:
    """Return the ids on the log, and how often each is counted."""
    return Counter(format_id(event.id) for event in events_of(await deployment.usage()))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_stop_ends_streams_within_the_stated_time(deployment: Lab, provider: Simulator, tmp_path: Path) -> None:
    """Readiness goes first; what has not ended in time is cut and settled; all of it is on the log, once."""
    async with Process(deployment.connection, tmp_path, provider.url, drain_s=1, flush_s=2, fsync="always") as ingress:
        await ingress.start()
        short = [asyncio.create_task(ingress.ask("chunks=4 delay_ms=100", True), name=f"short-{n}") for n in range(4)]
        long = [asyncio.create_task(ingress.ask("chunks=20 delay_ms=900", True), name=f"long-{n}") for n in range(4)]

        async def under_way() -> bool:
            return len(ingress.seen) == 8

        await until(under_way, 20)
        assert (await ingress.status())["wal"]["power_loss_may_take"].startswith("nothing")
        began = time.monotonic()
        code = await ingress.stop()
        took_s = time.monotonic() - began
        await asyncio.gather(*short, *long)
        assert code == 0
        assert took_s <= 1 + 2 + 5
        assert len(ingress.whole) == 4
        assert ingress.segments == {}
        assert await counted(deployment) == Counter(ingress.seen)
        statuses = Counter(event.status for event in events_of(await deployment.usage()))
        assert statuses == {"settled": 4, "cancelled": 4}


PLACES = (
    "ingress.admission_written:5", "ingress.terminal_written:5", "ingress.cut_noted:9", "ingress.replaying",
    "ingress.produced:9", "ingress.replayed", "ingress.segment_begun:2",
)  # fmt: skip
"""Where one run after the other is killed; replays are those of what the run before has left."""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_kill_at_each_step_counts_everything_once(deployment: Lab, provider: Simulator, tmp_path: Path) -> None:
    """Killed at one step after the other: each answer, and each request that got out, is on the log once."""
    async with Process(deployment.connection, tmp_path, provider.url, spool_max_bytes=1024**2) as ingress:
        for place in PLACES:
            await ingress.start(place)
            await ingress.traffic(400, at_once=12)
            assert await ingress.ended() == -signal.SIGKILL, place
        await ingress.start()
        await ingress.traffic(10)
        assert await ingress.stop() == 0
        found = await counted(deployment)
        assert set(found.values()) == {1}
        assert ingress.seen <= set(found)
        assert len(found) >= provider.ledger.totals.requests
        assert ingress.segments == {}


async def folded(ingress: Process) -> int:
    """Return how many events have become sums; many if it is dead."""
    try:
        found: int = (await ingress.status())["wal"]["folded_events"]
        return found
    except httpx.HTTPError:
        return 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["", "ingress.fold_noted"])
async def test_a_spool_that_fills_is_folded_and_replayed_elsewhere(
    tmp_path: Path, provider: Simulator, place: str
) -> None:
    """While the broker is frozen the log folds; killed there, or stopped with code 3, somebody else sends it."""
    async with EmbeddedKafka(tmp_path / "broker") as kafka:
        connection = KafkaConnection(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        async with (
            deployed(connection) as deployment,
            Process(connection, tmp_path, provider.url, spool_max_bytes=1024**2, flush_s=1) as ingress,
        ):
            await ingress.start(place)
            assert kafka.pid is not None
            os.kill(kafka.pid, signal.SIGSTOP)
            try:
                while not ingress.is_dead and not (await folded(ingress)):
                    await ingress.traffic(100, at_once=24)
                if place:
                    assert await ingress.ended() == -signal.SIGKILL
                else:
                    wal = (await ingress.status())["wal"]
                    assert wal["folded_events"] > 100
                    assert wal["bytes"] < 1024**2
                    began = time.monotonic()
                    assert await ingress.stop() == 3
                    assert time.monotonic() - began <= 30 + 1 + 5
                assert ingress.segments
            finally:
                os.kill(kafka.pid, signal.SIGCONT)
            other = await ingress.start("", "--replay", str(tmp_path / "ingress" / "ingress-1"), ready=False)
            assert await other.ended(60) == 0
            assert ingress.segments == {}
            events = events_of(await deployment.usage())
            ids = [event.id for event in events]
            assert len(ids) == len(set(ids))
            stood_for = sum(1 if event.detail is None else event.detail.stands_for for event in events)
            answered = provider.ledger.totals.requests
            assert len(ingress.whole) <= answered <= stood_for <= answered + 24
            settled = [event for event in events if event.status == "settled"]
            unknown = sum(event.charge_requests for event in events if event.status == "unknown")
            assert sum(event.charge_requests for event in settled) >= len(ingress.whole)
            assert sum(event.charge_requests for event in settled) + unknown >= answered
            assert sum(event.usage.all_output for event in settled) == 3 * sum(e.charge_requests for e in settled)
