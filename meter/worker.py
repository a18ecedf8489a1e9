"""The meter's process: records from Faust into the folds; snapshots, changelog, evictions and dead letters out.

Everything that decides is in `core` and `adapters.partition`; here is the order of effects:

* A record is acknowledged only after the changelog holds a state beyond it (`_flush`).
* Nothing is published before the fold has passed what a predecessor may have published (`Partition.caught_up`).
* A fault of the meter itself ends the process, without a last flush: the log is folded again from the last one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from meter.adapters.broker import until_connected
from meter.adapters.engine import Engine
from meter.adapters.log_ends import LogEnds
from meter.adapters.outlet import KafkaOutlet
from meter.adapters.partition import Partition, parts_of
from meter.core.changelog import META, Changelog
from meter.core.faults import Fault
from meter.core.shard import Shard
from meter.ports import Host, LogBounds, Outlet
from meter.settings import MeterSettings
from meter.telemetry import Metrics
from schemas.codec import encode_json, encode_record
from schemas.crash_points import crash_here
from schemas.deadletters import DeadLetter
from schemas.errors import TransportError
from schemas.published import CHANGELOG_MS
from schemas.topics import QUOTA_UPDATES, USAGE_DLQ, topic_name
from schemas.usage import Evict

_log = structlog.get_logger("meter")

LOG_CHECK_S = 1.0
RESYNC_MS = 800
ASK_TIMEOUT_S = 3.0
LEAVE_S = 2.0
"""How long each step may take that is not needed any more when the meter stops."""
MAX_UNDELIVERED = 64
"""Snapshots of one partition that the broker has not taken yet; more are not made until it has."""
FLUSH_SHARE = 4
"""The changelog may take up to one part in this many of the time."""
FLUSH_BYTES_PER_S = 4 << 20
"""And this much, before compression: what is written has to be read back at the next start until it is compacted."""


def build(settings: MeterSettings) -> Worker:
    """Return a worker on Kafka and Faust."""
    engine = Engine(settings)
    name = settings.group_instance
    # A producer has one request at a time under way: the large changelog must not hold snapshots up.
    updates = KafkaOutlet(settings.kafka, f"{name}-updates")
    state = KafkaOutlet(settings.kafka, f"{name}-state", compression="lz4")
    return Worker(settings, engine, updates, state, LogEnds(settings.kafka, engine.usage))


class Worker:
    """One meter process."""

    def __init__(
        self, settings: MeterSettings, engine: Host, updates: Outlet, state: Outlet, log_ends: LogBounds
    ) -> None:
        """Join the parts: `updates` takes all but the changelog, which goes to `state`."""
        self._settings = settings
        prefix = settings.kafka.topic_prefix
        self._updates_topic = topic_name(QUOTA_UPDATES, prefix)
        self._dlq_topic = topic_name(USAGE_DLQ, prefix)
        self._run_id = f"{settings.group_instance}-{uuid.uuid4().hex[:12]}"
        self._engine = engine
        self._updates = updates
        self._state = state
        self._log_ends = log_ends
        self._partitions: dict[int, Partition] = {}
        self._undelivered: dict[int, int] = {}
        self._letters: dict[int, list[asyncio.Future[object]]] = {}
        self._is_searching = self._recovered = False
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Set with the fault that the process has to end for."""
        self.metrics = Metrics(self._partitions.values)
        self._engine.table.on_recover(self._guarded(self.take_up))
        self._engine.app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self._engine.app.agent(self._engine.source, name="meter", concurrency=1)(self.fold)

    def waiting(self) -> list[str]:
        """Return what is missing until this worker is ready, in words."""
        if self._is_searching:
            return ["the broker"]
        if not self._recovered:
            return ["the state to be read back from quota.state"]
        return [
            f"partition {part.number}: fold at {part.shard.fence} of {part.barrier}"
            for part in self._partitions.values()
            if not part.caught_up
        ]

    async def start(self) -> None:
        """Wait for the broker, connect, and begin to fold; TransportError if there is none in time."""
        self._is_searching = True
        await until_connected(self._settings.kafka, "TOLLWAY_METER_", self._connect, self._disconnect)
        self._is_searching = False
        await self._engine.start(self._fences)
        for name, body in (
            ("publish", self._publish_forever),
            ("flush", self._flush_forever),
            ("log", self._watch_log),
            ("engine", self._watch_engine),
        ):
            self._tasks.append(asyncio.create_task(self._guarded(body)(), name=name))

    async def _connect(self) -> None:
        await self._updates.start()
        await self._state.start()
        await self._log_ends.start()
        # A broker that is starting takes connections before its partitions have leaders.
        await self._log_ends.ends(list(range(self._settings.kafka.partitions)))

    async def _disconnect(self) -> None:
        for part in (self._updates, self._state, self._log_ends):
            await part.stop()

    async def stop(self) -> None:
        """Publish and flush a last time, commit, and leave."""
        async with self._flushing:  # a flush that has begun must end: its slots count as written
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._publish_due(last=True)
        await self.flush()
        # The state is on the log: who comes next needs nothing more, and a client may look for its broker for long.
        await _leave("commit", self._engine.app.consumer.commit())
        await _leave("disconnect", self._disconnect())
        await _leave("end the engine", self._engine.app.stop())

    # --------------------------------------------------------------------------------------------------- folding

    async def fold(self, stream: Any) -> None:
        """Take every record of the assigned partitions, each in the order of its log."""
        try:
            async for event in stream.noack().events():
                message = event.message
                part = self._partitions.get(message.partition)
                if part is None:
                    continue  # of an assignment that has ended
                if message.offset > part.shard.fence and not await self._accept_hole(part, message.offset):
                    continue
                fault = part.take(message.offset, round(message.timestamp * 1000), message.value, event)
                crash_here("meter.folded")
                if fault is not None:
                    await self._report(part, message.offset, message.value, fault)
                if part.shard.urgent:
                    self._wake.set()
        except Exception as error:
            self._fail(error)

    async def _accept_hole(self, part: Partition, offset: int) -> bool:
        """Return whether the records before `offset` are gone for good; else read again from where the state ends."""
        if _now_ms() - part.resynced_ms < RESYNC_MS:
            return False  # still of what was under way before
        beginning = (await self._log_ends.beginnings([part.number]))[part.number]
        if part.shard.fence < beginning == offset:
            _log.error("records lost to retention", partition=part.number, first=part.shard.fence, last=offset - 1)
            return True
        await self._resync(part)
        return False

    async def _resync(self, part: Partition) -> None:
        """Let the engine read from where the state ends."""
        part.resynced_ms = _now_ms()
        _log.info("reading again", partition=part.number, offset=part.shard.fence)
        await self._engine.seek(part.number, part.shard.fence)

    async def _report(self, part: Partition, offset: int, value: bytes, fault: Fault) -> None:
        _log.warning("bad record", kind=fault.kind, partition=part.number, offset=offset, reason=fault.reason)
        if not fault.is_dead_letter:
            self.metrics.gaps.inc()
            return
        self.metrics.dead_letters.labels(fault.kind).inc()
        letter = DeadLetter(self._engine.usage, part.number, offset, fault.reason, _wall_ms(), value)
        sent = await self._updates.send(self._dlq_topic, part.number, encode_json(letter))
        self._letters.setdefault(part.number, []).append(sent)

    # --------------------------------------------------------------------------------------------------- effects

    async def _publish_forever(self) -> None:
        while True:
            await self._publish_due()
            now = _now_ms()
            waits = [due for part in self._partitions.values() if (due := part.due_in_ms(now)) is not None]
            self._wake.clear()
            try:
                async with asyncio.timeout(max(1, min(waits, default=50)) / 1000):
                    await self._wake.wait()
            except TimeoutError:
                continue
            # Something changed: sleep out what is left of the interval since the last snapshot.
            now = _now_ms()
            waits = [due for part in self._partitions.values() if (due := part.due_in_ms(now)) is not None]
            await asyncio.sleep(min(waits, default=0) / 1000)

    async def _publish_due(self, last: bool = False) -> None:
        for part in list(self._partitions.values()):
            due = part.due_in_ms(_now_ms())
            if due is None or (due and not (last and part.shard.urgent)):
                continue
            if self._undelivered.get(part.number, 0) >= MAX_UNDELIVERED:
                continue
            await self._publish(part)

    async def _publish(self, part: Partition) -> None:
        wall_ms = _wall_ms()
        if part.shard.urgent:
            self.metrics.publish_delay_seconds.observe(max(0, wall_ms - part.shard.log_ms) / 1000)
        for record in part.snapshot(_now_ms(), wall_ms):
            sent = await self._updates.send(self._updates_topic, part.number, record)
            self._undelivered[part.number] = self._undelivered.get(part.number, 0) + 1
            sent.add_done_callback(partial(self._delivered, part.number))
            self.metrics.snapshots.inc()

    def _delivered(self, partition: int, future: asyncio.Future[object]) -> None:
        self._undelivered[partition] -= 1
        if not future.cancelled() and (error := future.exception()) is not None:
            self._fail(error)
        crash_here("meter.published")

    async def _flush_forever(self) -> None:
        pause = CHANGELOG_MS / 1000
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            written = await self.flush()
            took = time.monotonic() - began
            pause = max(CHANGELOG_MS / 1000, took * (FLUSH_SHARE - 1), written / FLUSH_BYTES_PER_S - took)

    async def flush(self) -> int:
        """Make everything that was folded durable, and acknowledge it; return how many bytes that took."""
        async with self._flushing:
            return sum([await self._flush(part) for part in list(self._partitions.values())])

    async def _flush(self, part: Partition) -> int:
        """Write what changed, slot by slot with room for the fold in between, meta last; then acknowledge."""
        flush = part.flush()
        if flush is None:
            return 0
        written = len(flush.meta)
        with self.metrics.flush_seconds.time():
            sent = self._letters.pop(part.number, [])
            for name in flush.slots:
                if self._partitions.get(part.number) is not part:
                    return written
                record = part.changelog.encode(name)
                written += len(record)
                sent.append(await self._state.send(self._engine.state, part.number, record, part.key(name)))
                await asyncio.sleep(0)
                crash_here("meter.state_begun")
            sent.append(await self._state.send(self._engine.state, part.number, flush.meta, part.key(META)))
            await asyncio.gather(*sent)
        crash_here("meter.state_written")
        part.flushed(flush)
        crash_here("meter.acknowledged")
        return written

    async def _watch_log(self) -> None:
        """Look at the end of the log, for what does not arrive: records that the engine lost, replicas gone silent."""
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            began = _now_ms()
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    ends = await self._log_ends.ends(list(self._partitions))
            except Exception as error:
                _log.warning("the end of the log is out of sight; leases start anew", error=repr(error))
                ends = {}
            if _now_ms() - began > ASK_TIMEOUT_S * 1000:
                ends = {}  # this process itself was not running
            for part in list(self._partitions.values()):
                await self._check(part, ends.get(part.number))

    async def _check(self, part: Partition, end: int | None) -> None:
        if end is None:
            part.lease.reset()
            return
        if part.is_stuck(end):
            await self._resync(part)
        if not part.caught_up:
            part.lease.reset()
            return
        members = [(state.run, state.hw) for state in part.shard.runs.members]
        for instance, epoch in part.lease.check(end, part.shard.fence, members, _now_ms()):
            reason = f"silent for {self._settings.lease_ms} ms"
            _log.warning("evicting a replica", instance=instance, epoch=epoch, partition=part.number, reason=reason)
            self.metrics.evictions.inc()
            record = encode_record(Evict(instance, epoch, reason))
            self._undelivered[part.number] = self._undelivered.get(part.number, 0) + 1
            sent = await self._updates.send(self._engine.usage, part.number, record)
            sent.add_done_callback(partial(self._delivered, part.number))

    # -------------------------------------------------------------------------------------------------- assignment

    async def take_up(self) -> None:
        """Take up the assigned partitions from the state that Faust has read back."""
        records = self._engine.records()
        numbers = self._engine.assigned()
        ends = await self._log_ends.ends(numbers)
        async with self._flushing:
            self._partitions.clear()
            for number in numbers:
                changelog = Changelog.restore(number, parts_of(number, records))
                self._check_log(changelog.shard, ends[number])
                self._partitions[number] = Partition(changelog, ends[number], self._run_id, self._settings.lease_ms)
        self._recovered = True
        self._wake.set()
        _log.info("state recovered", fences=self._fences())

    def _fences(self) -> dict[int, int]:
        return {number: part.shard.fence for number, part in self._partitions.items()}

    def _check_log(self, shard: Shard, end: int) -> None:
        if shard.fence > end:
            raise TransportError(
                f"partition {shard.partition} of {self._engine.usage} ends at {end}, but the state in "
                f"{self._engine.state} is of offset {shard.fence}: the log was deleted; delete the state as well"
            )

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """Hand the partitions over: nothing of them may be written from here on."""
        self._recovered = False
        self._partitions.clear()
        async with self._flushing:
            pass  # a flush under way has ended

    async def _watch_engine(self) -> None:
        while (fault := self._engine.fault) is None:
            await asyncio.sleep(0.2)
        raise TransportError(f"Faust does not read any more: {fault!r}") from fault

    def _guarded(self, body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            try:
                await body()
            except Exception as error:
                self._fail(error)

        return run

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


async def _leave(what: str, step: Coroutine[Any, Any, object]) -> None:
    """Take a step that may fail or be left undone."""
    task = asyncio.create_task(step, name=what)
    await asyncio.wait({task}, timeout=LEAVE_S)
    if not task.done():
        task.cancel()
        _log.warning("stopped without a last step", step=what, waited_s=LEAVE_S)
    elif task.cancelled():  # without a broker aiokafka hands on the cancellation of its own tasks
        _log.warning("stopped without a last step", step=what, error="cancelled")
    elif (error := task.exception()) is not None:
        _log.warning("stopped without a last step", step=what, error=repr(error))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
