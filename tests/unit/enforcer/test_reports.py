"""Reports: current windows only, exact amounts, percents that never round up to full."""

from __future__ import annotations

from enforcer.core.quota import QuotaView
from enforcer.core.reports import (
    budget_samples,
    budgets,
    hours,
    ledger,
    limits,
    quantile,
    rules,
    shard_status,
    usage,
)
from schemas.published import OVERSHOOT_BOUND
from schemas.quota import LedgerState, Member, Place, RowState, Snapshot, Weight
from schemas.usage import Totals
from tests.unit.enforcer.enforcer_parts import DOCUMENT, LAST_MONTH, MONTH, NOW_MS, NOW_S, USD, policy, row

MINUTE = RowState("key-minute/requests/org=acme,key=k/minute@1795264200+60", 7, 3)


def _view(*rows: RowState, ledger: list[LedgerState] | None = None) -> QuotaView:
    view = QuotaView(1)
    members = [Member("i", 2, 3, Weight(1, 2, 1))]
    view.merge(Snapshot(0, "run", 1, 10, NOW_MS - 40, NOW_MS - 50, True, 0, 1, members, list(rows), ledger or []), 1)
    return view


def test_usage_lists_the_rows_of_the_current_windows() -> None:
    """Limits come from the policy; rows of ended windows and of other organisations are left out."""
    view = _view(row(10 * USD), row(10 * USD, window=LAST_MONTH), MINUTE)
    found = usage(view, policy(), "acme", None, NOW_S)
    assert [(line["rule"], line["limit"], line["used_percent"]) for line in found] == [
        ("key-minute", 20, 50.0),
        ("team-month", 100 * USD, 10.0),
    ]
    assert found[1]["settled_usd"] == "10.000000000"
    assert usage(view, policy(), "other", None, NOW_S) == []
    assert len(usage(view, policy(), None, "team-month", NOW_S)) == 1
    assert usage(view, None, None, "team-month", NOW_S)[0]["limit"] is None


def test_a_budget_says_what_is_left_and_what_was_crossed() -> None:
    """Settled and in flight both take from what remains; nothing is rounded up."""
    found = budgets(_view(row(80 * USD, inflight=20 * USD - 1)), policy(), NOW_S, 90)[0]
    assert (found["remaining"], found["overshoot"], found["used_percent"]) == (1, 0, 99.99)
    assert (found["thresholds_crossed_percent"], found["exhausted"]) == ([50, 80], False)
    assert (found["overshoot_bound"], found["propagation_ms"]) == (OVERSHOOT_BOUND, 90)
    assert found["window"]["end"] == "2026-12-01T00:00:00.000Z"
    over = budgets(_view(row(101 * USD)), policy(), NOW_S, None)[0]
    assert (over["remaining"], over["overshoot"], over["exhausted"]) == (0, USD, True)
    assert over["remaining_usd"] == "0.000000000", "zero is written out, without an exponent"


def test_budgets_without_use_are_listed_as_rules() -> None:
    """A budget that nobody has used is still one."""
    assert [(rule["budget"], rule["per"]) for rule in rules(policy())] == [("team-month", ["org", "team"])]
    assert rules(None) == []


def test_ledgers_are_shown_with_all_their_sums() -> None:
    """What an instance told is beside what was folded."""
    told = Totals(events=2, cost_nanos=9)
    entry = LedgerState("instance=i/epoch=2", Totals(events=1), told)
    found = ledger(_view(ledger=[entry]))[0]
    assert (found["totals"]["events"], found["told"]["cost_nanos"], found["partition"]) == (1, 9, 0)


def test_hours_are_shown_beside_their_runs() -> None:
    """With the place of their events; of a run, from which hour on that is all of them."""
    run = LedgerState("instance=i/epoch=2", Totals(events=1), Totals(), hours_from=498_684)
    of_hour = LedgerState(f"{run.key}/hour=2026-11-21T12Z", Totals(events=1), None, Place(1, 2, 3, 4))
    view = _view(ledger=[of_hour, run])
    assert [(entry["key"], entry["hours_from"]) for entry in ledger(view)] == [(run.key, "2026-11-21T12Z")]
    (found,) = hours(view)
    assert (found["key"], found["totals"]["events"], found["place"]["last_offset"]) == (of_hour.key, 1, 4)


def test_a_partition_says_how_current_it_is_and_who_shares_it() -> None:
    """Age of the newest snapshot, members with their weights."""
    status = shard_status(_view().shards[0], 2, NOW_MS)
    assert (status["staleness_ms"], status["lag"], status["whole"]) == (40, 2, True)
    assert status["members"] == [{"instance": "i", "epoch": 2, "hw": 3, "weight": {"num": 1, "den": 2, "off": 1}}]
    assert shard_status(QuotaView(1).shards[0], None, NOW_MS)["staleness_ms"] is None


def test_quantiles_are_of_the_samples() -> None:
    """Nearest rank: a value that was measured, none without any."""
    assert quantile([], 99) is None
    assert quantile([5], 50) == 5
    assert quantile(range(1, 101), 99) == 99


def test_limits_are_added_up_with_the_scope_that_is_nearest() -> None:
    """The limit in force on the log comes before the policy's: it has schedules and increases in it."""
    other = RowState("key-minute/requests/org=acme,key=k2/minute@1795264200+60", 36, 0, 40)
    over = RowState("key-minute/requests/org=acme,key=k3/minute@1795264200+60", 3, 0, 2)
    (line,) = limits(_view(MINUTE, other), policy(), NOW_S)
    assert (line["rule"], line["measure"], line["period"], line["limit"]) == ("key-minute", "requests", "minute", 20)
    assert (line["scopes"], line["used_percent"], line["nearest"], line["over"]) == (2, 90.0, "org=acme,key=k2", 0)
    assert limits(_view(MINUTE, over), policy(), NOW_S)[0]["over"] == 1
    (unused,) = limits(_view(), policy(), NOW_S)
    assert (unused["scopes"], unused["used_percent"], unused["nearest"]) == (0, None, None)


def test_budget_metrics_have_no_users_or_keys_in_their_labels() -> None:
    """Scopes are added up by organisation, project and team; the one nearest to its amount is told besides."""
    text = DOCUMENT.replace("per: [team]", "per: [team, user]")
    rows = [
        RowState(f"team-month/cost/org=acme,team=search,user={user}/{MONTH}", settled * USD, 0)
        for user, settled in (("ada", 10), ("bob", 120))
    ]
    samples = {
        (name, labels): value for name, labels, value in budget_samples(budgets(_view(*rows), policy(text), NOW_S, 1))
    }
    labels = ("team-month", "acme", "", "search")
    assert {found for _, found in samples} == {labels}
    assert samples["budget_amount_usd", labels] == 200
    assert samples["budget_settled_usd", labels] == 130
    assert samples["budget_overshoot_usd", labels] == 20
    assert samples["budget_used_ratio", labels] == 1.2
    assert samples["budget_scopes", labels] == 2
