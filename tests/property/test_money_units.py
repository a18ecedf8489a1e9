"""Laws of what is billed beside tokens: exact against fractions, rounded once, never lost and never made up."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from enforcer.core.discounts import discounted
from schemas.money import Price, Rates, completed, cost_nanos, half_even, is_priced, unpriced_units
from schemas.prices import PPM, Discount
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.units import UNITS

counts = st.dictionaries(st.sampled_from(UNITS), st.integers(0, 10**9), max_size=4)
rates = st.integers(0, 10**16)
pers = st.sampled_from([1, 3, 1_000, 60_000, 1_000_000, 3_600_000])


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Return a price of some units, by one or by many, some with a least amount; with or without tokens."""
    units = draw(st.dictionaries(st.sampled_from(UNITS), rates, max_size=5))
    rate = draw(st.integers(0, 10**12))
    tiers = (Rates(0, *[rate] * 8),) if draw(st.booleans()) else ()
    return Price(
        "p", "1", tiers, draw(st.integers(0, 10**9)), units,
        per={unit: draw(pers) for unit in units if draw(st.booleans())},
        least={unit: draw(st.integers(1, 10_000)) for unit in units if draw(st.booleans())},
    )  # fmt: skip


def _exact(price: Price, usage: TokenUsage, units: dict[str, int]) -> Fraction:
    """Return the nano-USD of an answer without any rounding, and without the fee a request."""
    found = Fraction(sum((usage.input, usage.output)) * price.tiers[0].input if price.tiers else 0, 10**6)
    for unit, count in units.items():
        if count and unit in price.units:
            billed = max(count, price.least.get(unit, 0))
            found += Fraction(billed * price.units[unit], price.per.get(unit, 1) * 10**6)
    return found


@given(prices(), st.integers(0, 10**6), st.integers(0, 10**6), counts)
def test_units_and_tokens_are_added_exactly_and_rounded_once(
    price: Price, read: int, written: int, units: dict[str, int]
) -> None:
    """Half to even, whatever fractions the prices by thousands, minutes and hours leave."""
    usage = TokenUsage(input=read, output=written)
    assert cost_nanos(price, usage, units) == round(_exact(price, usage, units)) + price.request_nanos


@given(prices(), counts)
def test_no_unit_used_costs_nothing(price: Price, units: dict[str, int]) -> None:
    """A count of zero is nothing, with a least amount too."""
    nothing = dict.fromkeys(units, 0)
    assert cost_nanos(price, NO_TOKENS, nothing) == price.request_nanos
    assert unpriced_units(price, nothing) == ()
    assert is_priced(price, NO_TOKENS, nothing)


@given(prices(), prices(), counts, st.integers(0, 9))
def test_a_completed_price_knows_all_that_either_knows(
    price: Price, reserve: Price, units: dict[str, int], tokens: int
) -> None:
    """What the price knows costs what it says; the reserve is asked only for what it lacks."""
    usage, whole = TokenUsage(input=tokens), completed(price, reserve)
    known = is_priced(price, usage, units)
    assert set(unpriced_units(whole, units)) == set(unpriced_units(price, units)) & set(unpriced_units(reserve, units))
    if known:
        assert cost_nanos(whole, usage, units) == cost_nanos(price, usage, units)
    else:
        assert cost_nanos(whole, usage, units) >= cost_nanos(price, usage, units)


@given(st.integers(0, 10**20), st.integers(1, 10**9))
def test_rounding_is_that_of_fractions(numerator: int, denominator: int) -> None:
    """Half to even, as Python rounds a fraction."""
    assert half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(prices(), st.integers(0, PPM), counts, st.integers(0, 10**6))
def test_a_discount_on_everything_is_that_part_of_the_list_price(
    price: Price, off_ppm: int, units: dict[str, int], tokens: int
) -> None:
    """Within half a femto-USD a token or price of a unit, and a nano of rounding; the list price stays beside."""
    found = discounted(price, (Discount(off_ppm),), "contract", "c")
    usage = TokenUsage(input=tokens)
    whole, part = (_exact(each, usage, units) for each in (price, found))
    slack = Fraction(tokens, 2 * 10**6) + sum(
        (
            Fraction(max(count, price.least.get(unit, 0)), 2 * 10**6 * price.per.get(unit, 1))
            for unit, count in units.items()
        ),
        start=Fraction(0),
    )
    assert abs(whole * (PPM - off_ppm) / PPM - part) <= slack
    assert found.listed is not None
    assert cost_nanos(found.listed, usage, units) == cost_nanos(price, usage, units)
