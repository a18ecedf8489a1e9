"""Snapshots: what changed, everything when asked, in parts that fit."""

from __future__ import annotations

import pytest

from meter.core import snapshots
from meter.core.snapshots import Stamp, snapshot
from schemas.quota import Member, RowState, Weight
from tests.unit.meter.fold_builders import COST, DAY, TOKENS, Log, batch

STAMP = Stamp("meter/1", 3, 1_000)


def test_a_partial_snapshot_has_what_changed_since_the_last() -> None:
    """Rows and ledgers once, members always."""
    log = Log().add(batch(), batch(seq=2, ack=1, amount=5))
    [first] = snapshot(log.shard, STAMP, full=False)
    assert {row.row for row in first.rows} == {TOKENS, COST}
    assert [entry.key for entry in first.ledger if entry.place is not None] == [first.ledger[0].key], "hours come first"
    assert {entry.key for entry in first.ledger} == {
        "instance=i1/epoch=1/hour=2025-12-01T00Z", "org=acme/day=2025-12-01", "instance=i1/epoch=1",
    }  # fmt: skip
    assert first.members == [Member("i1", 1, 2, Weight(1, 1, 0))]
    assert (first.fence, first.publisher, first.number, first.full) == (2, "meter/1", 3, False)
    [second] = snapshot(log.shard, STAMP, full=False)
    assert (second.rows, second.ledger, second.members) == ([], [], first.members)


def test_a_row_tells_limit_rights_and_parts_of_every_member() -> None:
    """In the order of the members; before the log knows its limit a row has no rights."""
    log = Log().add(batch(), batch("i2"), batch(seq=2, ack=2), batch("i2", seq=2, ack=2), batch("i2", seq=3, ack=4))
    log.add(batch(seq=3, ack=5, amount=5, rows=(TOKENS,)))
    [first] = snapshot(log.shard, STAMP, full=False)
    assert first.rows == [RowState(TOKENS, 5, 0, -1, [], [5, 0])]
    log.add(batch("i2", seq=4, gauges={TOKENS: 7}, limit=101))
    [second] = snapshot(log.shard, STAMP, full=False)
    assert [member.instance for member in second.members] == ["i1", "i2"]
    assert second.rows == [RowState(TOKENS, 5, 7, 101, [51, 50], [5, 7])]


def test_a_row_whose_rights_move_is_published_again() -> None:
    """Nothing was booked there, but an acknowledgement made room for a replica that waits."""
    log = Log().add(batch(), batch("i2"), batch(seq=2, ack=2), batch("i2", seq=2, ack=2), batch("i2", seq=3, ack=4))
    log.add(batch(seq=3, gauges={TOKENS: 0}, limit=100), batch("i2", seq=4, wants={TOKENS: (80, 80)}, limit=100))
    [short] = snapshot(log.shard, STAMP, full=False)
    [before] = short.rows
    assert before.rights[1] < 80
    log.add(batch(seq=4, ack=log.shard.fence))
    [part] = snapshot(log.shard, STAMP, full=False)
    [state] = part.rows
    assert state.rights[1] >= 80
    assert sum(state.rights) <= 100


def test_a_full_snapshot_has_everything_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row once, sorted; members and fence in every part."""
    monkeypatch.setattr(snapshots, "MAX_ROWS", 3)
    rows = tuple(f"team/tokens/org=acme,team=t{number}/{DAY}" for number in range(7))
    log = Log().add(batch(amount=5, rows=rows))
    snapshot(log.shard, STAMP, full=False)
    parts = snapshot(log.shard, STAMP, full=True)
    assert [(part.chunk, part.chunks, part.fence, len(part.members)) for part in parts] == [
        (0, 3, 1, 1), (1, 3, 1, 1), (2, 3, 1, 1),
    ]  # fmt: skip
    assert [row.row for part in parts for row in part.rows] == sorted(rows)


def test_a_snapshot_does_not_change_behind_the_readers_back() -> None:
    """What was taken out stays as it was while the fold goes on."""
    log = Log().add(batch(amount=5))
    [part] = snapshot(log.shard, STAMP, full=True)
    before = [(entry.key, entry.totals.events) for entry in part.ledger]
    log.add(batch(seq=2, amount=5))
    assert [(entry.key, entry.totals.events) for entry in part.ledger] == before
