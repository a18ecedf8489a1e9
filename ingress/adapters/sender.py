"""Sends what is journalled to Kafka: earlier runs first, then a record a tick and partition, and heartbeats.

One task a partition, one record in flight, at most one a tick unless a whole one waits: what comes meanwhile goes into
the next record, so neither load nor an outage makes many small ones. The moment at which an acknowledged record was
cut decides until when this replica may admit (its share is given away if the log is silent about it for longer).
Decides nothing about rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from ingress.adapters.journal import Journal
from ingress.adapters.marks import Outgoing
from ingress.adapters.recovery import Backlog
from ingress.adapters.replay import Deliverer, Replay
from ingress.core.admission import Registry
from ingress.core.laps import Laps
from schemas.published import HEARTBEAT_MS, MAX_EVENTS_PER_RECORD, SELF_FENCE_MS, TICK_MS

GATHER_S = 0.002
"""What ends together goes into one record, also where no record was cut for a while."""
WATCH_S = 0.25
SWEEP_EVERY = 20
_log = structlog.get_logger("ingress.sender")


class _Clockwork:
    """When a partition's next record is due."""

    __slots__ = ("acked_at", "cut_at", "due", "is_ticking")

    def __init__(self, now: float) -> None:
        self.due = asyncio.Event()
        self.is_ticking = False
        self.cut_at = now
        self.acked_at = now
        """Loop time at which the last acknowledged record was cut."""


