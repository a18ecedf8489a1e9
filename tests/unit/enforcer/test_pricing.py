"""Prices that a policy sets: exact, complete, and the same version for the same rates."""

from __future__ import annotations

from enforcer.core.pricing import describe, override_price, resolve
from schemas.policy import PriceOverride
from tests.unit.enforcer.enforcer_parts import DOCUMENT, PRICE, one_price, policy

FEMTOS = 1_000_000_000


def _override(**fields: object) -> PriceOverride:
    return PriceOverride.model_validate({"input": "1", "output": "4", **fields})


def test_a_class_left_out_costs_what_its_plainer_class_costs() -> None:
    """Cache and audio fall back to input, reasoning to output, the long cache write to the short one."""
    rates = override_price(_override(cache_write="1.25")).tiers[0]
    assert (rates.cache_read, rates.audio_input) == (FEMTOS, FEMTOS)
    assert (rates.reasoning, rates.audio_output) == (4 * FEMTOS, 4 * FEMTOS)
    assert rates.cache_write == rates.cache_write_1h == 1_250_000_000


def test_an_explicit_zero_stays_zero() -> None:
    """Free is a price; it does not fall back to anything."""
    assert override_price(_override(cache_read="0")).tiers[0].cache_read == 0


def test_the_same_rates_have_the_same_version_and_others_another() -> None:
    """The version names the rates, not the document they were in."""
    assert override_price(_override()).version == override_price(_override(cache_read="1")).version
    assert override_price(_override()).version != override_price(_override(request="0.01 USD")).version


def test_the_policys_own_price_comes_before_the_lists() -> None:
    """An override wins; a model without one is quoted."""
    text = DOCUMENT.replace("models:\n", "models:\n  own: {provider: openai, price: {input: 1, output: 2}}\n")
    prices = resolve(policy(text), one_price)
    assert prices.resolved["own"].source == "policy"
    assert prices.resolved["gpt-4o-mini"] == PRICE
    assert prices.unpriced == []


def test_prices_are_shown_without_loss() -> None:
    """Text of a price is the exact number of USD per million tokens."""
    shown = describe(override_price(_override(input="0.000000001", request="0.005 USD")))
    assert shown["tiers"][0]["input"] == "0.000000001"
    assert shown["tiers"][0]["output"] == "4"
    assert shown["request_usd"] == "0.005000000"
