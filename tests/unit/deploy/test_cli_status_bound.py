"""The overshoot bound of a budget, summed over replicas."""

from __future__ import annotations

from typing import Any

from deploy.cli.status import overshoot_bound

BUDGET: dict[str, Any] = {"budget": "team-day", "scope": "org=acme,team=search", "window": {"start_s": 86_400}}
ROW = "team-day/cost/org=acme,team=search/day@86400+86400"


def test_the_bound_is_the_sum_over_replicas() -> None:
    """What each replica's requests in flight may miss adds up; other rows do not count."""
    yesterday = ROW.replace("day@86400", "day@0")
    other = ROW.replace("team=search", "team=ml")
    replicas = [{"overshoot_bounds": {ROW: 5, yesterday: 100, other: 1_000}}, {"overshoot_bounds": {ROW: 7}}]
    assert overshoot_bound(BUDGET, replicas) == 12


def test_the_bound_is_unknown_while_a_replica_does_not_answer() -> None:
    """An unknown bound is not shown as 0."""
    assert overshoot_bound(BUDGET, [{"overshoot_bounds": {ROW: 5}}, None]) is None
