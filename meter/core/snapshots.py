"""What a shard publishes: the rows and ledgers that changed since the last snapshot, or all of them, at one fence."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

from meter.core.ledger import state_of, whole_from
from meter.core.rows import Row, Run
from meter.core.runs import RunState
from meter.core.shard import Shard
from meter.core.shares import weight_of
from schemas.quota import LedgerState, Member, RowState, Snapshot, run_key

MAX_ROWS = 2_000
"""Rows, and ledger entries, a record of a snapshot."""


class Stamp(NamedTuple):
    """Who publishes, which of its snapshots this is, and when (unix ms)."""

    publisher: str
    number: int
    published_ms: int


def snapshot(shard: Shard, stamp: Stamp, full: bool) -> list[Snapshot]:
    """Return a snapshot of `shard`, in as many parts as it needs, and clear its marks.

    The shard must be `whole`: after a restore the parts of its state are at one fence only when it has caught up.
    """
    if not shard.whole:
        raise ValueError(f"partition {shard.partition}: the state is not at one fence yet")
    runs = [state.run for state in shard.runs.members]
    rows = _row_states(sorted(shard.rows.by_key.values(), key=_key) if full else shard.changed_rows, runs)
    ledger = _whole_ledger(shard) if full else _changed_ledger(shard)
    members = [_member(state) for state in shard.runs.members]
    shard.changed_rows.clear()
    shard.changed_ledger.clear()
    shard.urgent = False
    if full:
        shard.joined = False
    chunks = max(1, -(-len(rows) // MAX_ROWS), -(-len(ledger) // MAX_ROWS))
    return [
        Snapshot(
            partition=shard.partition,
            publisher=stamp.publisher,
            number=stamp.number,
            fence=shard.fence,
            published_ms=stamp.published_ms,
            log_ms=shard.log_ms,
            full=full,
            chunk=chunk,
            chunks=chunks,
            members=members,
            rows=rows[chunk * MAX_ROWS : (chunk + 1) * MAX_ROWS],
            ledger=ledger[chunk * MAX_ROWS : (chunk + 1) * MAX_ROWS],
        )
        for chunk in range(chunks)
    ]


def _row_states(rows: Iterable[Row], runs: list[Run]) -> list[RowState]:
    return [_row_state(row, runs) for row in rows]


def _row_state(row: Row, runs: list[Run]) -> RowState:
    held = [row.holdings.get(run) for run in runs]
    nets = [0 if holding is None else holding.settled + holding.inflight for holding in held]
    rights = [0 if holding is None else holding.right for holding in held] if row.limit >= 0 else []
    return RowState(row.key, row.settled, row.inflight, row.limit, rights, nets)


def _member(state: RunState) -> Member:
    instance, epoch = state.run
    return Member(instance, epoch, state.hw, weight_of(state.grants[-1].share))


def _run_ledger(shard: Shard, state: RunState) -> LedgerState:
    hours_from = whole_from(state.hours_from, shard.log_ms)
    return LedgerState(run_key(*state.run), copy.copy(state.totals), state.told, hours_from=hours_from)


def _whole_ledger(shard: Shard) -> list[LedgerState]:
    runs = {run_key(*run): _run_ledger(shard, state) for run, state in shard.runs.open.items()}
    accounts = {key: state_of(account, shard.log_ms) for key, account in shard.ledger.by_key.items()}
    return _hours_first(entry for _, entry in sorted((accounts | runs).items()))


def _changed_ledger(shard: Shard) -> list[LedgerState]:
    runs = {run_key(*run): state for run, state in shard.runs.open.items()}
    entries = []
    for key in shard.changed_ledger:
        if key in runs:
            entries.append(_run_ledger(shard, runs[key]))
        elif key in shard.ledger.by_key:
            entries.append(state_of(shard.ledger.by_key[key], shard.log_ms))
    return _hours_first(entries)


def _hours_first(entries: Iterable[LedgerState]) -> list[LedgerState]:
    """Put hours first and runs last: who has read an entry of a run has read its hours and days at that fence."""
    return sorted(entries, key=lambda entry: (entry.place is None, entry.told is not None))


def _key(row: Row) -> str:
    return row.key
