"""The view of the meter's rows: merged by fence, ended by full snapshots, bounded for minutes."""

from __future__ import annotations

import pytest

from enforcer.core.quota import MINUTE_ROW_KEPT_S, QuotaView
from schemas.errors import InvalidEvent
from schemas.quota import LedgerState, Member, RowState, Snapshot, Weight
from schemas.usage import Totals
from tests.unit.enforcer.enforcer_parts import row

MINUTE = "key-minute/requests/org=acme,key=k/minute@1795264200+60"


def _snapshot(
    fence: int, rows: list[RowState], full: bool = False, number: int = 1, chunk: int = 0, chunks: int = 1,
    ledger: list[LedgerState] | None = None, partition: int = 0,
) -> Snapshot:  # fmt: skip
    return Snapshot(
        partition, "run", number, fence, fence * 10, fence * 10 - 1, full, chunk, chunks,
        [Member("i", 1, fence, Weight(1, 1, 0))], rows, ledger or [],
    )  # fmt: skip


def _rows(view: QuotaView) -> dict[str, int]:
    return {held.state.row: held.state.settled for held in view.rows()}


def test_an_older_version_of_a_row_is_ignored() -> None:
    """A snapshot at a lower fence, read later, changes nothing."""
    view = QuotaView(1)
    assert view.merge(_snapshot(20, [row(5)]), 1)
    assert not view.merge(_snapshot(10, [row(3)]), 2)
    assert _rows(view) == {row(5).row: 5}
    assert view.shards[0].fence == 20


def test_changes_are_handed_out_once() -> None:
    """Only money rows and ledgers that changed since the last call."""
    view = QuotaView(1)
    entry = LedgerState("org=acme/day=2026-11-21", Totals(events=1), None)
    view.merge(_snapshot(10, [row(3), RowState(MINUTE, 1, 0)], ledger=[entry]), 1)
    rows, entries = view.take_changed()
    assert ([held.state for held in rows], entries) == ([row(3)], [entry])
    view.merge(_snapshot(20, [row(3)], ledger=[entry]), 2)
    assert view.take_changed() == ([], [])


def test_a_full_snapshot_ends_what_it_does_not_mention() -> None:
    """Rows and ledgers that the meter has retired go, but none that is newer than the snapshot."""
    view = QuotaView(1)
    old = LedgerState("org=acme/day=2026-01-01", Totals(), None)
    view.merge(_snapshot(10, [row(1), row(2, "ml")], ledger=[old]), 1)
    view.merge(_snapshot(30, [row(4, "late")]), 2)
    view.merge(_snapshot(20, [row(1)], full=True, number=2), 3)
    assert set(_rows(view)) == {row(1).row, row(4, "late").row}
    assert view.shards[0].ledger == {}
    assert view.shards[0].whole


def test_a_full_snapshot_counts_only_when_all_its_parts_are_there() -> None:
    """Half of one, or one whose beginning was missed, ends nothing."""
    view = QuotaView(1)
    view.merge(_snapshot(10, [row(1), row(2, "ml")]), 1)
    view.merge(_snapshot(20, [row(1)], full=True, chunk=1, chunks=2), 2)
    assert not view.shards[0].whole
    view.merge(_snapshot(30, [row(1)], full=True, number=2, chunk=0, chunks=2), 3)
    assert len(_rows(view)) == 2
    view.merge(_snapshot(30, [], full=True, number=2, chunk=1, chunks=2), 4)
    assert _rows(view) == {row(1).row: 1}


def test_a_retired_row_is_not_brought_back_by_an_older_snapshot() -> None:
    """Below the fence of a full snapshot nothing is taken in any more."""
    view = QuotaView(1)
    view.merge(_snapshot(20, [], full=True), 1)
    view.merge(_snapshot(10, [row(1)]), 2)
    assert _rows(view) == {}


def test_minutes_are_forgotten_and_months_are_not() -> None:
    """Rows of minutes go a while after their end."""
    view = QuotaView(1)
    view.merge(_snapshot(10, [row(1), RowState(MINUTE, 1, 0)]), 1)
    view.housekeep(1795264260 + MINUTE_ROW_KEPT_S - 1)
    assert len(_rows(view)) == 2
    view.housekeep(1795264260 + MINUTE_ROW_KEPT_S)
    assert list(_rows(view)) == [row(1).row]


@pytest.mark.parametrize("bad", [_snapshot(1, [RowState("nonsense", 0, 0)]), _snapshot(1, [], partition=1)])
def test_a_snapshot_that_cannot_be_ours_is_refused(bad: Snapshot) -> None:
    """A row key that is none, or a partition that the deployment does not have."""
    with pytest.raises(InvalidEvent):
        QuotaView(1).merge(bad, 1)


def test_members_and_times_are_those_of_the_newest_fence() -> None:
    """Who shares the partition is read from the newest snapshot."""
    view = QuotaView(1)
    view.merge(_snapshot(20, []), 5)
    view.merge(_snapshot(10, []), 7)
    shard = view.shards[0]
    assert (shard.members[0].hw, shard.published_ms, shard.received_ms) == (20, 200, 7)
