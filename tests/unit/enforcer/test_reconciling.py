"""An invoice and our books by day and model: causes that sum to the difference, and corrections that close it."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from enforcer.core.invoices import Invoice, Line
from enforcer.core.model_names import Matched
from enforcer.core.reconciling import Compared, Group, by_cause, compare, corrections
from meter.sink.core import day_costs

DAY = date(2026, 11, 20)
MONEY = "team-month/cost/org=acme,team=search/month@1793491200+2592000"
GPT = Matched(("gpt-4o",), ("gpt-4o-2024-08-06",))


def group(**fields: Any) -> Group:
    """Return what one key used: 1,000 tokens that cost 1,000,000 nanos."""
    values: dict[str, Any] = {
        "day": DAY.isoformat(), "model": "gpt-4o", "model_reported": "gpt-4o-2024-08-06", "org": "acme",
        "project": "chat", "team": "search", "user": "ada", "key_id": "key_1", "tags": {}, "events": 10,
        "tokens": 1_000, "cost_nanos": 1_000_000, "charge_nanos": 1_000_000, "invoiced_nanos": 0,
        "invoiced_charge_nanos": 0, "unpriced_events": 0, "unpriced_tokens": 0,
        "estimated_events": 0, "estimated_nanos": 0, "unknown_events": 0, "unknown_nanos": 0, "left_nanos": 0,
        "late_nanos": 0, "occurred_ms": 1_795_150_000_000, "operation": "chat.completions", "rows": [MONEY],
        "largest_nanos": 5,
    }  # fmt: skip
    return Group(**{**values, **fields})


def invoice(nanos: int, tokens: int | None = None, day: date = DAY, name: str = "gpt-4o-2024-08-06") -> Invoice:
    """Return an invoice of one line."""
    return Invoice("csv", [Line(day, name, Fraction(nanos, 10**9), tokens)], [], "ab" * 32)


def only(of: Invoice, *groups: Group, matched: Matched = GPT) -> Compared:
    """Return the one comparison that there is."""
    (found,) = compare(of, groups, [matched], DAY, date(2026, 11, 21))
    assert sum(found.causes.values()) == (found.difference_nanos if found.groups and found.invoiced else 0)
    return found


@pytest.mark.parametrize(
    ("fields", "nanos", "tokens", "causes"),
    [
        ({}, 1_000_000, None, {}),
        ({}, 1_200_000, None, {"unexplained": 200_000}),
        ({}, 900_000, 1_000, {"price": -100_000}),
        ({}, 1_500_000, 1_500, {"other usage": 500_000}),
        ({}, 3_000_000, 1_500, {"price": 1_500_000, "other usage": 500_000}),
        ({"unpriced_tokens": 200, "unpriced_events": 2}, 1_250_000, None, {"unpriced": 250_000}),
        ({"unpriced_tokens": 200}, 2_000_000, None, {"unpriced": 400_000, "unexplained": 600_000}),
        ({"late_nanos": 300_000}, 800_000, None, {"late": -200_000}),
        ({"late_nanos": 100_000}, 800_000, None, {"late": -100_000, "unexplained": -100_000}),
        ({"left_nanos": 50_000}, 950_000, None, {"day edge": -50_000}),
        ({"estimated_nanos": 80_000}, 1_050_000, None, {"estimated": 50_000}),
        ({"unknown_nanos": 80_000}, 900_000, None, {"estimated": -80_000, "unexplained": -20_000}),
        ({"invoiced_nanos": 200_000}, 1_200_000, None, {}),
    ],
)
def test_a_difference_is_explained_by_its_causes(
    fields: dict[str, int], nanos: int, tokens: int | None, causes: dict[str, int]
) -> None:
    """Each cause as far as it goes, in the direction of the difference; together they are the difference."""
    assert only(invoice(nanos, tokens), group(**fields)).causes == causes


def test_what_ended_after_midnight_explains_more_on_the_next_day() -> None:
    """The eve's usage that reached into the day counts for it, and is compared on its own day only."""
    eve = group(day="2026-11-19", left_nanos=70_000)
    assert only(invoice(1_100_000), group(), eve).causes == {"day edge": 70_000, "unexplained": 30_000}


