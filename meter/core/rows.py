"""Rows as the meter keeps them: sums, gauges, the least total still in use, and when a row is out of use.

A row's total is what is settled in it plus what its gauges hold. `low` is the least total over the versions that some
replica may still be admitting with. It is kept as two minima, of the current generation of versions and of the one
before; a generation ends when every replica has installed a version of it, so a quiet row's `low` reaches its total
after two.

Rows are spread over slots, which is how they reach the changelog. After a restore some slots may be ahead of the rest
of the state (see `changelog`); a row of such a slot is left alone until the fold has caught up with it.
"""

from __future__ import annotations

import heapq
import zlib

from schemas.rows import Measure, parse_row_key
from schemas.windows import Period

SLOTS = 64
MINUTE_GRACE_MS = 3 * 60_000
OTHER_GRACE_MS = 2 * 24 * 3_600_000

Run = tuple[str, int]
"""An (instance, epoch): one run of a replica."""


class Row:
    """One counter. `settled`, `inflight`, `low_prev` and `low_cur` are in the unit of its measure."""

    __slots__ = ("due_ms", "gauges", "inflight", "key", "low_cur", "low_prev", "mark", "measure", "settled", "slot")

    def __init__(self, key: str, measure: str, due_ms: int) -> None:
        self.key = key
        self.measure = measure
        self.due_ms = due_ms
        self.slot = zlib.crc32(key.encode()) % SLOTS
        self.settled = 0
        self.inflight = 0
        self.gauges: dict[Run, int] = {}
        self.low_prev = 0
        self.low_cur = 0
        self.mark = -1
        """Offset of the last record that touched the row."""

    @property
    def total(self) -> int:
        """What counts against the limit."""
        return self.settled + self.inflight

    @property
    def low(self) -> int:
        """The least total over the versions that some replica may still be using."""
        return min(self.low_prev, self.low_cur)

    @property
    def keeps_gauges(self) -> bool:
        """Whether what a lost replica had in flight stays charged: money may have been spent."""
        return self.measure == Measure.COST


def due_ms(key: str) -> tuple[str, int]:
    """Return the measure of a row key and the log time at which the row is out of use; ValueError if it is no key."""
    parts = parse_row_key(key)
    grace = MINUTE_GRACE_MS if parts.window.period == Period.MINUTE else OTHER_GRACE_MS
    return parts.measure, parts.window.end * 1000 + grace


class Rows:
    """All rows of a partition, with the indexes that the fold needs."""

    def __init__(self) -> None:
        self.by_key: dict[str, Row] = {}
        self.slots: list[set[Row]] = [set() for _ in range(SLOTS)]
        self.unsettled: set[Row] = set()
        """Rows whose `low` has not reached their total."""
        self.gauged: dict[Run, set[Row]] = {}
        """Rows in which a run has a gauge."""
        self._by_due: dict[int, set[Row]] = {}
        self._dues: list[int] = []

    def get(self, key: str, log_ms: int) -> Row | None:
        """Return the row of `key`, new if need be; None if it is out of use. ValueError if `key` is no row key."""
        row = self.by_key.get(key)
        if row is None:
            measure, due = due_ms(key)
            if due <= log_ms:
                return None
            row = Row(key, measure, due)
            self.add(row)
        return row

    def add(self, row: Row) -> None:
        """Index a row with its gauges."""
        self.by_key[row.key] = row
        self.slots[row.slot].add(row)
        same = self._by_due.get(row.due_ms)
        if same is None:
            self._by_due[row.due_ms] = {row}
            heapq.heappush(self._dues, row.due_ms)
        else:
            same.add(row)
        for run in row.gauges:
            self.gauged.setdefault(run, set()).add(row)
        if row.low_prev != row.total or row.low_cur != row.total:
            self.unsettled.add(row)

    def set_gauge(self, row: Row, run: Run, inflight: int) -> None:
        """Make `run`'s reservation in `row` exactly `inflight`."""
        row.inflight += inflight - row.gauges.get(run, 0)
        if inflight:
            row.gauges[run] = inflight
            self.gauged.setdefault(run, set()).add(row)
        elif row.gauges.pop(run, None) is not None:
            held = self.gauged[run]
            held.discard(row)
            if not held:
                del self.gauged[run]

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
            self.unsettled.discard(row)
            for run in list(row.gauges):
                self.set_gauge(row, run, 0)
        return retired
