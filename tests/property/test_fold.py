"""The fold is a pure function of the log: same prefix, same bytes, however often it was interrupted."""

from __future__ import annotations

import random
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from meter.core.changelog import META, Changelog
from meter.core.ledger import HOURS_AHEAD, HOURS_KEPT, KEEP_MS, kept_from
from meter.core.records import HOUR_MS, ReadBatch, read
from meter.core.rows import Run
from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from schemas.codec import encode_snapshot
from schemas.quota import LedgerState, Place, Snapshot, hour_of, run_key
from schemas.usage import Totals
from tests.property.fold_logs import START_MS, Log, random_log

LOGS = st.builds(random_log, st.integers(0, 1_000_000), st.integers(1, 120))
STAMP = Stamp("test", 1, 0)


def fold(log: Log, changelog: Changelog, begin: int, end: int) -> Changelog:
    """Fold the records from `begin` up to `end`."""
    for offset in range(begin, end):
        changelog.shard.apply(offset, *log[offset])
    return changelog


def published(shard: Shard) -> list[bytes]:
    """Return a full snapshot as it goes out."""
    return [encode_snapshot(part) for part in snapshot(shard, STAMP, full=True)]


@given(LOGS)
@settings(max_examples=60)
def test_two_folds_of_a_log_are_equal_byte_for_byte(log: Log) -> None:
    """Nothing but the log goes into the state: no order of sets, no object identity, no caches."""
    one = fold(log, Changelog(Shard(0)), 0, len(log))
    other = fold(log, Changelog(Shard(0)), 0, len(log))
    assert one.whole() == other.whole()
    assert published(one.shard) == published(other.shard)


@given(LOGS, st.integers(0, 1_000_000).map(random.Random))
@settings(max_examples=150)
def test_a_fold_that_dies_anywhere_ends_in_the_same_bytes(log: Log, pick: random.Random) -> None:
    """Flushes spread over many records and cut short, restarts that replay from any earlier offset: all exact."""
    store: dict[str, bytes] = {}
    committed = 0
    whole = fold(log, Changelog(Shard(0)), 0, len(log)).whole()
    changelog, at = Changelog(Shard(0)), 0
    while at < len(log):
        at = _fold_some(log, changelog, at, pick)
        flush = changelog.begin()
        dies = pick.random() < 0.4
        for name in flush.slots:
            if dies and pick.random() < 0.1:
                break
            store[name] = changelog.encode(name)
            if pick.random() < 0.3:
                at = _fold_some(log, changelog, at, pick)
        else:
            if not dies:
                store[META] = flush.meta
                committed = flush.fence
                continue
        changelog = Changelog.restore(0, store)
        assert changelog.shard.fence == committed
        at = pick.randint(0, committed)
    assert changelog.shard.whole
    assert changelog.whole() == whole


def _fold_some(log: Log, changelog: Changelog, at: int, pick: random.Random) -> int:
    until = min(len(log), at + pick.randint(1, 15))
    fold(log, changelog, at, until)
    return until


class Known(NamedTuple):
    """What a member knows of a row."""

    total: int
    limit: int
    own: int
    right: int
    gone: int


class Reader:
    """A member that installs snapshots: what it knows of each row, and of everybody's sums."""

    def __init__(self) -> None:
        self.rows: dict[str, Known] = {}
        self.ledger: dict[str, LedgerState] = {}

    def install(self, parts: list[Snapshot], run: tuple[str, int]) -> None:
        """Take over the total, the limit, its own part and its right of each row; and, without a limit, what is gone.

        Rights and parts are in the order of the members of the snapshot that has them.
        """
        for part in parts:
            place = [(member.instance, member.epoch) for member in part.members].index(run)
            for row in part.rows:
                gone = row.settled + row.inflight - sum(row.nets) if row.limit < 0 else -1
                right = row.rights[place] if row.rights else -1
                self.rows[row.row] = Known(row.settled + row.inflight, row.limit, row.nets[place], right, gone)
            self.ledger.update({entry.key: entry for entry in part.ledger})


