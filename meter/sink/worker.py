"""The sink's loop: takes partitions up, reads, cuts batches, lets lanes insert them, stops cleanly.

Joins the log, the lanes and the store. What is exact about it is in `lane` and in `core`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from meter.adapters.broker import until_connected
from meter.sink.core.resume import LogMismatch
from meter.sink.feeds import Rejected
from meter.sink.lane import Counts, Lane, LaneLost, LaneStatus, Limits
from meter.sink.log import KafkaLog, Message
from meter.sink.settings import HistorySettings
from meter.sink.starts import Starts
from meter.sink.store import Store
from schemas.errors import DecodeError, TransportError
from schemas.topics import DECISIONS, USAGE, USAGE_DLQ, topic_name

READ_MS = 100
READ_RECORDS = 4_000
BACKLOG_BATCHES = 3
"""Rows of this many batches may wait; then nothing more is read."""
INSERTS_AT_ONCE = 2
"""One is converted while the other is inserted."""
IDLE_COMMIT_MS = 5_000
"""Records without rows are committed this often."""
PAUSE_S = 0.5
FINISH_S = 15.0
LEAVE_S = 5.0
"""A stop takes no longer than these together, whatever does not answer."""
MISMATCH_PATIENCE_S = 10.0
"""A broker that has just come back may not know the end of its log yet."""

_log = structlog.get_logger("history")


def wall_ms() -> int:
    """Return the wall clock in unix milliseconds."""
    return time.time_ns() // 1_000_000


class Worker:
    """Reads `usage` and `decisions` into the store until it is told to stop. The store must be open."""

    def __init__(self, settings: HistorySettings, store: Store) -> None:
        prefix = settings.kafka.topic_prefix
        self._settings = settings
        self._store = store
        self.usage_topic, self._decisions = topic_name(USAGE, prefix), topic_name(DECISIONS, prefix)
        topics = (self.usage_topic, self._decisions)
        self.log = self._log = KafkaLog(
            settings.kafka, settings.group, f"{settings.group}-{settings.instance}", topics,
            topic_name(USAGE_DLQ, prefix), wall_ms,
        )  # fmt: skip
        self._limits = Limits(settings.max_batch_rows, settings.max_batch_age_ms, settings.retry_s)
        self._log_id = settings.log_id
        self._held = 0
        self._lanes: dict[TopicPartition, Lane] = {}
        self._number = 0
        self._counts: dict[TopicPartition, Counts] = {}
        self._starts = Starts(store, self._log, self.usage_topic, self._limits, self._counts)
        self._flushes: dict[asyncio.Task[bool], TopicPartition] = {}
        self._checked_holes: dict[TopicPartition, int] = {}
        self._mismatch_since: float | None = None
        self._stopping = asyncio.Event()

    @property
    def waiting(self) -> list[str]:
        """What is missing before the history is up to date with its partitions; empty if nothing is."""
        partitions = self._log.assignment.partitions
        if not partitions:
            return ["partitions of the log"]
        return sorted(f"position of {tp.topic}/{tp.partition}" for tp in partitions if tp not in self._lanes)

    def status(self) -> list[LaneStatus]:
        """Return the state of every partition that was taken up."""
        now_ms = wall_ms()
        return [lane.status(now_ms) for _, lane in sorted(self._lanes.items())]

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[dict[int, Lane]]:
        """Keep batches from being inserted; yield the lanes of `usage` by partition whose rows are whole.

        Reading goes on, as far as what is read may wait. Raises TransportError if the sink is not at work.
        """
        self._held += 1
        try:
            while busy := [task for task in self._flushes if not task.done()]:
                await asyncio.wait(busy)
            if self._stopping.is_set():
                raise TransportError("the history is stopping")
            yield {
                tp.partition: lane for tp, lane in self._lanes.items() if tp.topic == self.usage_topic and lane.is_whole
            }
        finally:
            self._held -= 1

    def stop(self) -> None:
        """Ask `run` to insert what was read, commit, and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Read and insert until `stop`.

        Raises:
            TransportError: the store did not take a batch in time, or the broker refuses for good.
        """
        await self._start()
        try:
            while not self._stopping.is_set():
                await self._turn()
            await self._finish_in_time()
        finally:
            for task in self._flushes:
                task.cancel()
            await asyncio.gather(*self._flushes, return_exceptions=True)
            await self._leave()

    async def _finish_in_time(self) -> None:
        try:
            async with asyncio.timeout(FINISH_S):
                await self._finish()
        except TimeoutError:
            _log.warning("broker or store did not answer in time: the last batch is sent again at the next start")

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._log.stop()
        except TimeoutError:
            _log.warning("the broker did not let go in time")

    async def _start(self) -> None:
        """Wait for the broker, for as long as nobody says stop: what is stored can be asked for meanwhile."""
        connecting = asyncio.create_task(
            until_connected(self._settings.kafka, "TOLLWAY_HISTORY_", self._connect, self._log.stop, math.inf),
            name="connect",
        )
        stopping = asyncio.create_task(self._stopping.wait(), name="stop while connecting")
        try:
            await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                await connecting
                _log.info("reading", log=self._log_id, group=self._settings.group)
        finally:
            for task in (connecting, stopping):
                task.cancel()

    async def _connect(self) -> None:
        await self._log.start()
        self._log_id = self._starts.log_id = self._log_id or await self._log.cluster_id()

    async def _turn(self) -> None:
        self._reap()
        try:
            await self._take_up()
            if sum(lane.buffer.rows for lane in self._lanes.values()) < BACKLOG_BATCHES * self._limits.max_rows:
                self._hand_out(await self._log.read(READ_MS, READ_RECORDS))
            elif self._flushes:
                await asyncio.wait(self._flushes, timeout=READ_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
            else:  # somebody keeps batches from being inserted
                await asyncio.sleep(READ_MS / 1000)
        except KafkaError as error:
            _log.warning("reading failed", error=repr(error))
            await asyncio.sleep(PAUSE_S)
        self._begin_flushes()

    # ------------------------------------------------------------------------------------------------- partitions

    async def _take_up(self) -> None:
        """Make a lane of each partition that is new in this assignment."""
        assignment = self._log.assignment
        number = assignment.number
        if number != self._number:
            self._number = number
            self._lanes.clear()
        wanted = sorted(assignment.partitions - self._lanes.keys() - set(self._flushes.values()))
        if not wanted:
            return
        try:
            bounds = await self._log.bounds(wanted)
            lanes = await asyncio.gather(*(self._starts.lane(tp, *bounds[tp]) for tp in wanted))
        except LogMismatch as error:
            await self._mismatch(error)
            return
        self._mismatch_since = None
        if assignment.number == number:
            for tp, lane in zip(wanted, lanes, strict=True):
                self._begin(tp, lane)

    def _begin(self, tp: TopicPartition, lane: Lane) -> None:
        try:
            self._log.seek(tp, lane.buffer.position)
        except LaneLost:
            return
        self._lanes[tp] = lane
        _log.info("taken up", topic=tp.topic, partition=tp.partition, position=lane.buffer.position,
                  resend_to=lane.buffer.resend_to)  # fmt: skip

    async def _mismatch(self, error: LogMismatch) -> None:
        now = asyncio.get_running_loop().time()
        self._mismatch_since = self._mismatch_since or now
        if now - self._mismatch_since < MISMATCH_PATIENCE_S:
            await asyncio.sleep(PAUSE_S)
            return
        raise TransportError(
            f"{error}; if that was meant, name the new log: TOLLWAY_HISTORY_LOG_ID="
            f"{self._log_id}-2, and reset the offsets of group {self._settings.group}"
        )

    # ---------------------------------------------------------------------------------------------------- reading

    def _hand_out(self, read: Mapping[TopicPartition, list[Message]]) -> None:
        now_ms = wall_ms()
        for tp, messages in read.items():
            lane = self._lanes.get(tp)
            if lane is None or self._log.assignment.number != self._number:
                continue
            for message in messages:
                if message.offset < lane.buffer.position:
                    continue
                if message.offset > lane.buffer.position and not self._hole_is_known(tp, lane.buffer.position):
                    del self._lanes[tp]  # taken up anew: the log may have dropped what was to be read
                    break
                self._add(lane, message, now_ms)
        for tp, lane in self._lanes.items():
            lane.log_end = max(self._log.end(tp) or 0, lane.buffer.position)

    def _hole_is_known(self, tp: TopicPartition, position: int) -> bool:
        known = self._checked_holes.get(tp) == position
        self._checked_holes[tp] = position
        return known

    def _add(self, lane: Lane, message: Message, now_ms: int) -> None:
        lane.logged_ms = message.timestamp
        try:
            entry = lane.feed.entry(message.offset, message.timestamp, message.value or b"")
        except DecodeError as error:
            lane.counts.undecodable += 1
            rejected = Rejected(message.offset, str(error), message.value or b"")
            # The meter sets records of `usage` aside; nobody else does those of `decisions`.
            lane.skip(rejected, set_aside=lane.source.topic == self._decisions)
            return
        lane.buffer.add(entry, now_ms)

    # --------------------------------------------------------------------------------------------------- inserting

    def _begin_flushes(self) -> None:
        busy = set(self._flushes.values())
        now_ms = wall_ms()
        for tp, lane in self._lanes.items():
            if self._held or len(self._flushes) >= INSERTS_AT_ONCE:
                break
            if tp not in busy and self._is_due(lane, now_ms) and self._log.assignment.number == self._number:
                self._flush(tp, lane, now_ms)

    def _is_due(self, lane: Lane, now_ms: int) -> bool:
        idle = lane.buffer.position > lane.committed and now_ms - lane.committed_ms >= IDLE_COMMIT_MS
        return lane.buffer.is_due(now_ms) or (idle and not lane.buffer.rows and lane.buffer.resend_to is None)

    def _flush(self, tp: TopicPartition, lane: Lane, now_ms: int) -> None:
        self._log.assignment.idle.clear()
        task = asyncio.create_task(lane.flush(now_ms), name=f"insert {lane.name}")
        self._flushes[task] = tp
        task.add_done_callback(self._idle_again)

    def _idle_again(self, _: object) -> None:
        if all(task.done() for task in self._flushes):
            self._log.assignment.idle.set()

    def _reap(self) -> None:
        """Take in the results of flushes that have ended."""
        for task in [task for task in self._flushes if task.done()]:
            tp = self._flushes.pop(task)
            try:
                task.result()
            except LaneLost as error:
                _log.warning("partition lost", topic=tp.topic, partition=tp.partition, reason=str(error))
                self._lanes.pop(tp, None)

    async def _finish(self) -> None:
        """Insert and commit everything that was read."""
        while True:
            if self._flushes:
                await asyncio.wait(self._flushes)
            self._reap()
            lanes = [lane for lane in self._lanes.values() if lane.buffer.position > lane.buffer.first]
            progress = False
            for lane in lanes:
                try:
                    progress = await lane.flush(wall_ms()) or progress
                except LaneLost:
                    continue
            if not progress:
                return
