"""Thresholds: crossed by settled spend, once a window, told exactly."""

from __future__ import annotations

import pytest

from enforcer.core.thresholds import crossings, unpriced
from schemas.alerts import THRESHOLD_CROSSED, UNPRICED_MODEL
from schemas.quota import LedgerState
from schemas.usage import Totals
from schemas.windows import Period, window_at
from tests.unit.enforcer.enforcer_parts import (
    DOCUMENT,
    LAST_MONTH,
    MONTH,
    NOW_MS,
    NOW_S,
    USD,
    row,
    spend,
    spends,
    with_amount,
)


@pytest.mark.parametrize(
    ("settled", "expected"),
    [
        (0, []),
        (50 * USD - 1, []),
        (50 * USD, [50]),
        (80 * USD, [50, 80]),
        (100 * USD - 1, [50, 80]),
        (100 * USD, [50, 80, 100]),
        (900 * USD, [50, 80, 100]),
    ],
)
def test_a_threshold_is_crossed_when_its_percents_are_reached(settled: int, expected: list[int]) -> None:
    """Reached means equal or more, to the nano-dollar."""
    alerts = crossings(spends(row(settled)), (), 1, NOW_MS)
    assert [alert.data["threshold_percent"] for alert in alerts] == expected


def test_a_correction_that_takes_spend_below_a_threshold_makes_no_second_alert() -> None:
    """The marker stays: crossed once more in the same window is no news."""
    sent = {alert.id for alert in crossings(spends(row(80 * USD)), (), 1, NOW_MS)}
    assert len(sent) == 2
    assert crossings(spends(row(40 * USD)), sent, 1, NOW_MS) == []
    assert crossings(spends(row(80 * USD)), sent, 1, NOW_MS) == []
    assert crossings(spends(row(-5)), (), 1, NOW_MS) == []


def test_what_is_in_flight_crosses_nothing() -> None:
    """Only settled spend counts; reservations may come back."""
    assert crossings(spends(row(1, inflight=500 * USD)), (), 1, NOW_MS) == []


def test_a_budget_of_nothing_alerts_with_its_first_spend() -> None:
    """An amount of zero is used up from the start, but a row without spend is no news."""
    assert crossings(spends(row(0), text=with_amount("0 USD")), (), 1, NOW_MS) == []
    assert len(crossings(spends(row(1), text=with_amount("0 USD")), (), 1, NOW_MS)) == 3


def test_an_alert_says_everything_exactly() -> None:
    """Budget, scope, threshold, amounts as text and integers, window and policy version."""
    alert = crossings(spends(row(50 * USD + 1)), (), 7, NOW_MS)[0]
    assert (alert.type, alert.subject) == (THRESHOLD_CROSSED, "org=acme,team=search")
    assert alert.time == "2026-11-21T12:30:00Z"
    assert alert.partitionkey == f"team-month/org=acme,team=search/{MONTH}"
    assert alert.data == {
        "budget": "team-month",
        "scope": {"org": "acme", "team": "search"},
        "threshold_percent": 50,
        "amount_nanos": 100 * USD,
        "amount_usd": "100.000000000",
        "used_nanos": 50 * USD + 1,
        "used_usd": "50.000000001",
        "window": {"period": "month", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
        "policy_version": 7,
    }


def test_a_sent_threshold_stays_sent_when_the_amount_changes() -> None:
    """A raised amount is crossed again silently; a lowered one alerts for what had not been crossed."""
    sent = {alert.id for alert in crossings(spends(row(50 * USD)), (), 1, NOW_MS)}
    raised = spends(row(100 * USD), text=with_amount("200 USD"))
    assert crossings(raised, sent, 2, NOW_MS) == []
    lowered = crossings(spends(row(50 * USD), text=with_amount("60 USD")), sent, 3, NOW_MS)
    assert [alert.data["threshold_percent"] for alert in lowered] == [80]


def test_a_late_row_of_an_old_window_alerts_for_that_window() -> None:
    """The old window's threshold is another one than the new window's."""
    alerts = crossings(spends(row(60 * USD, window=LAST_MONTH), row(60 * USD)), (), 1, NOW_MS)
    assert len({alert.id for alert in alerts}) == len(alerts) == 2


def test_rows_of_a_budget_in_its_former_shape_are_no_spend_of_it() -> None:
    """A monthly row means nothing to a daily budget, nor one of other scopes, zones, rules or measures."""
    day = window_at(Period.DAY, "UTC", NOW_S)
    berlin = window_at(Period.MONTH, "Europe/Berlin", NOW_S)
    for text in ("period: day", "period: month, timezone: Europe/Berlin"):
        assert spend(row(1), DOCUMENT.replace("period: month", text)) is None
    assert spend(row(1), DOCUMENT.replace("per: [team]", "per: [team, user]")) is None
    assert spend(row(1), DOCUMENT.replace("team-month", "renamed")) is None
    assert spend(row(1, window=day)) is None
    assert spend(row(1, window=berlin)) is None
    assert spend(row(1)) is not None


def test_usage_of_unknown_cost_alerts_once_an_organisation_and_day() -> None:
    """The models without a price are named; instances and priced days raise nothing."""
    entries = [
        LedgerState("org=acme/day=2026-11-21", Totals(events=9, unpriced=2), None),
        LedgerState("org=acme/day=2026-11-20", Totals(events=9), None),
        LedgerState("instance=i/epoch=1", Totals(unpriced=2), Totals()),
    ]
    alerts = unpriced(entries, (), ["in-house"], 3, NOW_MS)
    assert [(alert.type, alert.subject) for alert in alerts] == [(UNPRICED_MODEL, "org=acme")]
    assert (alerts[0].data["events"], alerts[0].data["models_without_price"]) == (2, ["in-house"])
    assert unpriced(entries, {alerts[0].id}, [], 4, NOW_MS + 1) == []
