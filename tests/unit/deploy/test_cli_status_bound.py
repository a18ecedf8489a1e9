"""The overshoot bound of a budget, summed over replicas."""

from __future__ import annotations

from typing import Any

from deploy.cli.status import _propagation, overshoot_bound, overshoot_of_rule

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


def test_the_bound_of_a_limit_is_over_its_scopes_and_replicas_and_of_its_measure_and_period() -> None:
    """Every window of the same period counts: a sliding minute is two of them."""
    limit = {"rule": "key", "measure": "tokens", "period": "minute"}
    rows = {f"key/tokens/org=acme,key=k{number}/minute@{start}+60": 4 for number in (1, 2) for start in (0, 60)}
    other = {"key/tokens/org=acme,key=k1/day@0+86400": 50, "key/requests/org=acme,key=k1/minute@0+60": 70}
    assert overshoot_of_rule(limit, [{"overshoot_bounds": rows | other}, {"overshoot_bounds": {}}]) == 16
    assert overshoot_of_rule(limit, [{"overshoot_bounds": rows}, None]) is None


def test_status_says_how_long_usage_takes_to_be_known_and_whether_metering_is_at_work() -> None:
    """Measured by every replica and by the enforcer, beside what is published."""
    found = {
        "propagation_ms": {
            "published_p99": 150,
            "ingress-1": {"p50": 41, "p99": 77, "samples": 900, "heartbeat_p99": 260, "under_way_ms": 12},
            "ingress-2": None,
            "enforcer": {"p50": 30, "p99": 60, "samples": 1000},
        },
        "metering": {"state": "silent", "since": "2026-11-21T12:30:00.000Z"},
    }
    text = _propagation(found)
    assert "ingress-1" in text
    assert "77" in text
    assert "metering: SILENT since 2026-11-21T12:30:00.000Z; published propagation: 150 ms (p99)" in text
