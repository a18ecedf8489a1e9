"""Money: exact integers in, exact integers out, rounded once."""

from __future__ import annotations

from decimal import Decimal

import pytest

from schemas.money import (
    Price,
    Rates,
    cost_nanos,
    format_usd,
    parse_rate,
    parse_usd,
    rates_for,
    reserve_nanos,
    to_decimal,
)
from schemas.tokens import TokenUsage

FLAT = Price("list", "1", (Rates(0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000),))


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("2_000 USD", 2_000 * 10**9),
        ("USD 3", 3 * 10**9),
        ("12.50", 12_500_000_000),
        ("1,250.000000001 usd", 1_250_000_000_001),
        (7, 7 * 10**9),
        ("0", 0),
    ],
)
def test_amounts_are_read_exactly(text: str | int, nanos: int) -> None:
    """With or without the currency, with underscores, commas and up to nine decimals."""
    assert parse_usd(text) == nanos


@pytest.mark.parametrize("text", ["", "EUR 3", "-1", "1e3", "3 USD 4", "0.0000000001", "$5", ".5", "_1"])
def test_what_is_no_amount_is_refused_with_a_remedy(text: str) -> None:
    """Another currency, a sign, a tenth decimal: named, with how to write it."""
    with pytest.raises(ValueError, match=r"write it like|smallest amount"):
        parse_usd(text)


@pytest.mark.parametrize(
    ("text", "femtos"),
    [("0.15", 150_000_000), (15, 15_000_000_000), (Decimal("0.000000001"), 1), ("0", 0)],
)
def test_rates_are_read_exactly(text: str | int | Decimal, femtos: int) -> None:
    """USD per million tokens, down to its ninth decimal."""
    assert parse_rate(text) == femtos


@pytest.mark.parametrize("text", ["cheap", "-1", "0.0000000001", "NaN", "Infinity"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    """Not a number, negative, or finer than a rate can hold."""
    with pytest.raises(ValueError, match="is not a price"):
        parse_rate(text)


def test_every_class_is_charged_at_its_own_rate() -> None:
    """One token of each class costs the sum of all rates."""
    usage = TokenUsage(10**6, 10**6, 10**6, 10**6, 10**6, 10**6, 10**6, 10**6)
    assert cost_nanos(FLAT, usage) == sum((1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000))


@pytest.mark.parametrize(
    ("tokens", "expected"), [(499_999, 0), (500_000, 0), (500_001, 1), (1_500_000, 2), (2_500_000, 2)]
)
def test_costs_are_rounded_half_to_even(tokens: int, expected: int) -> None:
    """Half a nano goes to the even neighbour, so that errors do not add up."""
    assert cost_nanos(FLAT, TokenUsage(input=tokens)) == expected


def test_reservations_are_rounded_up() -> None:
    """A part of a nano is held as a whole one; nothing is held for nothing."""
    assert reserve_nanos(FLAT, TokenUsage(input=1)) == 1
    assert reserve_nanos(FLAT, TokenUsage()) == 0


def test_a_tier_prices_all_tokens_of_a_request_that_reaches_it() -> None:
    """The cliff: one token more may cost more than twice as much, and cached input counts towards it."""
    low, high = FLAT.tiers[0], Rates(1_000, 2, 20, 200, 2_000, 20_000, 200_000, 2_000_000, 20_000_000)
    price = Price("list", "1", (low, high))
    assert rates_for(price.tiers, 999) is low
    assert rates_for(price.tiers, 1_000) is high
    usage = TokenUsage(input=1, cache_read=999, output=1_000_000)
    assert cost_nanos(price, usage) == 20_000


def test_a_price_a_request_is_added_once() -> None:
    """Even where no token was used."""
    assert cost_nanos(Price("p", "1", FLAT.tiers, 7), TokenUsage()) == 7


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00 USD"), (12_500_000_000, "12.50 USD"), (1, "0.000000001 USD"), (-1_500_000_000, "-1.50 USD"),
     (1_234_567_000_000_000, "1,234,567.00 USD")],
)  # fmt: skip
def test_amounts_are_shown_with_cents_and_without_trailing_zeros(nanos: int, text: str) -> None:
    """For people; machines get the integer."""
    assert format_usd(nanos) == text


def test_decimals_have_nine_places() -> None:
    """The exact amount as ClickHouse holds it."""
    assert str(to_decimal(1_500_000_001)) == "1.500000001"
    assert to_decimal(0) == 0
    assert format(to_decimal(0), "f") == "0.000000000"
