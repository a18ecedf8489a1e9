"""The fold of one partition of `usage`: a pure function from a prefix of the log to rows, shares and ledgers.

`apply` takes the records in the order of their offsets and nothing else: no clock, no configuration. The state after
all records below offset F is the state at fence F. What depends on time (retiring rows) follows the log's own time,
which never runs backwards here.

What to publish and what to write to the changelog are two sets of marks on the state; `snapshots` and `changelog`
read them.
"""

from __future__ import annotations

from meter.core.faults import Fault, FaultKind
from meter.core.ledger import (
    DAY_MS,
    HOUR_MS,
    HOURS_AHEAD,
    KEEP_MS,
    Account,
    Ledger,
    day_key,
    hour_due_ms,
    kept_from,
)
from meter.core.records import Charges, Organisations, ReadBatch, Tally, read, tally
from meter.core.rights import begin, change_limit, has_plenty, is_freed, note_demand, rebalance
from meter.core.rows import Holding, Row, Rows, Run
from meter.core.runs import Runs, RunState
from meter.core.shares import balanced, forget_unused, move
from schemas.adjusting import is_adjuster
from schemas.codec import decode_rows
from schemas.errors import DecodeError
from schemas.quota import hour_key, run_key
from schemas.rows import Measure
from schemas.usage import Evict, Totals

MINUTE_MS = 60_000
HOURS_A_DAY = 24
MAX_CACHED = 50_000
"""Encoded row lists and attributions whose meaning is remembered."""

RowsByMeasure = tuple[list[Row], list[Row], list[Row]]
"""The rows that count requests, tokens and cost."""


class Counts:
    """What a shard has seen since it was made; not part of its state."""

    def __init__(self) -> None:
        self.records = 0
        self.events = 0
        self.skipped = 0
        """Records that the state already held: replayed, or duplicates of a run's."""
        self.late = 0
        """Charges to rows that are out of use."""


