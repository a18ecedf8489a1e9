"""Laps: every record through the loop is timed once, whatever it carries and however many a snapshot includes."""

from __future__ import annotations

from ingress.core.laps import HEARTBEAT, MAX_OPEN, USAGE, Laps
from ingress.core.rows import bounds_by_rule


def test_a_lap_ends_with_the_first_snapshot_that_includes_its_record() -> None:
    """One snapshot may end several; what it does not include stays under way."""
    laps = Laps(2)
    for seq, began_ms in ((1, 1_000), (2, 1_020), (3, 1_040)):
        laps.begin(0, 7, seq, began_ms, carries_usage=True)
    laps.begin(1, 7, 1, 1_010, carries_usage=False)
    laps.end(0, 2, 1_070)
    assert (laps.quantile(USAGE, 50), laps.quantile(USAGE, 99)) == (50, 70)
    assert laps.quantile(HEARTBEAT, 50) is None
    assert laps.under_way_ms(1_100) == 90
    laps.end(1, 1, 1_260)
    laps.end(0, 3, 1_100)
    assert laps.quantile(HEARTBEAT, 99) == 250
    assert (laps.under_way_ms(2_000), laps.spreads[USAGE].sum_ms) == (0, 180)
    assert laps.summary(2_000)["samples"] == 3


def test_a_new_epoch_counts_anew() -> None:
    """Numbers begin at 1 again: what was under way is forgotten, and so is the last record of the epoch before."""
    laps = Laps(1)
    laps.begin(0, 1, 40, 1_000, carries_usage=True)
    laps.begin(0, 2, 1, 2_000, carries_usage=True)
    laps.begin(0, 1, 41, 2_010, carries_usage=False)
    laps.end(0, 1, 2_030)
    assert laps.quantile(USAGE, 50) == 30
    assert laps.under_way_ms(9_000) == 0


def test_memory_is_bounded_while_nothing_comes_back() -> None:
    """An outage of days keeps the newest records."""
    laps = Laps(1)
    for seq in range(MAX_OPEN + 10):
        laps.begin(0, 1, seq, seq, carries_usage=False)
    laps.end(0, MAX_OPEN + 10, MAX_OPEN + 10)
    assert laps.spreads[HEARTBEAT].sum_ms == sum(range(1, MAX_OPEN + 1))


def test_bounds_are_added_up_by_rule_and_measure() -> None:
    """No scope is left in them: a metric has no label with as many values as there are users."""
    rows = {"r/cost/org=a/day@0+9": 3, "r/cost/org=b/day@0+9": 4, "r/tokens/org=a/day@0+9": 5}
    assert bounds_by_rule(rows) == {("r", "cost"): 7, ("r", "tokens"): 5}
