"""Arrow tables: exact, by month, without what no row can hold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meter.sink.columns import Interned, Unstorable, lists_of_texts, money, months, texts
from meter.sink.core.records import PlacedDecision, PlacedEvent
from meter.sink.rows import DecisionRows, Source, UsageRows
from schemas.tokens import TokenUsage
from schemas.usage import UsageEvent
from tests.history_builders import MONTH_END_MS, NOW_MS, a_decision, an_event

SOURCE = Source("cluster", "usage", 2)
LARGEST = 10**18 - 1


def placed(*events: UsageEvent) -> list[PlacedEvent]:
    """Return events as one record has them."""
    return [PlacedEvent(event, "ingress-1", 1, 1, 0, number, NOW_MS) for number, event in enumerate(events)]


@pytest.mark.parametrize("nanos", [[], [0], [1, -1, None], [LARGEST, -LARGEST], [None, None], [10**9 + 1] * 9])
def test_money_is_exact(nanos: list[int | None]) -> None:
    """Integers of nano-USD become decimals of USD without a rounding, unknown ones null."""
    expected = [None if amount is None else Decimal(amount).scaleb(-9) for amount in nanos]
    assert money(nanos).to_pylist() == expected


@pytest.mark.parametrize("amount", [LARGEST + 1, -LARGEST - 1, 2**63 - 1, -(2**63)])
def test_money_that_does_not_fit_is_refused(amount: int) -> None:
    """A billion dollars in one event is no event of ours."""
    with pytest.raises(Unstorable, match="billion"):
        money([amount])


def test_months_are_those_of_utc() -> None:
    """The month of a moment is the UTC one, to the millisecond."""
    assert months([0, MONTH_END_MS - 1, MONTH_END_MS]).tolist() == [197001, 202611, 202612]
    for outside in (-1, 10_413_792_000_000):
        with pytest.raises(Unstorable):
            months([outside])


def test_columns_look_values_up() -> None:
    """A column of places has the values at these places, lists of texts included."""
    assert texts(["a", "b", "a"], [2, 1, 0]).to_pylist() == ["a", "b", "a"]
    assert lists_of_texts([["x", "y"], [], ["x"]], [1, 2, 0, 0]).to_pylist() == [[], ["x"], ["x", "y"], ["x", "y"]]


def test_rows_are_split_by_month() -> None:
    """A batch over the end of a month is two tables, because an insert into one is atomic."""
    events = [an_event(occurred_ms=moment) for moment in (MONTH_END_MS, MONTH_END_MS - 1, MONTH_END_MS + 5)]
    tables = UsageRows(SOURCE).tables(placed(*events))
    assert {month: table.column("id").to_pylist() for month, table in tables.by_month.items()} == {
        202612: [events[0].id, events[2].id], 202611: [events[1].id],
    }  # fmt: skip
    assert tables.rows == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"id": b"short"}, {"request_id": b""}, {"cost_nanos": 10**18}, {"charge_nanos": 2**63}, {"http_status": 70_000},
        {"attempt": -1}, {"occurred_ms": -5}, {"usage": TokenUsage(input=2**63)}, {"duration_ms": 2**64 - 1},
    ],
)  # fmt: skip
def test_what_no_row_can_hold_is_set_apart(fields: dict[str, Any]) -> None:
    """One such event does not keep the others out."""
    good = [an_event(), an_event()]
    tables = UsageRows(SOURCE).tables(placed(good[0], an_event(**fields), good[1]))
    assert tables.by_month[202611].column("id").to_pylist() == [good[0].id, good[1].id]
    assert [number for number, _ in tables.unstorable] == [1]
    assert tables.unstorable[0][1]


def test_attributions_that_are_none_belong_to_nobody() -> None:
    """The meter books such events to no organisation, and so does the history."""
    broken = msgspec.structs.replace(an_event(), attribution=msgspec.Raw(b"\x01"), rows=msgspec.Raw(b"\x01"))
    row = UsageRows(SOURCE).tables(placed(broken)).by_month[202611].to_pylist()[0]
    assert (row["org"], row["row_keys"], row["tags"]) == ("", [], [])


def test_remembering_has_a_bound_that_changes_nothing() -> None:
    """More attributions than are remembered come out right all the same."""
    interned: Interned[str] = Interned(lambda encoded: encoded.decode(), limit=2)
    assert interned.places([b"a", b"b", b"a"]) == (["a", "b"], [0, 1, 0])
    assert interned.places([b"c", b"a"]) == (["c", "a"], [0, 1])


def test_a_decision_that_no_row_can_hold_is_set_apart() -> None:
    """It does not keep the others out."""
    decisions = [a_decision(), a_decision(id=b"x"), a_decision(resets_at_s=2**40)]
    rows = [PlacedDecision(decision, 0, number, NOW_MS) for number, decision in enumerate(decisions)]
    tables = DecisionRows(SOURCE).tables(rows)
    assert [number for number, _ in tables.unstorable] == [1]
    assert tables.rows == 2
    assert DecisionRows(SOURCE).tables([]).rows == 0
