"""The composition root of an ingress replica: what there is, in which order it starts and stops, and how it is.

Start: the log of earlier runs is found and the pool made; the port answers (503 on metered routes) while policy, keys
and blocks are read, earlier logs are sent and the meter gives a share; then requests are admitted.
Stop: no new connection, running requests end within the drain time, everything journalled is sent, the epoch ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import structlog

from ingress.adapters.drains import Drains
from ingress.adapters.driver import IdSource, Services, wall_clock_ms
from ingress.adapters.governance import Governance
from ingress.adapters.http import application
from ingress.adapters.producer import Producer
from ingress.adapters.provider_pool import ProviderPool
from ingress.adapters.safety import Safety
from ingress.adapters.server import HttpServer
from ingress.adapters.sightings import TELL_S, Sightings
from ingress.adapters.targets import TargetBook
from ingress.adapters.waiting import Waiting
from ingress.core.ports import Context
from ingress.core.resolver import Resolver
from ingress.core.rows import bounds_by_rule
from ingress.core.stats import Stats
from ingress.settings import IngressSettings
from ingress.telemetry import (
    BOUND,
    CONNECTIONS,
    EPOCH,
    OPENED,
    POLICY_VERSION,
    READY,
    RETRIED,
    REUSED,
    ROWS,
    STALENESS,
    UNDER_WAY,
    UNSENT,
    UNSYNCED,
    WAITING,
    WAL_AGE,
    WAL_ALARM,
    WAL_BYTES,
    WAL_DROPPED,
    WAL_FOLDED,
    WAL_FULL,
    WAL_MAX,
    Reading,
    registry,
    request_logger,
)
from schemas.published import DRAIN_S, LEASE_MS, OVERSHOOT_BOUND, PROPAGATION_P99_MS, SELF_FENCE_MS
from schemas.rows import Measure
from schemas.topics import BATCHES, topic_name

LEFT = 3
"""Exit code of a clean stop that has left events on the log: its next run sends them."""
WATCH_S = 0.02
_log = structlog.get_logger("ingress")


class Ingress:
    """One replica. Make it on the running loop; tells `http` how it is."""

    def __init__(self, settings: IngressSettings) -> None:
        """Open the log and put the parts together; ConfigError if the state directory cannot be used."""
        self._settings = settings
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done with the fault after which the process has to end."""
        self.stats = Stats()
        self._context = Context(settings.instance, settings.kafka.partitions, self.stats, IdSource())
        self._context.target_of = TargetBook(settings.simulated_url)
        self._safety = Safety.of(settings)
        self._governance = Governance(
            settings.kafka,
            settings.instance,
            settings.wal_dir,
            now_ms=wall_clock_ms,
            on_resolver=self._policy_in_force,
            on_fault=self._fault,
            safety=self._safety,
        )
        self._governance.spool.on_problem = self._spool_changed
        if (syncer := self._governance.journal.log.syncer) is not None:
            self.stats.syncs = syncer.latencies
        self.stats.laps = self._governance.laps.spreads
        self._pool = ProviderPool()
        self._waiting = Waiting(self._governance.registry.waiting, wall_clock_ms)
        self._sightings = Sightings(
            Producer(settings.kafka, f"{settings.instance}-batches"),
            topic_name(BATCHES, settings.kafka.topic_prefix),
            self.stats,
        )
        services = Services(
            self._context,
            self._pool,
            self._governance.journal,
            wall_clock_ms,
            self._waiting,
            request_logger(settings.request_log),
            Drains(settings.most_drains),
            settings.upload_s,
            self._sightings,
        )
        self._server = HttpServer(application(self, registry(self.stats, self._readings)), services, settings)
        self._opener: asyncio.Task[None] | None = None
        self._is_open = self._is_stopping = False

    async def start(self) -> None:
        """Listen and begin to get ready; OSError if the port is taken."""
        self._context.closed = self._governance.problem
        self._governance.start()
        self._opener = asyncio.get_running_loop().create_task(self._open_when_ready(), name="open-when-ready")
        await self._server.start()
        _log.info("listening", instance=self._settings.instance, host=self._settings.host, port=self._server.port)

    async def stop(self) -> bool:
        """Drain, send what is journalled, end the epoch; True if the broker has everything."""
        self._is_stopping = True
        if self._opener is not None:
            self._opener.cancel()
            await asyncio.gather(self._opener, return_exceptions=True)
        self._waiting.drain()
        await self._server.stop()
        self._pool.abort()
        await self._pool.close()
        await self._sightings.stop(min(self._settings.flush_s, TELL_S))
        is_clean = await self._governance.stop(self._settings.flush_s)
        _log.info("stopped", everything_sent=is_clean, unsent_events=self._governance.journal.unsent_events)
        return is_clean

    async def _open_when_ready(self) -> None:
        """Admit requests once everything is there; from then on each partition's own state decides."""
        context = self._context
        while self._governance.problem:
            context.closed = self._governance.problem
            await asyncio.sleep(WATCH_S)
        context.closed = ""
        self._is_open = True
        _log.info("ready", epoch=self._governance.journal.epoch, policy=self.policy_version)

    def _policy_in_force(self, resolver: Resolver) -> None:
        self._context.resolver = resolver

    def _spool_changed(self) -> None:
        """Refuse what is new while there is no room for its events; what was admitted goes on."""
        context, problem = self._context, self._governance.spool.problem
        context.closed_reason = "spool_full" if problem else "not_ready"
        if problem or self._is_open:
            context.closed = problem

    def _fault(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    # -- `http.Insight` ------------------------------------------------------------------------------------------

    @property
    def resolver(self) -> Resolver | None:
        """The policy in force."""
        return self._context.resolver

    @property
    def policy_version(self) -> int:
        """Version of the policy in force; 0 without one."""
        return 0 if self.resolver is None else self.resolver.policy_version

    def now_ms(self) -> int:
        """Return unix milliseconds."""
        return wall_clock_ms()

    def waiting(self) -> list[str]:
        """Return what is missing before requests are admitted."""
        if self._is_stopping:
            return ["the ingress is stopping"]
        problem = self._governance.problem or self._context.closed
        return [problem] if problem else []

    def status(self) -> dict[str, Any]:
        """Return the state of this replica."""
        governance, pool, journal = self._governance, self._pool, self._governance.journal
        spool, waiting = governance.spool, self.waiting()
        return {
            "instance": self._settings.instance,
            "ready": not waiting,
            "waiting": waiting,
            "epoch": journal.epoch,
            "rejoins": governance.rejoins,
            "policy": {"version": self.policy_version, "faults": governance.views.policy_faults},
            "keys": len(governance.views.keyring),
            "partitions": [
                {
                    "partition": shard.partition,
                    "member": shard.is_member,
                    "weight": [shard.weight.num, shard.weight.den],
                    "fence": shard.fence,
                    "staleness_ms": staleness_ms,
                    "rows": len(shard.rows),
                }
                for shard, staleness_ms in zip(governance.registry.shards, governance.staleness_ms(), strict=True)
            ],
            "wal": {
                "bytes": spool.size,
                "max_bytes": spool.max_bytes,
                "alarm": spool.alarm,
                "full": bool(spool.problem),
                "oldest_s": spool.oldest_ms // 1000,
                "folded_events": spool.folded_events,
                "dropped_decisions": spool.dropped_decisions,
                "fsync": self._safety.fsync,
                "power_loss_may_take": self._safety.power_loss,
                "unsynced_bytes": self._unsynced_bytes(),
                "fsync_worst_ms": round(self.stats.syncs.worst_ms, 3),
                "unsent_events": journal.unsent_events,
                "open_admissions": journal.open_admissions,
                "replayed": governance.sender.has_replayed,
                "ack_age_ms": governance.sender.ack_age_ms,
            },
            "requests": {
                "in_flight": self.stats.in_flight,
                "draining": self.stats.draining,
                "bugs": self.stats.bugs,
            },
            "propagation_ms": governance.laps.summary(self.now_ms()),
            "overshoot_bounds": governance.registry.may_miss(),
            "connections": {
                "clients": self._server.connections,
                "providers_open": pool.open_connections,
                "providers_idle": pool.idle_connections,
                "providers_waiting": pool.waiting_requests,
            },
            "published": {
                "propagation_p99_ms": PROPAGATION_P99_MS,
                "overshoot_bound": OVERSHOOT_BOUND,
                "lease_ms": LEASE_MS,
                "self_fence_ms": SELF_FENCE_MS,
                "drain_s": DRAIN_S,
            },
        }

    def _readings(self) -> Iterator[Reading]:
        governance, pool, journal = self._governance, self._pool, self._governance.journal
        yield READY, (), float(not self.waiting())
        yield POLICY_VERSION, (), self.policy_version
        yield EPOCH, (), journal.epoch
        for partition, staleness_ms in enumerate(governance.staleness_ms()):
            if staleness_ms >= 0:
                yield STALENESS, (str(partition),), staleness_ms / 1000
        yield UNDER_WAY, (), governance.laps.under_way_ms(self.now_ms()) / 1000
        for (rule, measure), amount in bounds_by_rule(governance.registry.may_miss()).items():
            yield BOUND, (rule, measure), amount / 1e9 if measure == Measure.COST else amount
        yield ROWS, (), sum(len(shard.rows) for shard in governance.registry.shards)
        yield from self._wal_readings()
        yield UNSENT, (), journal.unsent_events
        yield CONNECTIONS, ("idle",), pool.idle_connections
        yield CONNECTIONS, ("busy",), pool.open_connections - pool.idle_connections
        yield WAITING, (), pool.waiting_requests
        yield OPENED, (), pool.opened_total
        yield REUSED, (), pool.reused_total
        yield RETRIED, (), pool.retried_total

    def _wal_readings(self) -> Iterator[Reading]:
        spool = self._governance.spool
        yield WAL_BYTES, (), spool.size
        yield WAL_MAX, (), spool.max_bytes
        yield WAL_AGE, (), spool.oldest_ms / 1000
        yield WAL_ALARM, (), float(bool(spool.alarm))
        yield WAL_FULL, (), float(bool(spool.problem))
        yield WAL_FOLDED, (), spool.folded_events
        yield WAL_DROPPED, (), spool.dropped_decisions
        yield UNSYNCED, (), self._unsynced_bytes()

    def _unsynced_bytes(self) -> int:
        journal = self._governance.journal
        syncer = journal.log.syncer
        return journal.wal_bytes if syncer is None else syncer.unsynced_bytes


async def run(settings: IngressSettings, stopping: asyncio.Event) -> int:
    """Run a replica until `stopping` is set or a fault; return the exit code."""
    ingress = Ingress(settings)
    try:
        await ingress.start()
    except OSError as error:
        _log.error("cannot listen", host=settings.host, port=settings.port, fault=str(error))
        await ingress.stop()
        return 1
    stopped = asyncio.get_running_loop().create_task(stopping.wait(), name="signals")
    ends: set[asyncio.Future[Any]] = {stopped, ingress.failed}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if ingress.failed.done():
        _log.critical("the ingress ends", exc_info=ingress.failed.result())
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await ingress.stop()
        return 1
    _log.info("stopping", drain_s=settings.drain_s, flush_s=settings.flush_s)
    return 0 if await ingress.stop() else LEFT