@given(LOGS)
@settings(max_examples=60)
def test_partial_snapshots_add_up_to_a_full_one(log: Log) -> None:
    """A member that installs each snapshot since the full one it joined with knows what a full one tells it.

    However others come and go between them: its own right and part, and of a row that has no rights what gone
    replicas have used, because its share is a part of the rest.
    """
    shard = Shard(0)
    readers: dict[tuple[str, int], Reader] = {}
    for offset, (log_ms, value) in enumerate(log):
        shard.apply(offset, log_ms, value)
        if offset % 3 == 0 or offset == len(log) - 1:
            is_full = shard.joined
            parts = snapshot(shard, STAMP, is_full)
            for run in [state.run for state in shard.runs.members]:
                assert is_full or run in readers
                readers.setdefault(run, Reader()).install(parts, run)
    full = snapshot(shard, STAMP, full=True)
    for run in [state.run for state in shard.runs.members]:
        told, whole = readers[run], Reader()
        whole.install(full, run)
        assert {key: told.rows[key] for key in whole.rows} == whole.rows
        assert {key: _without_hours_from(told.ledger[key]) for key in whole.ledger} == {
            key: _without_hours_from(entry) for key, entry in whole.ledger.items()
        }
        assert all((told.ledger[key].hours_from or 0) <= (entry.hours_from or 0) for key, entry in whole.ledger.items())


def _without_hours_from(entry: LedgerState) -> LedgerState:
    """Leave out what moves on with the time of the log: until a run speaks again, what it said stays true."""
    return msgspec.structs.replace(entry, hours_from=None)


class Told:
    """What the records of a log that count add up to, by run and hour, without a fold."""

    def __init__(self) -> None:
        self._hw: dict[Run, int] = {}
        self._closed: set[Run] = set()
        self.hours: dict[Run, dict[int, tuple[Totals, Place]]] = {}
        self.sums: dict[Run, Totals] = {}
        self.given_up: dict[Run, int] = {}
        """Up to where hours are given up, because of an event that was ahead of the log's time."""

    def take(self, offset: int, log_hour: int, value: bytes) -> None:
        """Take a record: each of a run once, in order, none after the last."""
        record, _ = read(value)
        if not isinstance(record, ReadBatch):
            return
        run = (record.instance, record.epoch)
        if run in self._closed or record.seq != self._hw.get(run, 0) + 1:
            return
        self._hw[run] = record.seq
        hours = self.hours.setdefault(run, {})
        for event in record.events:
            hour = event.occurred_ms // HOUR_MS
            if hour > log_hour + HOURS_AHEAD:
                self.given_up[run] = max(self.given_up.get(run, 0), hour + 1)
            self.sums.setdefault(run, Totals()).add(event)
            new = Totals(), Place(record.seq, record.seq, offset, offset)
            totals, place = hours.get(hour, new)
            totals.add(event)
            place = Place(place.first_seq, record.seq, place.first_offset, offset)
            hours[hour] = totals, place
        if record.final:
            self._closed.add(run)


def _check_hours(shard: Shard, expected: Told, entries: dict[str, LedgerState]) -> None:
    for run, hours in expected.hours.items():
        key = run_key(*run)
        assert entries[key].totals == expected.sums.get(run, Totals())
        since = entries[key].hours_from
        assert since is not None
        there = {found[1]: entry for name, entry in entries.items() if (found := hour_of(name)) and found[0] == key}
        whole = {hour: (entry.totals, entry.place) for hour, entry in there.items() if hour >= since}
        assert whole == {hour: one for hour, one in hours.items() if hour >= since}
        given_up = max(kept_from(shard.log_ms), expected.given_up.get(run, 0))
        assert since <= given_up, "no hour is given up without a reason"


@given(LOGS)
@settings(max_examples=80)
def test_hours_are_whole_from_where_the_run_says(log: Log) -> None:
    """Whatever comes late, ahead of time or twice: every hour from there on has all its events, and is where it says.

    A reader of partial snapshots sees that at every fence, whatever it has kept of older ones.
    """
    shard, expected = Shard(0), Told()
    entries: dict[str, LedgerState] = {}
    for offset, (log_ms, value) in enumerate(log):
        shard.apply(offset, log_ms, value)
        expected.take(offset, shard.log_ms // HOUR_MS, value)
        if offset % 7 == 0 or offset == len(log) - 1:
            for part in snapshot(shard, STAMP, full=False):
                entries.update({entry.key: entry for entry in part.ledger})
            _check_hours(shard, expected, entries)
    full = {entry.key: entry for part in snapshot(shard, STAMP, full=True) for entry in part.ledger}
    _check_hours(shard, expected, full)
    assert sum(entry.place is not None for entry in full.values()) <= len(expected.hours) * (HOURS_KEPT + 2)


@given(LOGS)
@settings(max_examples=40)
def test_everything_is_forgotten_in_the_end(log: Log) -> None:
    """Long after the last window, a single record leaves no row, no ledger and no lost run behind."""
    shard = fold(log, Changelog(Shard(0)), 0, len(log)).shard
    later = START_MS + 3 * KEEP_MS
    for step in range(3):
        shard.apply(len(log) + step, later + step * 2 * KEEP_MS, b"anything")
    assert not shard.rows.by_key
    assert not shard.ledger.by_key
    assert list(shard.runs.open.values()) == shard.runs.members
