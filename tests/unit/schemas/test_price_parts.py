"""Prices as people write them: exact, complete, and strict where units are mistaken."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.money import cost_nanos, parse_rate, parse_usd
from schemas.policy import DEFAULT_RESERVE, Policy
from schemas.price_parts import PriceOverride, price_of
from schemas.tokens import TokenUsage
from schemas.unit_rates import UnitRate, parse_unit_rate, unit_rate_text

MILLION = TokenUsage(input=1_000_000)


def test_all_that_a_price_can_say() -> None:
    """Long contexts, service tiers with long contexts of their own, units by the minute and by the thousand."""
    price = price_of(
        PriceOverride.model_validate({
            "input": 2, "output": "8 USD per million tokens", "image_output": 40, "request": "0.001 USD",
            "long_context": [{"above": 500_000, "input": 5, "output": 20},
                             {"above": 200_000, "input": 4, "output": 12}],
            "units": {"web_search": "10 USD per 1000", "audio_ms": "0.006 USD per minute", "images": 0.04},
            "service_tiers": {
                "flex": {"input": 1, "output": 4, "long_context": [{"above": 9, "input": 3, "output": 3}]}
            },
        }),
        "contract",
    )  # fmt: skip
    assert [tier.min_input_tokens for tier in price.tiers] == [0, 200_001, 500_001]
    costs = [cost_nanos(price, TokenUsage(input=count)) for count in (200_000, 200_001, 500_001)]
    assert costs == [count * rate + 1_000_000 for count, rate in ((200_000, 2_000), (200_001, 4_000), (500_001, 5_000))]
    assert [cost_nanos(price, TokenUsage(input=count), None, "flex") for count in (9, 10)] == [1_009_000, 1_030_000]
    assert cost_nanos(price, TokenUsage(image_output=1, output=1)) == 40_000 + 8_000 + 1_000_000
    assert cost_nanos(price, TokenUsage(), {"web_search": 3, "audio_ms": 30_000, "images": 2}) == (
        30_000_000 + 3_000_000 + 80_000_000 + 1_000_000
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": 1}, "output: .*missing; add it"),
        ({}, "input: .*missing; add it"),
        ({"cache_read": 1, "units": {"images": 1}}, "missing; add it"),
        ({"input": 1, "output": 1, "service_tiers": {"flex": {"input": 1}}}, r"service_tiers\.flex\.output"),
        ({"input": 1, "output": 1, "long_context": [{"above": 5, "input": 1}]}, r"long_context\.0"),
        ({"input": 1, "output": 1, "long_context": [{"above": 5, "input": 1, "output": 1}] * 2}, "threshold once"),
        (
            {"input": "0.15 EUR", "output": 1},
            "is in EUR: amounts are in USD only; convert it, and write USD per million",
        ),
        ({"input": "15 cents", "output": 1}, "is in cents"),
        ({"input": "0.0000015 USD per token", "output": 1}, "is per token; write USD per million tokens"),
        ({"input": "0.0015 USD per 1k tokens", "output": 1}, "is per 1k tokens; write USD per million tokens"),
        ({"input": 1, "output": 1, "units": {"searches_web": 1}}, "use one of web_search"),
        ({"input": 1, "output": 1, "units": {"audio_ms": "0.36 USD"}}, "audio is billed by time"),
        ({"input": 1, "output": 1, "units": {"images": "0.36 USD per hour"}}, "per 'hour'"),
        ({"input": 1, "output": 1, "units": {"images": "€1"}}, "is in €"),
        ({"input": 1, "output": 1, "request": "1 GBP"}, "is in GBP"),
        ({"input": True, "output": 1}, "write a number"),
        ({"input": 1, "output": 1, "units": {"images": "0.0000000000000001 USD"}}, "more than fifteen decimals"),
    ],
)
def test_what_is_mistaken_is_refused_with_what_to_write(fields: dict[str, Any], message: str) -> None:
    """Half prices, other currencies, cents, prices a token or a thousand, unknown units, time of what has none."""
    with pytest.raises(ValidationError, match=message):
        PriceOverride.model_validate(fields)


def test_a_price_of_units_alone_has_none_for_tokens() -> None:
    """A transcription is billed by the minute; tokens of such a model are unknown, not free."""
    assert price_of(PriceOverride.model_validate({"units": {"audio_ms": "0.36 USD per hour"}}), "x").tiers == ()


@pytest.mark.parametrize(
    ("unit", "text", "rate"),
    [
        ("web_search", "10 USD per 1000", UnitRate(10 * 10**15, 1_000)),
        ("web_search", "$10 / thousand", UnitRate(10 * 10**15, 1_000)),
        ("images", 0.00001, UnitRate(10**10, 1)),
        ("characters", "15 USD per million", UnitRate(15 * 10**15, 1_000_000)),
        ("audio_ms", "0.111 USD per hour", UnitRate(111 * 10**12, 3_600_000)),
    ],
)
def test_unit_prices_are_exact_and_can_be_written_again(unit: str, text: object, rate: UnitRate) -> None:
    """What is read, written and read again is the same rate."""
    assert parse_unit_rate(unit, text) == rate
    assert parse_unit_rate(unit, unit_rate_text(unit, rate)) == rate


def test_the_same_price_has_the_same_version_and_another_one_another() -> None:
    """The version names all of it, units too."""
    said = [{"input": 1, "output": 2}, {"input": 1, "output": 2}, {"input": 1, "output": 2, "units": {"images": 1}}]
    versions = [price_of(PriceOverride.model_validate(one), "x").version for one in said]
    assert versions[0] == versions[1] != versions[2]


def test_rates_may_say_their_unit() -> None:
    """The one unit that there is, in the ways that people write it."""
    texts = ("0.15", "0.15 USD", "$0.15/1M", "0.15 USD per million tokens", "0.15/Mtok")
    assert {parse_rate(text) for text in texts} == {150_000_000}
    with pytest.raises(ValueError, match="amounts are in USD only; convert it, and write it like 2_000 USD"):
        parse_usd("12 cents")


def test_what_has_no_price_is_held_at_usual_prices() -> None:
    """The default reserve is that of a dear model of 2026, not of none: 15 and 75 USD per million tokens."""
    reserve = price_of(DEFAULT_RESERVE, "reserve")
    assert cost_nanos(reserve, MILLION) == 15 * 10**9
    assert cost_nanos(reserve, TokenUsage(output=1_000_000)) == 75 * 10**9
    assert price_of(Policy.model_fields["unpriced_reserve"].default, "reserve") == reserve
    with pytest.raises(ValidationError, match="no input and output"):
        Policy.model_validate({"orgs": {}, "providers": {}, "models": {}, "unpriced_reserve": {"units": {"images": 1}}})
