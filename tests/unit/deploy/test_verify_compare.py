from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from deploy.cli.compare import FIELDS, Comparison, add_up, compare, hours, total

TODAY = date(2026, 11, 21)
ORG = "org=acme/day=2026-11-21"
INSTANCE = "instance=ingress-1/epoch=7"


def sums(**values: int) -> dict[str, int]:
    """Return whole sums with `values` set."""
    return {**dict.fromkeys(FIELDS, 0), **values}


ONE = sums(events=2, requests=2, input_tokens=30, output_tokens=12, cost_nanos=11_700, charge_nanos=11_700)


def all_four() -> list[Comparison]:
    """Compare an organisation and an instance on which every ledger agrees."""
    return compare(
        {ORG: ONE, INSTANCE: ONE}, {INSTANCE: ONE}, {ORG: ONE, INSTANCE: ONE}, {"rollups": {ORG: ONE}}, TODAY
    )


def test_equal_ledgers_agree() -> None:
    """Each key is compared in every ledger that covers it, and equal sums agree."""
    found = {item.key: item for item in all_four()}
    assert list(found[ORG].sums) == ["meter", "clickhouse", "rollups"]
    assert list(found[INSTANCE].sums) == ["told", "meter", "clickhouse"]
    assert all(item.agrees and item.first_difference() == "" for item in found.values())


@pytest.mark.parametrize("ledger", ["meter", "clickhouse", "rollups"])
@pytest.mark.parametrize("field", FIELDS)
def test_one_unit_in_any_ledger_is_a_difference(ledger: str, field: str) -> None:
    """A single nano-dollar, token or event too many anywhere is found and named."""
    books = {name: {ORG: dict(ONE)} for name in ("meter", "clickhouse", "rollups")}
    books[ledger][ORG][field] += 1
    (found,) = compare(books["meter"], {}, books["clickhouse"], {"rollups": books["rollups"]}, TODAY)
    assert found.differing == (field,)
    assert found.first_difference().startswith(f"{ORG}: {field}: ")
    assert f"{ledger} {ONE[field] + 1}" in found.first_difference()


def test_what_clients_were_told_must_have_arrived() -> None:
    """An event that a client was told of and that neither meter nor ClickHouse has is a difference."""
    (found,) = compare({INSTANCE: ONE}, {INSTANCE: sums(**{**ONE, "events": 3})}, {INSTANCE: ONE}, {}, TODAY)
    assert found.first_difference() == f"{INSTANCE}: events: told 3, meter 2, clickhouse 2"


def test_a_key_that_is_missing_somewhere_counts_as_zeros() -> None:
    """A whole organisation missing in one ledger does not go unseen, whichever it is."""
    for missing in range(3):
        books = [{} if number == missing else {ORG: ONE} for number in range(3)]
        (found,) = compare(books[0], {}, books[1], {"rollups": books[2]}, TODAY)
        assert "events" in found.differing


def test_days_that_the_meter_has_forgotten_are_compared_without_it() -> None:
    """History is kept for longer than the meter's ledger; an old day still has to agree within ClickHouse."""
    old = "org=acme/day=2026-09-01"
    (found,) = compare({}, {}, {old: ONE}, {"rollups": {old: ONE}}, TODAY)
    assert list(found.sums) == ["clickhouse", "rollups"]
    assert found.agrees
    correction = sums(events=1, cost_nanos=-5)
    assert compare({old: correction}, {}, {old: ONE}, {"rollups": {old: ONE}}, TODAY) == [found], "begun anew for it"


def test_days_that_clickhouse_has_forgotten_are_left_out() -> None:
    """After its events have expired, a day is only in the rollups and has nothing to be compared with."""
    old = "org=acme/day=2025-09-01"
    assert compare({}, {}, {}, {"rollups": {old: ONE}}, TODAY) == []


def test_instances_that_ended_long_ago_are_left_out() -> None:
    """An instance that only the history still knows has nothing to be compared with."""
    assert compare({}, {}, {INSTANCE: ONE}, {}, TODAY) == []


def test_rows_of_several_partitions_add_up() -> None:
    """An instance has a row in each partition; what it told is the sum of them."""
    rows: list[dict[str, Any]] = [
        {"key": INSTANCE, "totals": sums(events=1), "told": sums(events=2)},
        {"key": INSTANCE, "totals": sums(events=3), "told": sums(events=4)},
        {"key": ORG, "totals": sums(events=5), "told": None},
    ]
    assert add_up(rows, "totals") == {INSTANCE: sums(events=4), ORG: sums(events=5)}
    assert add_up(rows, "told") == {INSTANCE: sums(events=6)}


def test_totals_are_over_the_keys_asked_for() -> None:
    """The totals of organisations do not count instances again."""
    assert total(all_four(), "org=") == {"meter": ONE, "clickhouse": ONE, "rollups": ONE}


def test_hours_are_compared_from_where_both_have_them() -> None:
    """Of a run in several partitions from the last of them on; a run that the meter has nothing of, in all."""
    noon, one = f"{INSTANCE}/hour=2026-11-21T12Z", f"{INSTANCE}/hour=2026-11-21T13Z"
    other = "instance=ingress-2/epoch=1/hour=2026-11-21T12Z"
    rows = [{"key": INSTANCE, "hours_from": text} for text in ("2026-11-19T13Z", "2026-11-21T13Z")]
    found = hours(rows, {noon: ONE, one: ONE}, {one: ONE, other: ONE}, "2026-11-20T00Z")
    assert [(item.key, item.agrees) for item in found] == [(one, True), (other, False)]
    assert hours([{"key": INSTANCE, "hours_from": None}], {noon: ONE}, {}, "2026-11-20T00Z") == []
    assert hours(rows[:1], {noon: ONE}, {}, "2026-11-21T13Z") == []