class Sender:
    """Drains the journal into the `usage` and `decisions` topics."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        producer: Deliverer,
        *,
        usage_topic: str,
        decisions_topic: str,
        backlogs: list[Backlog],
        now_ms: Callable[[], int],
        on_fault: Callable[[BaseException], None],
        laps: Laps | None = None,
    ) -> None:
        """Prepare to send.

        Args:
            journal: of this run; its `on_dirty` has to be `note_dirty`.
            registry: is told until when admissions are allowed.
            producer: delivers in order what is delivered in order.
            usage_topic: with the prefix.
            decisions_topic: with the prefix.
            backlogs: of earlier runs, oldest first.
            now_ms: the wall clock.
            on_fault: called when a task of this sender fails: the process has to stop.
            laps: told of every record that is cut.
        """
        self._journal = journal
        self._registry = registry
        self._producer = producer
        self._usage, self._decisions = usage_topic, decisions_topic
        self.replay = Replay(backlogs, producer, usage_topic, decisions_topic, len(registry.shards), now_ms)
        self._now_ms = now_ms
        self._on_fault = on_fault
        self._laps = laps
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._clocks: list[_Clockwork] = []
        self._is_stopping = False
        self._ends_epoch = False
        self.on_watch: Callable[[], None] = _nothing
        """Called some times a second."""
        self.policy_version = 0
        self.sent_records = 0
        for partition in range(len(registry.shards)):
            registry.attach(partition, 0)

    def start(self) -> None:
        """Begin to send on the running loop."""
        now = asyncio.get_running_loop().time()
        self._clocks = [_Clockwork(now) for _ in self._registry.shards]
        self._tasks = [self._spawn(f"send-{p}", self._lane(p)) for p in range(len(self._clocks))]
        self._watcher = self._spawn("send-watch", self._watch())

    def note_dirty(self, partition: int) -> None:
        """Send a record of this partition a tick after the last one, or nearly at once if that is longer ago."""
        if not self._clocks:
            return
        clock = self._clocks[partition]
        if not clock.is_ticking:
            clock.is_ticking = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(clock.cut_at + TICK_MS / 1000, loop.time() + GATHER_S), clock.due.set)

    def note_urgent(self, partition: int) -> None:
        """Send a record of this partition as soon as the one before is delivered: requests wait for its answer."""
        if self._clocks:
            self._clocks[partition].due.set()

    @property
    def is_stopping(self) -> bool:
        """Whether this run is ending: its epoch is closed, or left to the next run."""
        return self._is_stopping

    @property
    def ack_age_ms(self) -> int:
        """How long ago the oldest of the partitions' last acknowledged records was cut."""
        now = asyncio.get_running_loop().time()
        return int(max((now - clock.acked_at for clock in self._clocks), default=0.0) * 1000)

    @property
    def is_attached(self) -> bool:
        """Whether admissions are allowed in every partition, as far as the broker's acknowledgements go."""
        now_ms = self._now_ms()
        return all(now_ms < shard.fence_at_ms for shard in self._registry.shards)

    @property
    def has_replayed(self) -> bool:
        """Whether everything that earlier runs had left is with the broker."""
        return self.replay.is_done

    async def stop(self, deadline_s: float) -> bool:
        """Send what is journalled and end the epoch, within `deadline_s`; True if nothing is left on the log.

        Call it when requests have ended. One that has not is for the next run to tell of, so this epoch stays open.
        """
        self._is_stopping = True
        self._ends_epoch = bool(self._tasks) and not self._journal.open_admissions
        if self._ends_epoch:
            self._journal.seal()
        for clock in self._clocks:
            clock.due.set()
        try:
            async with asyncio.timeout(deadline_s):
                ends = await asyncio.gather(*self._tasks, return_exceptions=True)
                is_clean = self._ends_epoch and not any(ends)
        except TimeoutError:
            is_clean = False
        tasks = [*self._tasks, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return is_clean

    # ---------------------------------------------------------------------------------------------------- a lane

    async def _lane(self, partition: int) -> None:
        await self.replay.run(partition)
        lane, clock = self._journal.lanes[partition], self._clocks[partition]
        loop = asyncio.get_running_loop()
        while True:
            is_last_round = self._is_stopping
            await self._send(partition)
            waiting = lane.events.waiting or lane.decisions.waiting
            if lane.events.waiting >= MAX_EVENTS_PER_RECORD or len(lane.epochs) > 1 or (waiting and is_last_round):
                continue
            if is_last_round:
                break
            if waiting:
                self.note_dirty(partition)
            heartbeat = loop.call_at(clock.cut_at + HEARTBEAT_MS / 1000, clock.due.set)
            await clock.due.wait()
            heartbeat.cancel()
        if self._ends_epoch:
            await self._journal.log.until_rolled()
            await self._deliver(partition, self._journal.cut(partition, self._now_ms(), self.policy_version, True))
            self._journal.acknowledged(partition)

    async def _send(self, partition: int) -> None:
        """Send one record, and the decisions that wait."""
        journal, clock = self._journal, self._clocks[partition]
        if journal.log.is_rolling:
            await journal.log.until_rolled()
        clock.due.clear()
        clock.is_ticking = False
        now_ms = self._now_ms()
        cut_at = clock.cut_at = asyncio.get_running_loop().time()
        record = journal.cut(partition, now_ms, self.policy_version)
        if self._laps is not None:
            self._laps.begin(partition, record.epoch, record.seq, now_ms, record.carries_usage)
        offset = await self._deliver(partition, record)
        journal.acknowledged(partition)
        clock.acked_at = cut_at
        if record.epoch == journal.epoch:
            self._registry.acknowledged(partition, offset, now_ms + SELF_FENCE_MS, self._now_ms())
        decisions = journal.take_decisions(partition)
        if decisions is not None:
            await self._producer.deliver(self._decisions, partition, decisions)
            journal.decisions_acknowledged(partition)

    async def _deliver(self, partition: int, record: Outgoing) -> int:
        syncer = self._journal.log.syncer
        if syncer is not None and self._journal.must_sync(partition):
            await syncer.wait()
        offset = await self._producer.deliver(self._usage, partition, record.value)
        self.sent_records += 1
        return offset

    # ------------------------------------------------------------------------------------------------- the watch

    async def _watch(self) -> None:
        """Stop admissions that the broker has not backed for too long, whatever the wall clock does; sweep rows."""
        loop = asyncio.get_running_loop()
        rounds = 0
        while True:
            await asyncio.sleep(WATCH_S)
            for partition, clock in enumerate(self._clocks):
                if loop.time() - clock.acked_at > SELF_FENCE_MS / 1000:
                    self._registry.attach(partition, 0)
            self._registry.look_for_failures(self._now_ms())
            self.on_watch()
            rounds += 1
            if rounds % SWEEP_EVERY == 0:
                self._registry.sweep(self._now_ms())

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("sender_failed", task=task.get_name(), fault=f"{type(error).__name__}: {error}")
            self._on_fault(error)


def _nothing() -> None:
    """Do nothing."""
