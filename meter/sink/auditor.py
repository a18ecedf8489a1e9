"""The audit: compares the history's ledgers every so often and when asked, and tells the enforcer what it found.

Each turn looks at the newest hours and, in turn, at one day of the past; asked, at all there is. What is read, it reads
between two batches. Adapts the worker, the store and the log; what is compared is in `core.audit`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

import structlog
from msgspec.structs import replace

from meter.sink.core import audit, newest
from meter.sink.core.audit import DAY_S, HOUR_S, KEPT_S, MAX_DIFFERENCES, Span, Tables
from meter.sink.lane import Lane
from meter.sink.settings import HistorySettings
from meter.sink.store import Store
from meter.sink.worker import Worker
from schemas.audits import Audit, Difference
from schemas.codec import encode_json
from schemas.errors import TransportError
from schemas.topics import HISTORY_AUDITS, topic_name

NEWEST_HOURS = 3
FIRST_AFTER_S = 30.0
"""The first audit comes soon after the start."""
PUT_OFF_S = 600.0
"""While a backlog is being inserted an audit waits, but no longer than this."""
BACKLOG_BATCHES = 2
NEVER_S = 2**31
_EPOCH = date(1970, 1, 1)

_log = structlog.get_logger("history.audit")


@dataclass(frozen=True)
class Found:
    """What an audit found."""

    at_ms: int
    audits: list[Audit]
    """One a partition; differences that are of no partition are with the first."""
    hours: int
    """Hours that were compared."""
    seconds: float
    partitions: list[int] = field(default_factory=list)

    @property
    def differences(self) -> list[Difference]:
        """All of them, those of the first partition first."""
        return [found for one in self.audits for found in one.differences]


class Auditor:
    """Compares until it is cancelled.

    Args:
        seen: told of every audit, and None when one could not be made.
    """

    def __init__(
        self, settings: HistorySettings, worker: Worker, store: Store, seen: Callable[[Found | None], None]
    ) -> None:
        self._worker, self._store, self._seen = worker, store, seen
        self._every_s, self._shards = settings.audit_s, settings.kafka.partitions
        self._backlog_rows = BACKLOG_BATCHES * settings.max_batch_rows
        self._topic = topic_name(HISTORY_AUDITS, settings.kafka.topic_prefix)
        self._past: list[Span] = []
        self._unconfirmed: set[str] = set()
        self._turn = asyncio.Lock()
        self.last: Found | None = None

    async def run(self) -> None:
        """Audit every so often, until cancelled."""
        await asyncio.sleep(min(FIRST_AFTER_S, self._every_s))
        while True:
            await self._caught_up()
            try:
                if not self._worker.waiting:
                    await self.look(everything=False)
            except TransportError as error:
                self._seen(None)
                _log.warning("could not compare the ledgers", error=str(error))
            await asyncio.sleep(self._every_s)

    async def _caught_up(self) -> None:
        """Wait while more than a batch or two are waiting to be inserted, for some minutes at most."""
        give_up = time.monotonic() + PUT_OFF_S
        while time.monotonic() < give_up and any(
            lane.waiting_rows > self._backlog_rows for lane in self._worker.status()
        ):
            await asyncio.sleep(min(1.0, self._every_s))

    async def look(self, everything: bool) -> Found:
        """Compare the newest hours and a day, or everything, and publish what is found; TransportError if it cannot."""
        async with self._turn:
            async with self._worker.at_rest() as lanes:
                if not lanes:
                    raise TransportError("no partition of the log is taken up yet")
                number = self._worker.log.assignment.number
                found = await asyncio.to_thread(self.compare, lanes, everything)
                if self._worker.log.assignment.number != number:  # another history may have inserted meanwhile
                    raise TransportError("partitions have moved to another history")
            for one in found.audits:
                await self._worker.log.publish(self._topic, str(one.partition), encode_json(one))
        self.last = found
        self._seen(found)
        for different in found.differences:
            _log.error("ledgers differ", difference=different.text, remedy=different.remedy or "none")
        return found

    def compare(self, lanes: dict[int, Lane], everything: bool) -> Found:
        """Return what an audit finds now. Nothing may be inserted meanwhile; blocks."""
        began, now_s = time.monotonic(), int(time.time())
        spans = self._everything(now_s) if everything else self._some(now_s)
        within = [found for span in spans for found in audit.within(span, self._tables(span))]
        if everything:
            within += audit.twice(self._store.rows(audit.TWICE))
        confirmed = self._confirmed(within, alone=len(lanes) == self._shards)
        audits = [self._of_lane(lane, confirmed, first=not number) for number, lane in enumerate(_sorted(lanes))]
        hours = sum(DAY_S // HOUR_S if span.whole_days else NEWEST_HOURS for span in spans)
        told = self._with_newest(lanes, audits, now_s)
        return Found(now_s * 1000, told, hours, time.monotonic() - began, sorted(lanes))

    def _with_newest(self, lanes: dict[int, Lane], audits: list[Audit], now_s: int) -> list[Audit]:
        """Add the sums of the newest hours, and of the newest days if all of the log is this history's; one time."""
        bound = {"since": newest.since_s(now_s), "until": NEVER_S}
        rows = self._store.rows(audit.RUN_HOURS, bound)
        sources = {number: (lane.source.log, lane.source.topic, number) for number, lane in lanes.items()}
        days: Mapping[int, newest.Days] = {}
        if len(lanes) == self._shards and newest.are_of_one_log(rows, sources.values()):
            days = newest.days_of(self._store.rows(audit.ORG_DAYS, bound), self._shards, now_s)
        at_ms, told = time.time_ns() // 1_000_000, []
        for one in audits:
            hours = newest.hours_of(rows, sources[one.partition], now_s)
            of_days = days.get(one.partition, newest.Days([], None))
            told.append(
                replace(one, at_ms=at_ms, hours=hours.told, hours_from=hours.since, days=of_days.told,
                        days_from=of_days.since)
            )  # fmt: skip
        return told

    def _of_lane(self, lane: Lane, inside: list[Difference], first: bool) -> Audit:
        source, books = lane.source, lane.books
        bound = {"log": source.log, "topic": source.topic, "partition": source.partition}
        runs = audit.runs_of(self._store.rows(audit.RUNS, bound))
        told = audit.apart(audit.against_told(source.partition, runs, books), inside)
        return Audit(source.partition, 0, lane.committed, audit.told_of(runs, books),
                     [*(inside if first else []), *told][:MAX_DIFFERENCES])  # fmt: skip

    def _tables(self, span: Span) -> Tables:
        bound = span._asdict()
        rows = self._store.rows
        days = rows(audit.ORG_DAYS, bound) if span.whole_days else []
        return Tables(
            rows(audit.EVENTS, bound), rows(audit.RUN_HOURS, bound), rows(audit.ORG_HOURS, bound), days
        )  # fmt: skip

    def _some(self, now_s: int) -> list[Span]:
        """Return the newest hours, and the next day of the past."""
        self._past = self._past or self._everything(now_s)
        newest = Span(now_s // HOUR_S * HOUR_S - (NEWEST_HOURS - 1) * HOUR_S, NEVER_S)
        return [newest, self._past.pop()] if self._past else [newest]

    def _everything(self, now_s: int) -> list[Span]:
        days = self._store.rows(audit.DAYS, {"since": now_s - KEPT_S, "until": NEVER_S})
        begins = [int((day - _EPOCH).days) * DAY_S for (day,) in days]
        return [Span(begin, begin + DAY_S) for begin in begins]

    def _confirmed(self, found: list[Difference], alone: bool) -> list[Difference]:
        """Leave out what another history may be inserting: with more than one, a difference has to be there twice."""
        if alone:
            return found
        before, self._unconfirmed = self._unconfirmed, {different.text for different in found}
        return [different for different in found if different.text in before]


def _sorted(lanes: dict[int, Lane]) -> list[Lane]:
    return [lane for _, lane in sorted(lanes.items())]
