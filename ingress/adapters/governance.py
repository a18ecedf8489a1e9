"""Puts together what governs requests (rows, journal, sender, views of a replica) as one thing to start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from ingress.adapters.epochs import StateDir
from ingress.adapters.journal import Journal
from ingress.adapters.leftover import left_behind
from ingress.adapters.producer import Producer
from ingress.adapters.reserve import LOG, Reserve
from ingress.adapters.safety import DEFAULT_SAFETY, Safety
from ingress.adapters.sender import Sender
from ingress.adapters.spool import Spool
from ingress.adapters.views import Views
from ingress.adapters.wal import Wal
from ingress.core.admission import Registry
from ingress.core.laps import Laps
from ingress.core.resolver import Resolver
from schemas.connection import KafkaConnection
from schemas.topics import DECISIONS, USAGE, topic_name

CLOSE_S = 4.0
"""How long connections to the broker may take to close."""
_log = structlog.get_logger("ingress.governance")


class Governance:
    """Everything between a request and Kafka. Make it on the running loop."""

    def __init__(
        self,
        connection: KafkaConnection,
        instance: str,
        state_dir: Path,
        *,
        now_ms: Callable[[], int],
        on_resolver: Callable[[Resolver], None],
        on_fault: Callable[[BaseException], None],
        safety: Safety = DEFAULT_SAFETY,
        segment_bytes: int = 0,
    ) -> None:
        """Open the log and read what earlier runs left.

        Args:
            connection: of the deployment.
            instance: stable name of this replica.
            state_dir: its own directory.
            now_ms: the wall clock.
            on_resolver: called with each policy that comes into force.
            on_fault: called when the process has to stop: the log cannot be written, or a task has failed.
            safety: how safe the log is, and how large it may become.
            segment_bytes: size of the log's files; 0: as the bound suggests.

        Raises:
            ConfigError: another process uses `state_dir`, or it belongs to a deployment with other partitions.
            WalCorrupt: the log of an earlier run is broken in its middle.
        """
        self._now_ms = now_ms
        self._state_dir = StateDir(state_dir)
        self.instance = instance
        self.rejoins = 0
        try:
            size = segment_bytes or safety.segment_bytes
            reserve = Reserve(self._state_dir.wal, size)
            backlogs = left_behind(self._state_dir.wal, connection.partitions, safety.bound.max_bytes, reserve)
            epoch = self._state_dir.next_epoch(now_ms() // 1000)
        except BaseException:
            self._state_dir.release()
            raise
        prefix = connection.topic_prefix
        self.registry = Registry(connection.partitions)
        self.laps = Laps(connection.partitions)
        self.producer = Producer(connection, instance)
        wal = Wal(self._state_dir.wal, epoch, size)
        self.journal = Journal(
            wal, self.registry, instance, epoch, on_fault=on_fault, syncer=safety.syncer_of(wal, on_fault),
            take_reserve=lambda: reserve.take(LOG),
        )  # fmt: skip
        self.sender = Sender(
            self.journal,
            self.registry,
            self.producer,
            usage_topic=topic_name(USAGE, prefix),
            decisions_topic=topic_name(DECISIONS, prefix),
            backlogs=backlogs,
            now_ms=now_ms,
            on_fault=on_fault,
            laps=self.laps,
        )
        self.spool = Spool(
            self.journal,
            safety.bound,
            reserve,
            backlog_bytes=lambda: self.sender.replay.size,
            backlog_since_ms=lambda: 0 if self.sender.replay.is_done else self.sender.replay.since_ms,
            now_ms=now_ms,
            on_fault=on_fault,
        )
        self.sender.on_watch = self.spool.look
        self.journal.on_dirty = self.sender.note_dirty
        self.registry.waiting.on_want = self.sender.note_urgent

        def resolved(resolver: Resolver) -> None:
            self.sender.policy_version = resolver.policy_version
            on_resolver(resolver)

        self.views = Views(
            connection,
            self.registry,
            instance,
            epoch=lambda: self.journal.epoch,
            now_ms=now_ms,
            on_resolver=resolved,
            on_ack_due=self.sender.note_dirty,
            on_rejoin=self._rejoin,
            on_fault=on_fault,
            laps=self.laps,
        )
        self._starter: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read and to send. Readiness follows by itself: see `problem`."""
        self.views.start()
        self._starter = asyncio.create_task(self._start_sending(), name="start-sending")

    async def _start_sending(self) -> None:
        # The snapshot that answers the first record must not be missed.
        await self.views.started.wait()
        self.sender.start()

    def _rejoin(self, why: str) -> None:
        if self.sender.is_stopping:
            return  # the meter has read of the end: that this replica is no member any more is as it should be
        self.rejoins += 1
        epoch = self._state_dir.next_epoch(self._now_ms() // 1000)
        _log.warning("new_epoch", epoch=epoch, why=why)
        self.journal.switch_epoch(epoch)
        for shard in self.registry.shards:
            self.sender.note_dirty(shard.partition)

    @property
    def resolver(self) -> Resolver | None:
        """The policy in force; None before the first."""
        return self.views.resolver

    @property
    def is_detached(self) -> bool:
        """Whether the broker has acknowledged nothing for so long that admissions have stopped."""
        return not self.sender.is_attached

    @property
    def problem(self) -> str:
        """Why this replica is not ready; empty if it is."""
        if problem := self.views.problem or self.spool.problem:
            return problem
        if self.registry.is_failing(self._now_ms()):
            gone = next(shard.missing for shard in self.registry.shards if shard.missing is not None)
            told = {"kafka": "the broker acknowledges nothing", "meter": "the meter publishes nothing"}[gone]
            return f"{told}, and the policy's failure table stops requests"
        begun = any(shard.backed_until_ms for shard in self.registry.shards)
        return "" if begun or not self.is_detached else "the broker acknowledges nothing"

    def staleness_ms(self) -> list[int]:
        """Return by partition how long ago a snapshot was installed; -1 for never."""
        now_ms = self._now_ms()
        return [shard.staleness_ms(now_ms) for shard in self.registry.shards]

    async def stop(self, deadline_s: float) -> bool:
        """Send what is journalled, end the epoch, close; True if the log was needed no more and is deleted."""
        if self._starter is not None:
            self._starter.cancel()
            await asyncio.gather(self._starter, return_exceptions=True)
        await self.spool.stop()
        is_clean = await self.sender.stop(deadline_s)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.views.stop()
                await self.producer.stop()
        except TimeoutError:
            _log.info("connections_left_behind")
        self.journal.close(delete=is_clean)
        self.spool.close()
        self._state_dir.release()
        return is_clean