class Shard:
    """The state of one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.fence = 0
        self.log_ms = 0
        self.rows = Rows()
        self.runs = Runs()
        self.ledger = Ledger()
        self.counts = Counts()
        # marks
        self.changed_rows: dict[Row, None] = {}
        self.changed_ledger: dict[str, None] = {}
        self.urgent = False
        """Something changed that replicas wait for: a row or a share."""
        self.joined = False
        """A member joined, and needs everything."""
        self.dirty_rows: set[int] = set()
        self.dirty_ledger: set[int] = set()
        # slots that a restore found ahead of the rest, with their fences
        self.rows_ahead: dict[int, int] = {}
        self.ledger_ahead: dict[int, int] = {}
        self._offset = -1
        self._touched: list[Row] = []
        self._balanced = True
        self._stirred = False
        """Whether rights may have become free in rows that the record does not touch."""
        self._by: RunState | None = None
        """Whose record this is; None where it is an end, or of a run that is gone."""
        self._acked: tuple[Run, int] | None = None
        """Who acknowledged something with this record, and what it had acknowledged before."""
        self._forced: set[Row] = set()
        """Rows whose limit the record changed."""
        self._rows_cache: dict[bytes, RowsByMeasure] = {}
        self._organisations = Organisations(MAX_CACHED)

    @property
    def whole(self) -> bool:
        """Whether every part of the state is at the same fence. Until then nothing may be published."""
        return not self.rows_ahead and not self.ledger_ahead

    def apply(self, offset: int, log_ms: int, value: bytes) -> Fault | None:
        """Fold the record at `offset` with broker time `log_ms`; return what is wrong with it, if anything.

        Records below the fence are skipped: they are in the state already.
        """
        if offset < self.fence:
            self.counts.skipped += 1
            return None
        self._offset = offset
        self._advance(max(self.log_ms, log_ms))
        record, reason = read(value)
        fault = Fault(FaultKind.INVALID, reason) if reason else None
        if record is None:
            fault = Fault(FaultKind.UNDECODABLE, reason)
        elif isinstance(record, Evict):
            self._evict((record.instance, record.epoch))
        else:
            fault = self._batch(record) or fault
        self._finish()
        self.counts.records += 1
        return fault

    def recheck_balance(self) -> None:
        """Find out anew, after a restore, whether shares are still being moved."""
        self._balanced = balanced(self.runs.members)

    # ------------------------------------------------------------------------------------------------ one record

    def _advance(self, log_ms: int) -> None:
        new_hour = log_ms // HOUR_MS > self.log_ms // HOUR_MS
        self.log_ms = log_ms
        for row in self.rows.retire(log_ms):
            self.changed_rows.pop(row, None)
            self.dirty_rows.add(row.slot)
            self._rows_cache.clear()
        for account in self.ledger.retire(log_ms):
            self.changed_ledger.pop(account.key, None)
            self.dirty_ledger.add(account.slot)
        if new_hour:
            for state in self.runs.forgotten(log_ms - KEEP_MS):
                self._close(state, keep_charged=True)

    def _batch(self, batch: ReadBatch) -> Fault | None:
        run = (batch.instance, batch.epoch)
        if self._is_closed(run):
            self.counts.skipped += 1
            return None
        state = self.runs.open.get(run)
        seen = state.hw if state else 0
        if batch.seq <= seen:
            self.counts.skipped += 1
            return None
        if batch.seq > seen + 1:
            return Fault(FaultKind.GAP, f"{run_key(*run)}: record {batch.seq} follows {seen}; held until it is whole")
        if state is None:
            state = self._join(run)
        state.hw = batch.seq
        state.seen_ms = self.log_ms
        state.told = batch.told
        if batch.cut_ms // MINUTE_MS > state.cut_ms // MINUTE_MS:
            self._stirred = True  # it has left the windows that ended in between
        state.cut_ms = max(state.cut_ms, batch.cut_ms)
        self._by = state if state.live and not batch.final else None
        if batch.ack > state.ack:
            self._acked = (run, state.ack)
            state.ack = min(batch.ack, self._offset)
            forget_unused(state)
        problem = self._set_gauges(state, batch)
        problem = self._set_wants(state, batch) or problem
        problem = self._book(state, tally(batch.events, self._organisations)) or problem
        self.counts.events += len(batch.events)
        self.changed_ledger[run_key(*run)] = None
        if batch.final:
            self._close(state)
        return problem

    def _finish(self) -> None:
        """Bring what follows from the record into the state: shares, rights, the fence."""
        fence = self._offset + 1
        members = self.runs.members
        if not self._balanced:
            if move(members, fence):
                self.urgent = True
            self._balanced = balanced(members)
        if self._touched:
            self._move_rights(fence)
        if self._stirred or self._acked is not None:
            self._give_what_is_freed(fence)
        self._by = None
        self.fence = fence
        if self.rows_ahead or self.ledger_ahead:
            self.rows_ahead = {slot: ahead for slot, ahead in self.rows_ahead.items() if ahead > fence}
            self.ledger_ahead = {slot: ahead for slot, ahead in self.ledger_ahead.items() if ahead > fence}

    def _move_rights(self, fence: int) -> None:
        """Give those who are short in a row that the record touched what others do not need; mark rows as changed."""
        members, log_ms, by_key = self.runs.members, self.log_ms, self.rows.by_key
        changed, dirty = self.changed_rows, self.dirty_rows
        by, wanted, forced = self._by, self.rows.wanted, self._forced
        for row in self._touched:
            if len(row.holdings) > len(members):
                self.rows.forget_gone(row, members)
            if row.limit >= 0:
                prev = by_key.get(row.prev_key) if row.slides_ms else None
                if by is not None:
                    note_demand(row, by.run, log_ms)
                if by is None or row in wanted or row in forced or not has_plenty(row, prev, by.run):
                    rebalance(row, prev, members, fence, log_ms, row.next_key in by_key)
            changed[row] = None
            dirty.add(row.slot)
        self._touched.clear()
        forced.clear()
        self.urgent = True

    def _give_what_is_freed(self, fence: int) -> None:
        """Look again at the rows that requests wait for: something of them may have become free."""
        members, acked = self.runs.members, self._acked
        everywhere, self._stirred, self._acked = self._stirred, False, None
        ack = 0 if acked is None or acked[0] not in self.runs.open else self.runs.open[acked[0]].ack
        for row in sorted(self.rows.wanted, key=lambda row: row.key):
            freed = everywhere or (acked is not None and is_freed(row, acked[0], acked[1], ack))
            if freed and not self._is_ahead(row) and row.limit >= 0:
                prev = self.rows.by_key.get(row.prev_key) if row.slides_ms else None
                if rebalance(row, prev, members, fence, self.log_ms, row.next_key in self.rows.by_key):
                    self.changed_rows[row] = None
                    self.dirty_rows.add(row.slot)
                    self.urgent = True

    # -------------------------------------------------------------------------------------------------- members

    def _join(self, run: Run) -> RunState:
        for older in self.runs.replaced_by(run):
            self._evict(older.run)
        state = RunState(run, self._offset + 1)
        # An adjuster admits nothing: what it books counts as used by nobody who is here, and it needs no right.
        state.live = not (self.runs.has_newer(run) or is_adjuster(run[0]))
        self.runs.add(state)
        if state.live:
            self._balanced = False
            self.joined = self.urgent = True
        return state

    def _evict(self, run: Run) -> None:
        """Take a member out: its share is free, and what it had in flight of requests and tokens no longer counts."""
        state = self.runs.open.get(run)
        if state is None or not state.live:
            return
        self._drop_member(state)
        for row in self.rows.gauged_by(run):
            if not row.keeps_gauges and self._touch(row):
                self.rows.set_gauge(row, run, 0)

    def _close(self, state: RunState, keep_charged: bool = False) -> None:
        """End a run for good: none of its records counts from here on. Its gauges end, or become charges."""
        if state.live:
            self._drop_member(state)
        for row in self.rows.gauged_by(state.run):
            if self._touch(row):
                row.settled += row.holdings[state.run].inflight if keep_charged else 0
                self.rows.set_gauge(row, state.run, 0)
        del self.runs.open[state.run]
        key = run_key(*state.run)
        self.changed_ledger[key] = None
        account = Account(key, self.log_ms + KEEP_MS, state.told, self._offset, state.hours_from)
        account.totals = state.totals
        if self.ledger_ahead.get(account.slot, 0) <= self._offset:
            self.ledger.add(account)
            self.dirty_ledger.add(account.slot)

    def _drop_member(self, state: RunState) -> None:
        self.runs.drop_member(state)
        for row in [row for row in self.rows.by_key.values() if row.limit < 0 and state.run in row.holdings]:
            self._touch(row)  # who has a share of it has to hear that its part is a gone replica's now
        for row in sorted(self.rows.wanted, key=lambda row: row.key):
            holding = row.holdings.get(state.run)
            if holding is not None and holding.want and self._touch(row):
                holding.want = holding.head = 0
                if not row.is_wanted:
                    self.rows.wanted.discard(row)
        self._balanced = False
        self._stirred = True
        self.urgent = True

    def _is_closed(self, run: Run) -> bool:
        # A ledger slot that is ahead may know of an end that this part of the log has not reached.
        account = self.ledger.by_key.get(run_key(*run))
        return account is not None and account.closed_at < self._offset

    # ----------------------------------------------------------------------------------------------------- rows

    def _row(self, key: str) -> Row | None:
        row = self.rows.by_key.get(key)
        if row is None:
            row = self.rows.get(key, self.log_ms)
            if row is not None:
                self._touch(row)
        return row

    def _touch(self, row: Row) -> bool:
        """Note that the record changes `row`; False if its slot is ahead and holds the change already."""
        if self._is_ahead(row):
            return False
        if row.mark != self._offset:
            row.mark = self._offset
            self._touched.append(row)
        return True

    def _is_ahead(self, row: Row) -> bool:
        return bool(self.rows_ahead) and self.rows_ahead.get(row.slot, 0) > self._offset

    def _set_gauges(self, state: RunState, batch: ReadBatch) -> Fault | None:
        problem = None
        for gauge in batch.gauges:
            try:
                row = self._row(gauge.row)
            except ValueError as error:
                problem = Fault(FaultKind.INVALID, f"gauge: {error}")
                continue
            if gauge.inflight < 0:
                problem = Fault(FaultKind.INVALID, f"gauge of {gauge.row}: in flight is not below 0")
            elif row is None:
                self.counts.late += 1
            elif (state.live or row.keeps_gauges) and self._touch(row):
                if gauge.limit >= 0:
                    self._set_limit(row, gauge.limit, batch.policy_version)
                self.rows.set_gauge(row, state.run, gauge.inflight)
        return problem

    def _set_limit(self, row: Row, limit: int, version: int) -> None:
        """Take the limit of a row as a replica has it, unless it is of an older policy than what is known."""
        if version < row.limit_version:
            return
        row.limit_version = version
        if row.limit < 0:
            row.limit = limit
            begin(row, self.rows.by_key.get(row.prev_key), self.runs.members, self._offset + 1, self.log_ms)
        elif limit != row.limit:
            change_limit(row, limit, self.runs.members, self._offset + 1)
        else:
            return
        self._forced.add(row)

    def _set_wants(self, state: RunState, batch: ReadBatch) -> Fault | None:
        problem = None
        for want in batch.wants:
            try:
                row = self._row(want.row)
            except ValueError as error:
                problem = Fault(FaultKind.INVALID, f"want: {error}")
                continue
            if min(want.amount, want.head) < 0 or want.head > want.amount:
                problem = Fault(FaultKind.INVALID, f"want of {want.row}: {want.head} of {want.amount}")
            elif row is not None and state.live and self._touch(row):
                if want.limit >= 0:
                    self._set_limit(row, want.limit, batch.policy_version)
                holding = row.holdings.setdefault(state.run, Holding())
                holding.want, holding.head = want.amount, want.head
                if row.is_wanted:
                    self.rows.wanted.add(row)
                else:
                    self.rows.wanted.discard(row)
        return problem

    def _book(self, state: RunState, sums: Tally) -> Fault | None:
        problem = Fault(FaultKind.INVALID, sums.fault) if sums.fault else None
        for rows, charges in sums.charges.items():
            try:
                found = self._rows_cache.get(rows) or self._resolve(rows)
            except (DecodeError, ValueError) as error:
                problem = Fault(FaultKind.INVALID, f"event: {error}")
                continue
            self._charge(found, charges, state)
        hours: dict[int, Totals] = {}
        for (org, hour), totals in sums.sums.items():
            day = hour // HOURS_A_DAY
            self._enter(day_key(org, day), max((day + 1) * DAY_MS, self.log_ms) + KEEP_MS, totals)
            of_hour = hours.setdefault(hour, totals)  # whose day has it: from here on it may be the sum of several
            if of_hour is not totals:
                of_hour.include(totals)
        for hour, totals in hours.items():
            state.totals.include(totals)
            self._enter_hour(state, hour, totals)
        return problem

    def _enter_hour(self, state: RunState, hour: int, totals: Totals) -> None:
        """Enter sums of an hour, unless that hour is not kept, or not any more."""
        if state.hours_from is None:
            return
        if hour > self.log_ms // HOUR_MS + HOURS_AHEAD:
            state.hours_from = max(state.hours_from, hour + 1)
        elif hour >= max(state.hours_from, kept_from(self.log_ms)):
            account = self._enter(hour_key(run_key(*state.run), hour), hour_due_ms(hour), totals)
            if account is not None:
                account.extend(state.hw, self._offset)

    def _enter(self, key: str, due_ms: int, totals: Totals) -> Account | None:
        """Add to the account of `key`; None if its slot is ahead and has it already."""
        account = self.ledger.get(key, due_ms)
        if self.ledger_ahead.get(account.slot, 0) > self._offset:
            return None
        account.totals.include(totals)
        self.changed_ledger[key] = None
        self.dirty_ledger.add(account.slot)
        return account

    def _charge(self, rows: RowsByMeasure, charges: Charges, state: RunState) -> None:
        offset, touch, run, is_live = self._offset, self._touch, state.run, state.live
        for found, amount in zip(rows, (charges.requests, charges.tokens, charges.nanos), strict=True):
            if amount:
                for row in found:
                    if row.mark == offset or touch(row):
                        row.settled += amount
                        if is_live:
                            holding = row.holdings.get(run)
                            if holding is None:
                                holding = row.holdings[run] = Holding()
                            holding.settled += amount

    def _resolve(self, encoded: bytes) -> RowsByMeasure:
        """Return the rows of an encoded list; the answer is remembered if all of them are in use."""
        found = [self._row(key) for key in decode_rows(encoded)]
        rows = [row for row in found if row is not None]
        by_measure = (
            [row for row in rows if row.measure == Measure.REQUESTS],
            [row for row in rows if row.measure == Measure.TOKENS],
            [row for row in rows if row.measure == Measure.COST],
        )
        if len(rows) < len(found):
            self.counts.late += len(found) - len(rows)
        else:
            if len(self._rows_cache) >= MAX_CACHED:
                self._rows_cache.clear()
            self._rows_cache[encoded] = by_measure
        return by_measure