def test_what_did_not_pass_and_what_is_not_billed_is_told_and_not_corrected() -> None:
    """A model that we do not know, and one that the invoice does not have."""
    alone = only(invoice(5_000, name="dall-e-3"), matched=Matched((), ("dall-e-3",)))
    assert (alone.label, alone.difference_nanos, alone.groups) == ("dall-e-3", 5_000, ())
    ours = only(invoice(0, name="other"), group(), matched=Matched(("gpt-4o",), ()))
    assert (ours.invoiced, ours.difference_nanos) == (None, -1_000_000)
    for each in (alone, ours):
        assert corrections(each, "openai", "ab" * 32) == []


def test_corrections_make_the_books_say_what_the_invoice_says() -> None:
    """In proportion to cost, to the nano-dollar; what had no cost bears its part at the average of the rest."""
    groups = [
        group(cost_nanos=600_000, tokens=600), group(cost_nanos=300_000, tokens=300, team="ml", key_id="key_2"),
        group(cost_nanos=0, charge_nanos=500_000, tokens=100, unpriced_tokens=100, team="ops", key_id="key_3"),
    ]  # fmt: skip
    compared = only(invoice(1_100_001), *groups)
    found = corrections(compared, "openai", "ab" * 32)
    assert sum(adjustment.cost_nanos for _, adjustment in found) == compared.difference_nanos == 200_001
    assert [adjustment.cost_nanos for _, adjustment in found] == [60_001, 30_000, 110_000]
    assert found[2][1].charge_nanos == 110_000 - 500_000, "the reserve is given back"
    target, adjustment = found[2]
    assert (target.attribution.team, target.attribution.key_id, target.rows) == ("ops", "key_3", [MONEY])
    assert (adjustment.occurred_ms, adjustment.operation) == (1_795_150_000_000, "reconcile")
    assert "sha256:abab" in adjustment.note


def settle(groups: list[Group], posted: list[tuple[Any, Any]]) -> list[Group]:
    """Return the groups as the history tells them once corrections are in."""
    by_key = {target.attribution.key_id: adjustment.cost_nanos for target, adjustment in posted}
    return [
        msgspec.structs.replace(each, invoiced_nanos=each.invoiced_nanos + by_key.get(each.key_id, 0))
        for each in groups
    ]


def test_the_same_invoice_again_posts_nothing_and_a_corrected_one_the_change() -> None:
    """What was posted is taken into account by group; a posting that broke off is completed by the same ids."""
    groups = [group(cost_nanos=700_000), group(cost_nanos=300_000, key_id="key_2"), group(cost_nanos=7, key_id="key_3")]
    first = corrections(only(invoice(1_333_333), *groups), "openai", "ab" * 32)
    half = settle(groups, first[:1])
    rest = corrections(only(invoice(1_333_333), *half), "openai", "ab" * 32)
    assert rest == first[1:]
    settled = settle(half, rest)
    assert corrections(only(invoice(1_333_333), *settled), "openai", "ab" * 32) == []
    changed = corrections(only(invoice(1_333_433), *settled), "openai", "cd" * 32)
    assert sum(adjustment.cost_nanos for _, adjustment in changed) == 100
    assert not {adjustment.id for _, adjustment in changed} & {adjustment.id for _, adjustment in first}


def test_what_is_late_is_left_as_it_is() -> None:
    """The invoice does not have it yet; the rest of the difference is corrected."""
    compared = only(invoice(800_000), group(late_nanos=150_000))
    (correction,) = corrections(compared, "openai", "ab" * 32)
    assert correction[1].cost_nanos == compared.difference_nanos + 150_000 == -50_000
    assert by_cause([compared]) == {"late": -150_000, "unexplained": -50_000}


def test_the_history_tells_what_is_read() -> None:
    """The columns of the history's days are the fields here, in their order, but for the organisation's names."""
    assert list(day_costs.COLUMNS) == list(Group.__struct_fields__)
