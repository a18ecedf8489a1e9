"""One partition on its way into the store: read, cut into batches, inserted, committed. The exactly-once protocol.

A batch is (topic, partition, first offset, last offset), and its token says so. In this order:

1. commit `first` with a mark: "in flight up to `last`, with these watermarks" — unless it is being sent again;
2. insert the batch, one table a month, under its token;
3. set aside what no row can hold;
4. commit `last + 1` with the watermarks after it.

A crash after 1, within 2 or after it leaves the mark: the same range is read again, judged by the same watermarks and
inserted under the same tokens, which completes what is missing and drops what is there. A crash before 1 or after 4
leaves nothing to do again. Must not know aiokafka or clickhouse-connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from meter.sink.core.books import Books
from meter.sink.core.buffer import Buffer, Range
from meter.sink.core.errors import StoreUnavailable
from meter.sink.core.mark import Mark
from meter.sink.core.resume import Resume
from meter.sink.feeds import AnyFeed, Converted, Rejected
from meter.sink.rows import Source
from meter.sink.store import Store
from schemas.crash_points import crash_here

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Log(Protocol):
    """What a lane asks of the log."""

    async def commit(self, source: Source, offset: int, metadata: str) -> None:
        """Make the position durable. Raises LaneLost once another member has the partition."""

    async def set_aside(self, source: Source, rejected: Rejected) -> None:
        """Put a record, or part of one, on the dead-letter topic; return when the broker has it."""


class LaneLost(Exception):
    """The partition is somebody else's now: forget what was read of it."""


@dataclass(frozen=True)
class Limits:
    """When batches are cut, and how long an insert is tried."""

    max_rows: int
    max_age_ms: int
    retry_s: float


@dataclass
class Counts:
    """What has been done with a partition since the process began."""

    rows: int = 0
    batches: int = 0
    resent: int = 0
    duplicates: int = 0
    gaps: int = 0
    undecodable: int = 0
    rejected: int = 0
    failures: int = 0
    lost: int = 0


@dataclass(frozen=True)
class LaneStatus:
    """A partition as `/v1/status` and the metrics show it."""

    topic: str
    partition: int
    position: int
    """First offset that is not committed."""
    log_end: int
    lag: int
    """Records on the log that are not in the table and may have to be."""
    waiting_rows: int
    batch_age_ms: int
    logged_ms: int
    """Broker time of the last record read; 0 before the first."""
    counts: Counts


class Lane:
    """One partition of one topic.

    Args:
        source: which one.
        feed: what its records become.
        start: where to go on.
        counts: what is counted, over the lanes of this partition that come and go.
        run_in_thread: runs blocking work; `asyncio.to_thread` or, in tests, the function itself.
    """

    def __init__(
        self, source: Source, feed: AnyFeed, start: Resume, store: Store, log: Log, limits: Limits, counts: Counts,
        run_in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self.source = source
        self.feed = feed
        self.buffer: Buffer[Any] = Buffer(start.position, limits.max_rows, limits.max_age_ms, start.resend_to)
        self.watermarks = start.watermarks
        self.books = Books()
        """What runs have told, as of the committed offset."""
        self.committed = start.position
        self.counts = counts
        counts.lost += start.lost
        self.log_end = start.position
        self.committed_ms = 0
        self.logged_ms = 0
        self._skipped: list[Rejected] = []
        self._inserting_rows = 0
        self._store = store
        self._log = log
        self._limits = limits
        self._run = run_in_thread

    @property
    def name(self) -> str:
        """Return topic and partition."""
        return f"{self.source.topic}/{self.source.partition}"

    @property
    def waiting_rows(self) -> int:
        """Rows that were read and are not known to be in the table."""
        return self.buffer.rows + self._inserting_rows

    @property
    def lag(self) -> int:
        """Records on the log that are not in the table and may have to be."""
        return max(0, self.log_end - (self.committed if self.waiting_rows else self.buffer.position))

    @property
    def is_whole(self) -> bool:
        """Whether all rows below `committed` are in every table, and no others are under way."""
        return self.buffer.resend_to is None and not self._inserting_rows

    def status(self, now_ms: int) -> LaneStatus:
        """Return its state."""
        return LaneStatus(
            self.source.topic, self.source.partition, self.committed, self.log_end, self.lag, self.waiting_rows,
            self.buffer.age_ms(now_ms), self.logged_ms, self.counts,
        )  # fmt: skip

    def skip(self, rejected: Rejected, set_aside: bool) -> None:
        """Pass over a record that is none of ours; set it aside with the next batch if nobody else does."""
        self.buffer.position = rejected.offset + 1
        if set_aside:
            self._skipped.append(rejected)

    async def flush(self, now_ms: int) -> bool:
        """Insert and commit the next batch; False if there is none.

        Raises:
            LaneLost: the partition was taken over.
            StoreUnavailable: the store did not take the batch within the time for retries; the mark stands.
        """
        resent = self.buffer.resend_to is not None
        cut = self.buffer.cut(now_ms)
        if cut is None:
            return False
        self._inserting_rows = cut.rows
        after = self.watermarks.copy()
        converted: Converted = await self._run(self.feed.convert, cut.entries, after)
        if converted.tables.rows:
            if not resent:
                await self._log.commit(self.source, cut.first, Mark(cut.last, self.watermarks).encode())
                crash_here("sink.intent_recorded")
            await self._insert(cut, converted)
        skipped = [rejected for rejected in self._skipped if rejected.offset <= cut.last]
        for rejected in (*skipped, *converted.rejected):
            await self._log.set_aside(self.source, rejected)
        await self._log.commit(self.source, cut.last + 1, Mark(None, after).encode())
        crash_here("sink.committed")
        del self._skipped[: len(skipped)]
        self.watermarks = after
        self.books.take(converted.heard)
        self.committed = cut.last + 1
        self.committed_ms = now_ms
        self._inserting_rows = 0
        self._count(converted, resent)
        return True

    async def _insert(self, cut: Range[Any], converted: Converted) -> None:
        tables = converted.tables.of_batch(cut.first, cut.last).by_month
        for number, (month, table) in enumerate(sorted(tables.items())):
            if number:
                crash_here("sink.between_months")
            await self._insert_one(table, token(self.source, cut, month))
        crash_here("sink.inserted")

    async def _insert_one(self, table: Any, of_table: str) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._limits.retry_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._run(self._store.insert, self.feed.table, table, of_table)
            except StoreUnavailable:
                self.counts.failures += 1
                if loop.time() >= give_up:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                return

    def _count(self, converted: Converted, resent: bool) -> None:
        counts = self.counts
        counts.rows += converted.tables.rows
        counts.batches += bool(converted.tables.rows)
        counts.resent += resent
        counts.duplicates += converted.duplicates
        counts.gaps += converted.gaps
        counts.undecodable += converted.undecodable
        counts.rejected += len(converted.rejected)


def token(source: Source, cut: Range[Any], month: int) -> str:
    """Return what a batch's rows of one month are inserted under."""
    return f"{source.log}/{source.topic}/{source.partition}/{cut.first}-{cut.last}/{month}"
