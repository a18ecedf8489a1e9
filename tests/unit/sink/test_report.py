"""Questions about spend, and the sums of their answers."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from meter.sink.core import ledger
from meter.sink.core.report import Fault, SpendQuery, answer, parse


@pytest.mark.parametrize(
    ("by", "since", "until", "table"),
    [
        ("org", None, None, "usage_hourly"), ("team,model,hour", "2026-11-01T03:00:00Z", None, "usage_hourly"),
        ("user", None, None, "usage_daily_actor"), ("key,day", "2026-11-01", "2026-12-01", "usage_daily_actor"),
        ("user", "2026-11-01T03:00:00Z", None, "usage_events"), ("user,status", None, None, "usage_events"),
        ("org", "2026-11-01T03:00:01Z", None, "usage_events"), ("user,hour", None, None, "usage_events"),
    ],
)  # fmt: skip
def test_the_smallest_table_that_can_answers(by: str, since: str | None, until: str | None, table: str) -> None:
    """Rollups answer what they have the columns and the bounds for; the ledger answers the rest."""
    query = parse(by, since, until)
    assert isinstance(query, SpendQuery)
    assert query.table == table
    assert f"FROM {table} AS t{' FINAL' if table == 'usage_events' else ''}" in query.sql()


def test_moments_are_utc_unless_they_say_otherwise() -> None:
    """A date is its midnight; a zone is taken into account."""
    query = parse("org", "2026-11-01", "2026-11-02T01:00:00+02:00")
    assert isinstance(query, SpendQuery)
    assert query.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert query.until == datetime(2026, 11, 1, 23, tzinfo=UTC)
    assert query.parameters() == {"since": "2026-11-01 00:00:00.000", "until": "2026-11-01 23:00:00.000"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Each fault names the parameter, the value and a remedy."""
    faults = parse("org,colour,size", "soon", "1066-10-14")
    assert isinstance(faults, list)
    assert [fault.field for fault in faults] == ["by", "by", "since", "until"]
    assert "'colour' is not a column to group by; use some of org" in faults[0].message
    assert "'soon'" in faults[2].message
    assert parse(" , ", None, None) == [
        Fault("by", "' , ' names nothing to group by; name some of org, project, team, user, key, provider, model, "
              "operation, status, day, hour, with commas")
    ]  # fmt: skip
    backwards = parse("org", "2026-11-02", "2026-11-02")
    assert isinstance(backwards, list)
    assert backwards[0].field == "until"


def test_totals_are_the_sums_of_the_rows() -> None:
    """Amounts stay exact; a group without any price has none; dates and times are text."""
    query = SpendQuery(("day", "team"), None, None)
    found = answer(query, [
        (date(2026, 11, 1), "a", 2, 2, 0, 10, 1, 0, Decimal("0.000000001"), Decimal("1"), 2, Decimal("0")),
        (date(2026, 11, 1), "b", 3, 3, 3, 20, 2, 0, Decimal("0"), Decimal("2.5"), 0, Decimal("0")),
        (date(2026, 11, 2), "c", 1, 0, 0, 0, 0, 0, Decimal("-1"), Decimal("0"), 1, Decimal("-1")),
    ])  # fmt: skip
    assert found.columns[:2] == ["day", "team"]
    assert found.rows == [
        ["2026-11-01", "a", 2, 2, 0, 10, 1, 0, "0.000000001", "1.000000000", "0.000000000"],
        ["2026-11-01", "b", 3, 3, 3, 20, 2, 0, None, "2.500000000", "0.000000000"],
        ["2026-11-02", "c", 1, 0, 0, 0, 0, 0, "-1.000000000", "0.000000000", "-1.000000000"],
    ]
    assert found.totals == {
        "events": 6, "requests": 5, "unpriced_requests": 3, "input_tokens": 30, "output_tokens": 3,
        "cache_read_tokens": 0, "cost_usd": "-0.999999999", "charge_usd": "3.500000000",
        "adjusted_usd": "-1.000000000",
    }  # fmt: skip


def test_hours_are_shown_in_utc() -> None:
    """An hour is an ISO time with its zone."""
    row = (datetime(2026, 11, 1, 5, tzinfo=UTC), 1, 1, 0, 1, 1, 0, Decimal(1), Decimal(1), 1, Decimal(0))
    assert answer(SpendQuery(("hour",), None, None), [row]).rows[0][0] == "2026-11-01T05:00:00Z"


def test_ledgers_are_integers_under_the_meters_keys() -> None:
    """Amounts are nano-USD; keys are sorted."""
    sums = (2, 2, 10, 5, Decimal("1.000000001"), 0, Decimal("2"))
    accounts = ledger.by_day([("b", date(2026, 11, 1), *sums), ("a", date(2026, 11, 1), *sums)])
    assert [account["key"] for account in accounts] == ["org=a/day=2026-11-01", "org=b/day=2026-11-01"]
    assert accounts[0]["totals"]["cost_nanos"] == 1_000_000_001
    assert accounts[0]["totals"]["charge_nanos"] == 2 * 10**9
    assert ledger.by_run([("ingress-1", 3, *sums)])[0]["key"] == "instance=ingress-1/epoch=3"
