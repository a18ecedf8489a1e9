"""Composition root: connects the folds to their topics, runs the tasks, serves the API, ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine, Iterator
from itertools import chain
from typing import Any

import structlog
import uvicorn
from aiokafka import TopicPartition

from enforcer.adapters.adjust_log import AdjustLog
from enforcer.adapters.batch_log import BatchLog
from enforcer.adapters.log import Log
from enforcer.adapters.price_list import PriceList
from enforcer.adapters.tail import Offsets, Tail
from enforcer.adjust import AdjustPlane
from enforcer.app import build
from enforcer.batch_routes import add as add_batches
from enforcer.batches import Batcher
from enforcer.control import ControlPlane
from enforcer.core import control as control_core
from enforcer.core.decisions import KEPT_DECISIONS
from enforcer.core.metering import Metering
from enforcer.heartbeat import Heartbeat
from enforcer.prices import PricePlane
from enforcer.services import Services, Views
from enforcer.settings import EnforcerSettings
from enforcer.telemetry import Telemetry
from enforcer.watch import Watch
from schemas.errors import TransportError
from schemas.patience import until_connected
from schemas.topics import DECISIONS, QUOTA_UPDATES, USAGE, topic_name

FULL_SNAPSHOT_WITHIN_MS = 11 * 60_000
"""The meter publishes a full snapshot every 10 minutes; an older one is looked for only if there is none within."""
STOP_S = 5.0

_log = structlog.get_logger("enforcer")


def clock() -> int:
    """Return unix milliseconds."""
    return time.time_ns() // 1_000_000


class QuietServer(uvicorn.Server):
    """A server whose process belongs to somebody else."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Worker:
    """One enforcer."""

    def __init__(self, settings: EnforcerSettings) -> None:
        connection, prefix = settings.kafka, settings.kafka.topic_prefix
        self._settings = settings
        metering = Metering(connection.partitions, clock(), settings.metering_silent_ms, settings.metering_behind_ms)
        self.views = views = Views(connection.partitions, clock, metering)
        topics = {topic_name(topic, prefix): topic for topic in control_core.TOPICS}
        shards = range(connection.partitions)
        self._offsets = offsets = Offsets(connection)
        self._control = Tail(
            connection,
            offsets,
            "control topics",
            [TopicPartition(name, 0) for name in topics],
            views.on_control(topics),
        )
        self._quota = Tail(
            connection, offsets, QUOTA_UPDATES.name,
            [TopicPartition(topic_name(QUOTA_UPDATES, prefix), shard) for shard in shards], views.on_snapshot,
            since_ms=clock() - FULL_SNAPSHOT_WITHIN_MS,
        )  # fmt: skip
        self._decisions = Tail(
            connection, offsets, DECISIONS.name,
            [TopicPartition(topic_name(DECISIONS, prefix), shard) for shard in shards], views.on_decisions,
            newest=KEPT_DECISIONS,
        )  # fmt: skip
        self._log = Log(connection)
        self.services = services = Services(views, self._control, self._quota, self._decisions, clock)
        self.telemetry = telemetry = Telemetry(lambda: chain(services.samples(), self.batcher.samples()))
        self.batcher = Batcher(views.control, BatchLog(connection), telemetry, clock, connection.partitions)
        views.decided = telemetry.decided
        views.undecodable = lambda topic: telemetry.count("undecodable", topic)
        self.plane = ControlPlane(views.control, self._log, self._control, PriceList(), clock, os.urandom)
        self._watch = Watch(
            views.control, views.quota, metering, self._log, self._control, telemetry, clock, views.oddities
        )
        # Its own connection: an answer that does not come must not keep others from theirs.
        self._ends = Offsets(connection)
        self._heartbeat = Heartbeat(
            metering, views.control, self._ends, topic_name(USAGE, prefix), self._watch.wake, clock
        )
        views.changed = self._watch.wake
        self._adjust_log = AdjustLog(connection)
        adjust = AdjustPlane(self.plane, self._adjust_log, offsets, clock)
        app = build(services, self.plane, adjust, telemetry, settings.admin_token.get_secret_value())
        add_batches(app, self.batcher)
        self._server = QuietServer(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, log_config=None, access_log=False, lifespan="off",
                timeout_graceful_shutdown=int(STOP_S),
            )
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until `stopping` is set or something fails; what fails comes out here."""
        try:
            self._spawn("http", self._serve())
            self._spawn("feed", self._feed())
            self._spawn("signals", self._until(stopping))
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._stop()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _until(self, stopping: asyncio.Event) -> None:
        await stopping.wait()

    async def _serve(self) -> None:
        try:
            await self._server.serve()
        except SystemExit as error:
            raise OSError(f"cannot listen on {self._settings.host}:{self._settings.port}") from error

    async def _feed(self) -> None:
        """Connect, read everything, complete what was left half done, then judge for as long as nothing fails."""
        await self._connect()
        async with asyncio.TaskGroup() as tasks:
            for tail in (self._control, self._quota, self._decisions):
                tasks.create_task(tail.run(), name=f"tail {tail.name}")
            await self._control.caught_up.wait()
            await self._quota.caught_up.wait()
            await self._look_further_back()
            await self._recover()
            self.services.recovered = True
            _log.info("ready", policy_version=self.views.control.version, keys=len(self.views.control.keys))
            tasks.create_task(self._watch.run(), name="watch")
            tasks.create_task(self._heartbeat.run(), name="heartbeat")
            tasks.create_task(PricePlane(self.plane, clock).keep(), name="prices")
            tasks.create_task(self.batcher.run(), name="batches")

    async def _connect(self) -> None:
        """Connect to the broker, several times if need be; an open transaction of an earlier run ends here."""
        await until_connected(
            self._settings.kafka, "TOLLWAY_ENFORCER_", self._connect_once, self._disconnect, _log.warning
        )

    async def _connect_once(self) -> None:
        await self._offsets.start()
        await self._ends.start()
        await self._log.start()
        for tail in (self._control, self._quota, self._decisions):
            await tail.start()

    async def _recover(self) -> None:
        while True:
            try:
                await self.plane.recover()
                return
            except TransportError as error:
                _log.warning("cannot complete the last run's changes yet", error=str(error))
                await asyncio.sleep(1.0)

    async def _look_further_back(self) -> None:
        """Read what is retained of partitions in whose last minutes there was no full snapshot."""
        lacking = [part for part in self._quota.partitions if not self.views.quota.shards[part.partition].whole]
        if lacking:
            await self._quota.rewind(lacking)
            await self._quota.caught_up.wait()

    async def _disconnect(self) -> None:
        await self._log.stop()
        await self._adjust_log.stop()
        for reader in (self._control, self._quota, self._decisions, self._offsets, self._ends):
            await reader.stop()

    async def _stop(self) -> None:
        self._server.should_exit = True
        http, *others = self._tasks
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S + 1):
                await asyncio.gather(http, return_exceptions=True)
        await self._disconnect()
