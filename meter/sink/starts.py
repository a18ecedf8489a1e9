"""Where a partition is taken up: its position by the group, the table and the log, and a lane from there on."""

from __future__ import annotations

import asyncio
import time

import structlog
from aiokafka import TopicPartition

from meter.sink.core.mark import Mark
from meter.sink.core.resume import Found, LogMismatch, Resume, check_same_log, resume
from meter.sink.feeds import AnyFeed, DecisionsFeed, UsageFeed
from meter.sink.lane import Counts, Lane, Limits
from meter.sink.log import KafkaLog
from meter.sink.rows import Source
from meter.sink.store import Store

_log = structlog.get_logger("history")


class Starts:
    """Makes lanes.

    Args:
        usage: the topic of usage; the other is that of decisions.
        counts: what lanes count, by partition; it outlives them.
    """

    def __init__(
        self, store: Store, log: KafkaLog, usage: str, limits: Limits, counts: dict[TopicPartition, Counts]
    ) -> None:
        self.log_id = ""
        """What the log is called on rows; set before the first lane is made."""
        self._store, self._log, self._usage = store, log, usage
        self._limits, self._counts = limits, counts

    async def lane(self, tp: TopicPartition, start: int, end: int) -> Lane:
        """Return the lane of a partition whose log is [start, end) now; LogMismatch if its rows are of another log."""
        source = Source(self.log_id, tp.topic, tp.partition)
        is_usage = tp.topic == self._usage
        feed: AnyFeed = UsageFeed(source) if is_usage else DecisionsFeed(source)
        try:
            found = await self._resume(tp, feed.table, source, (start, end))
        except LogMismatch as error:
            raise LogMismatch(f"{tp.topic}/{tp.partition}: {error}") from error
        if is_usage and not found.watermarks.complete:
            known = await asyncio.to_thread(self._store.watermarks, source, found.position)
            found = Resume(found.position, found.resend_to, found.watermarks.merged(known), found.lost)
        if found.lost:
            _log.error("the log dropped records before they were read", topic=tp.topic, partition=tp.partition,
                       offsets=found.lost)  # fmt: skip
        counts = self._counts.setdefault(tp, Counts())
        lane = Lane(source, feed, found, self._store, self._log, self._limits, counts)
        lane.log_end, lane.committed_ms = end, time.time_ns() // 1_000_000
        return lane

    async def _resume(self, tp: TopicPartition, table: str, source: Source, bounds: tuple[int, int]) -> Resume:
        start, end = bounds
        committed, metadata = await self._log.committed(tp)
        row = await asyncio.to_thread(self._store.last_row, table, source)
        found = resume(Found(committed, Mark.decode(metadata), row, start, end))
        if row is not None and start <= row.offset < end:
            check_same_log(row, await self._log.logged_ms(tp, row.offset))
        return found
