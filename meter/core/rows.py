"""Rows as the meter keeps them: sums, what each replica holds and may have, and when a row is out of use.

A row's total is what is settled in it plus what its gauges hold. What each live replica has of it, and has a right
to, is a `Holding` (the rules are in `rights`); the rest of the total is what gone replicas have used.

Rows are spread over slots, which is how they reach the changelog. After a restore some slots may be ahead of the rest
of the state (see `changelog`); a row of such a slot is left alone until the fold has caught up with it.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from typing import Protocol

from schemas.rows import Measure, parse_row_key
from schemas.windows import Window

SLOTS = 64
SHORT_GRACE_MS = 2 * 60_000
OTHER_GRACE_MS = 2 * 24 * 3_600_000

Run = tuple[str, int]
"""An (instance, epoch): one run of a replica."""


class Member(Protocol):
    """A live run."""

    run: Run


class Holding:
    """What one run has in a row, and may have; all in the unit of the row's measure.

    Attributes:
        settled, inflight: its part of the row's total.
        right: what it may have in all, as snapshots from fence `since` on say.
        most: the largest right that it may still be using; `right`, once it has acknowledged `since`.
        want, head: what its waiting requests ask for, all of them and the first.
        demand: what it lately took, halved again and again as time passes; `seen` is its part when last looked at.
    """

    __slots__ = ("demand", "head", "inflight", "most", "right", "seen", "settled", "since", "want")

    def __init__(self) -> None:
        self.settled = self.inflight = 0
        self.right = self.most = self.since = 0
        self.want = self.head = 0
        self.demand = self.seen = 0

    @property
    def net(self) -> int:
        """Its part of the row's total."""
        return self.settled + self.inflight


class Row:
    """One counter. `settled` and `inflight` are in the unit of its measure."""

    __slots__ = (
        "begun", "decayed_ms", "due_ms", "end_ms", "holdings", "inflight", "key", "limit", "limit_version", "mark",
        "measure", "next_key", "prev_key", "settled", "slides_ms", "slot",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        """Begin the row of `key`; ValueError if that is no row key."""
        parts = parse_row_key(key)
        window = parts.window
        self.key = key
        self.measure = parts.measure
        self.slot = zlib.crc32(key[: key.rindex("/")].encode()) % SLOTS
        """The windows of a scope share one, so that a row and the one before it are at the same fence."""
        self.end_ms = window.end * 1000
        self.slides_ms = slides_ms(parts.measure, window)
        """Length of the window of a row that the one before counts in; 0 for one that stands alone."""
        self.prev_key = self.next_key = ""
        if self.slides_ms:
            length_s, head = window.end - window.start, key[: key.rindex("/") + 1]
            self.prev_key = head + str(Window(window.period, window.start - length_s, window.start))
            self.next_key = head + str(Window(window.period, window.end, window.end + length_s))
        self.due_ms = self.end_ms + (self.slides_ms + SHORT_GRACE_MS if self.slides_ms else OTHER_GRACE_MS)
        """Log time at which the row is out of use."""
        self.settled = 0
        self.inflight = 0
        self.limit = -1
        """As replicas tell it; -1 as long as none has."""
        self.limit_version = 0
        """Of the policy that the limit is from."""
        self.begun = 0
        """The fence from which on snapshots carry a limit and rights."""
        self.holdings: dict[Run, Holding] = {}
        self.decayed_ms = 0
        """Log time at which demands were halved last."""
        self.mark = -1
        """Offset of the last record that touched the row."""

    @property
    def total(self) -> int:
        """What counts against the limit."""
        return self.settled + self.inflight

    @property
    def keeps_gauges(self) -> bool:
        """Whether what a lost replica had in flight stays charged: money may have been spent."""
        return self.measure == Measure.COST

    @property
    def is_wanted(self) -> bool:
        """Whether requests wait for room in it."""
        return any(holding.want for holding in self.holdings.values())


def slides_ms(measure: str, window: Window) -> int:
    """Return the length of a window that the one before it counts in, or 0."""
    if measure == Measure.CONCURRENCY or window.period in ("minute", "rolling"):
        return (window.end - window.start) * 1000
    return 0


class Rows:
    """All rows of a partition, with the indexes that the fold needs."""

    def __init__(self) -> None:
        self.by_key: dict[str, Row] = {}
        self.slots: list[set[Row]] = [set() for _ in range(SLOTS)]
        self.wanted: set[Row] = set()
        """Rows that requests wait for."""
        self.gauged: dict[Run, set[Row]] = {}
        """Rows in which a run has a gauge."""
        self._by_due: dict[int, set[Row]] = {}
        self._dues: list[int] = []

    def get(self, key: str, log_ms: int) -> Row | None:
        """Return the row of `key`, new if need be; None if it is out of use. ValueError if `key` is no row key."""
        row = self.by_key.get(key)
        if row is None:
            row = Row(key)
            if row.due_ms <= log_ms:
                return None
            self.add(row)
        return row

    def add(self, row: Row) -> None:
        """Index a row with its holdings."""
        self.by_key[row.key] = row
        self.slots[row.slot].add(row)
        same = self._by_due.get(row.due_ms)
        if same is None:
            self._by_due[row.due_ms] = {row}
            heapq.heappush(self._dues, row.due_ms)
        else:
            same.add(row)
        for run, holding in row.holdings.items():
            if holding.inflight:
                self.gauged.setdefault(run, set()).add(row)
        if row.is_wanted:
            self.wanted.add(row)

    def set_gauge(self, row: Row, run: Run, inflight: int) -> None:
        """Make `run`'s reservation in `row` exactly `inflight`."""
        holding = row.holdings.get(run)
        if holding is None:
            if not inflight:
                return
            holding = row.holdings[run] = Holding()
        row.inflight += inflight - holding.inflight
        holding.inflight = inflight
        if inflight:
            self.gauged.setdefault(run, set()).add(row)
        elif run in self.gauged:
            held = self.gauged[run]
            held.discard(row)
            if not held:
                del self.gauged[run]

    def forget_gone(self, row: Row, members: Sequence[Member]) -> None:
        """Drop the holdings of runs that are no members any more and have nothing in flight."""
        live = {member.run for member in members}
        for run in [run for run, held in row.holdings.items() if run not in live and not held.inflight]:
            del row.holdings[run]

    def gauged_by(self, run: Run) -> list[Row]:
        """Return the rows in which `run` has a gauge, by key."""
        return sorted(self.gauged.get(run, ()), key=lambda row: row.key)

    def retire(self, log_ms: int) -> list[Row]:
        """Take out and return the rows that are out of use at `log_ms`."""
        retired: list[Row] = []
        while self._dues and self._dues[0] <= log_ms:
            retired.extend(self._by_due.pop(heapq.heappop(self._dues)))
        for row in retired:
            del self.by_key[row.key]
            self.slots[row.slot].discard(row)
            self.wanted.discard(row)
            for run, holding in list(row.holdings.items()):
                if holding.inflight:
                    self.set_gauge(row, run, 0)
        return retired
