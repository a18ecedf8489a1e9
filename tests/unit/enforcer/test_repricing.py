"""What an event costs by another price, and the correction that makes it so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enforcer.core.adjustments import Adjustment
from enforcer.core.repricing import Outcome, PastCost, reprice
from meter.sink.core import cost_pages
from schemas.ids import parse_id
from schemas.money import Price
from schemas.tokens import TokenUsage
from tests.unit.enforcer.repricing_parts import past, price, rates


def corrected(event: PastCost, by: Price) -> Adjustment:
    """Return the correction that there must be."""
    found = reprice(event, by)
    assert found.outcome is Outcome.CORRECTED
    assert found.adjustment is not None
    return found.adjustment


def after(event: PastCost, adjustment: Adjustment) -> PastCost:
    """Return the event as the history tells it once a correction is in."""
    discount = 0 if adjustment.list_cost_nanos is None else adjustment.list_cost_nanos - adjustment.cost_nanos
    return msgspec.structs.replace(
        event, corrections=event.corrections + 1,
        corrected_cost_nanos=event.corrected_cost_nanos + adjustment.cost_nanos,
        corrected_charge_nanos=event.corrected_charge_nanos + adjustment.charge_nanos,
        corrected_discount_nanos=event.corrected_discount_nanos + discount,
    )  # fmt: skip


def test_the_difference_is_posted_once_and_the_cost_is_that_of_the_new_price() -> None:
    """Twice as dear: the correction is as much as the cost was; once it is in, there is nothing left to do."""
    event = past()
    adjustment = corrected(event, price())
    assert (adjustment.cost_nanos, adjustment.charge_nanos) == (2_000_000, 2_000_000)
    assert (adjustment.corrects, adjustment.occurred_ms, adjustment.note) == (
        parse_id(event.id), event.occurred_ms, "price 2"
    )  # fmt: skip
    assert not adjustment.first_price
    again = reprice(after(event, adjustment), price())
    assert (again.outcome, again.cost_nanos) == (Outcome.SAME, 4_000_000)


def test_back_and_forth_gives_other_ids_and_the_first_cost() -> None:
    """The same correction is the same id; a later one to the same price is another."""
    event, cheap = past(), price("1", rates(input=1, output=2))
    up = corrected(event, price())
    assert corrected(event, price()).id == up.id
    down = corrected(after(event, up), cheap)
    assert down.cost_nanos == -up.cost_nanos
    up_again = corrected(after(after(event, up), down), price())
    assert len({up.id, down.id, up_again.id}) == 3


def test_what_had_no_cost_gets_one_and_its_limits_get_the_reserve_back() -> None:
    """Cost unknown, a reserve of 9,000,000 charged: the limits are charged the cost in the end."""
    event = past(cost_nanos=None, charge_nanos=9_000_000)
    adjustment = corrected(event, price())
    assert adjustment.first_price
    assert (adjustment.cost_nanos, adjustment.charge_nanos) == (4_000_000, -5_000_000)
    priced = after(event, adjustment)
    assert reprice(priced, price()).outcome is Outcome.SAME
    dearer = corrected(priced, price("3", rates(input=3, output=6)))
    assert not dearer.first_price
    assert (dearer.cost_nanos, dearer.charge_nanos) == (2_000_000, 2_000_000)


def test_what_turns_out_to_be_free_is_priced_at_nothing_and_not_unknown() -> None:
    """A price of 0 is a price: a correction of 0 says so, once."""
    event, free = past(cost_nanos=None, charge_nanos=50), price("free", rates())
    adjustment = corrected(event, free)
    assert (adjustment.cost_nanos, adjustment.charge_nanos, adjustment.first_price) == (0, -50, True)
    assert reprice(after(event, adjustment), free).outcome is Outcome.SAME


@pytest.mark.parametrize(
    ("event", "by"),
    [
        (past(), None),
        (past(units={"web_search": 1}), price()),
        (past(), Price("test", "u", (), units={"x": 1})),
    ],
)
def test_what_has_no_price_keeps_the_cost_that_it_has(event: PastCost, by: Price | None) -> None:
    """No price, a unit that it does not know, tokens that it does not know: nothing is taken away."""
    found = reprice(event, by)
    assert (found.outcome, found.cost_nanos, found.adjustment) == (Outcome.UNPRICED, 2_000_000, None)


def test_raw_usage_is_priced_as_the_ingress_prices_it() -> None:
    """Classes, units, tiers by all input tokens, and the service tier that served it."""
    by = price(
        "t", rates(input=1, cache_read=1, output=10), rates(200, input=2, cache_read=1, output=20),
        units={"web_search": 10**13}, variants={"flex": (rates(input=1, output=1),)}, request_nanos=7,
    )  # fmt: skip
    usage = TokenUsage(input=100, output=10, cache_read=150)
    dear = reprice(past(usage=usage, units={"web_search": 3}), by)
    assert dear.cost_nanos == 100 * 2_000 + 150 * 1_000 + 10 * 20_000 + 3 * 10**7 + 7
    flex = reprice(past(usage=TokenUsage(100, 10), service_tier="flex"), by)
    assert flex.cost_nanos == 110 * 1_000 + 7


def test_folded_events_are_repriced_where_their_sum_is_enough() -> None:
    """A flat price is a matter of sums; one with tiers or a least amount is not."""
    folded = past(kind="folded", stands_for=3, price_version="1")
    adjustment = corrected(folded, price("2", request_nanos=5))
    assert (adjustment.stands_for, adjustment.cost_nanos) == (3, 2_000_000 + 15)
    tiers = price("2", rates(input=2, output=4), rates(100, input=3, output=4))
    assert reprice(folded, tiers).outcome is Outcome.FOLDED
    least = price("2", units={"audio_ms": 1}, least={"audio_ms": 10})
    assert reprice(past(kind="folded", units={"audio_ms": 5}), least).outcome is Outcome.FOLDED


def test_what_the_list_price_would_have_been_follows_the_price() -> None:
    """A contract that is entered late: the discount appears with the correction, and goes with it."""
    event = past(cost_nanos=4_000_000, charge_nanos=4_000_000)
    contract = price("contract", rates(input=1, output=2), listed=price())
    adjustment = corrected(event, contract)
    assert (adjustment.cost_nanos, adjustment.list_cost_nanos) == (-2_000_000, 0)
    again = after(event, adjustment)
    assert reprice(again, contract).outcome is Outcome.SAME
    back = corrected(again, price())
    assert (back.cost_nanos, back.list_cost_nanos) == (2_000_000, 0)
    assert after(again, back).corrected_discount_nanos == 0


def test_a_correction_belongs_to_whom_the_event_belongs() -> None:
    """Every attribute, tags and rows as they were; only the price is another."""
    event = past()
    target = event.target("2")
    assert target.rows == event.rows
    values: dict[str, Any] = msgspec.structs.asdict(target.attribution)
    assert values.pop("key_id") == event.key
    assert values.pop("price_version") == "2"
    assert values == {name: getattr(event, name) for name in values}


def test_the_history_tells_what_is_read() -> None:
    """The columns of the history's pages are the fields here, in their order."""
    assert list(cost_pages.COLUMNS) == list(PastCost.__struct_fields__)
