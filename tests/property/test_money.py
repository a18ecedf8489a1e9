"""Laws of money: exact against decimal arithmetic, never less held than charged, additive to half a nano an event."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

from hypothesis import given
from hypothesis import strategies as st

from schemas.money import Price, Rates, cost_nanos, format_usd, parse_rate, parse_usd, reserve_nanos, to_decimal
from schemas.tokens import TokenUsage

CLASSES = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output")
rates = st.integers(0, 10**12)
prices = st.builds(
    lambda tiers, request: Price("p", "1", tuple(Rates(start, *values) for start, values in tiers), request),
    st.lists(st.integers(1, 10**6), max_size=2, unique=True).flatmap(
        lambda starts: st.tuples(
            *(st.tuples(st.just(start), st.lists(rates, min_size=8, max_size=8)) for start in [0, *sorted(starts)])
        )
    ),
    st.integers(0, 10**9),
)
usages = st.builds(TokenUsage, *([st.integers(0, 10**7)] * 8))


def _exact(price: Price, usage: TokenUsage) -> Decimal:
    """Return the cost in nano-USD, without any rounding, computed the slow way."""
    tier = [tier for tier in price.tiers if tier.min_input_tokens <= usage.all_input][-1]
    femtos = sum(getattr(usage, name) * getattr(tier, name) for name in CLASSES)
    return Decimal(femtos) / 10**6


@given(prices, usages)
def test_a_cost_is_the_exact_sum_rounded_once(price: Price, usage: TokenUsage) -> None:
    """Against decimal arithmetic over every class and tier."""
    exact = _exact(price, usage)
    assert cost_nanos(price, usage) == exact.to_integral_value(ROUND_HALF_EVEN) + price.request_nanos
    assert reserve_nanos(price, usage) == exact.to_integral_value(ROUND_CEILING) + price.request_nanos


@given(prices, usages)
def test_what_is_held_is_never_less_than_what_is_charged(price: Price, usage: TokenUsage) -> None:
    """And by less than one nano more."""
    assert 0 <= reserve_nanos(price, usage) - cost_nanos(price, usage) <= 1


@given(st.integers(0, 10**18))
def test_amounts_survive_being_written_and_read(nanos: int) -> None:
    """Text for people and decimals for tables lose nothing."""
    assert parse_usd(format_usd(nanos)) == nanos
    assert parse_usd(str(format(to_decimal(nanos), "f"))) == nanos


@given(st.decimals(0, 10**6, allow_nan=False, places=9))
def test_rates_are_exact(usd: Decimal) -> None:
    """A rate of up to nine decimals is held to the last one."""
    assert Decimal(parse_rate(usd)) / 10**9 == usd
