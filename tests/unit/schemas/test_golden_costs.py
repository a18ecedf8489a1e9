"""The table of priced answers: our integers are what the arithmetic by hand gives, to the nano-dollar."""

from __future__ import annotations

import ast
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import yaml

from schemas.ids import NO_ID
from schemas.money import Price, cost_nanos, is_priced, reserve_nanos
from schemas.price_parts import PriceOverride, price_of
from schemas.tokens import TokenUsage
from schemas.usage import Totals, UsageEvent

TABLE = yaml.safe_load((Path(__file__).parent / "golden_costs.yaml").read_text())
PRICES = {name: price_of(PriceOverride.model_validate(said), name) for name, said in TABLE["prices"].items()}
ROWS: list[dict[str, Any]] = TABLE["rows"]
EVENTS, KINDS = 1_000_000, 20_000


def _value(node: ast.expr) -> Fraction:
    """Return what an expression of numbers, + * and / comes to, exactly."""
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Div):
            return left / right
        return left * right if isinstance(node.op, ast.Mult) else left + right
    assert isinstance(node, ast.Constant)
    return Fraction(str(node.value))


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_an_answer_costs_what_it_costs_by_hand(row: dict[str, Any]) -> None:
    """The rater's cost, the number in the table and the arithmetic beside it agree."""
    price, usage, units = PRICES[row["price"]], TokenUsage(**row["usage"]), row.get("units", {})
    assert round(_value(ast.parse(str(row["why"]), mode="eval").body) * 1_000) == row["nanos"]
    assert cost_nanos(price, usage, units, row.get("tier", "")) == row["nanos"]
    assert is_priced(price, usage, units)
    if not units and not row.get("tier"):
        assert 0 <= reserve_nanos(price, usage) - row["nanos"] <= 1


def test_the_table_is_about_all_that_can_be_billed() -> None:
    """Every class of tokens, tiers, units and rounding; more than thirty answers."""
    assert len(ROWS) >= 30
    assert {name for row in ROWS for name in row["usage"]} == set(TokenUsage.__struct_fields__)
    assert {row.get("tier", "") for row in ROWS} >= {"", "flex", "batch", "priority"}
    assert len({unit for row in ROWS for unit in row.get("units", {})}) == 7
    assert len({row["name"] for row in ROWS}) == len(ROWS)


CLASSES = (
    "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output",
)  # fmt: skip
_EVENT = UsageEvent(
    NO_ID, NO_ID, 1, "settled", "chat.completions", 0, 0, 0, 200, False, "provider", TokenUsage(), 0, 1, 0, 0, "", "",
    NO_ID, msgspec.Raw(b"\x90"), msgspec.Raw(b"\x90"),
)  # fmt: skip


def _usage(drawn: int) -> TokenUsage:
    """Return a usage out of 64 random bits: mostly plain text, some with caches, thoughts and audio."""
    plain = drawn & 3 != 0
    if plain:
        return TokenUsage(input=drawn >> 2 & 0x3FFFF, output=drawn >> 20 & 0xFFF)
    return TokenUsage(
        drawn >> 2 & 0x3FFF, drawn >> 16 & 0xFFF, drawn >> 28 & 0x3FFFF, drawn >> 46 & 0x3FF, drawn >> 50 & 0xFF,
        drawn >> 54 & 0xFF, drawn >> 58 & 0x3F, drawn >> 60 & 0xF,
    )  # fmt: skip


def _decimals(price: Price) -> list[tuple[int, tuple[Decimal, ...]]]:
    """Return (least input, nano-USD a token by class) of the tiers of a price."""
    return [
        (tier.min_input_tokens, tuple(Decimal(getattr(tier, name)) / 10**6 for name in CLASSES)) for tier in price.tiers
    ]


def _exact(rates: list[tuple[int, tuple[Decimal, ...]]], price: Price, usage: TokenUsage) -> Decimal:
    """Return what an event costs by decimal arithmetic, rounded once, half to even."""
    tier = [found for least, found in rates if least <= usage.all_input][-1]
    nanos = sum(
        (getattr(usage, name) * rate for name, rate in zip(CLASSES, tier, strict=True)), start=Decimal(0)
    )  # fmt: skip
    return nanos.quantize(Decimal(1)) + price.request_nanos


@pytest.mark.slow
def test_a_million_events_sum_to_the_nano_dollar() -> None:
    """Of twenty thousand kinds: the sums by model, by hour and in all are the decimal ones to the last nano."""
    names = [name for name in PRICES if PRICES[name].tiers]
    rates = [_decimals(PRICES[name]) for name in names]
    random = Random(20_261_121)
    fields = {name: getattr(_EVENT, name) for name in UsageEvent.__struct_fields__}
    kinds, exact = [], []
    with localcontext() as context:
        context.prec, context.rounding = 40, ROUND_HALF_EVEN
        for number in range(KINDS):
            place, usage = number % len(names), _usage(random.getrandbits(64))
            price = PRICES[names[place]]
            cost = cost_nanos(price, usage)
            event = UsageEvent(**{**fields, "usage": usage, "cost_nanos": cost})
            kinds.append((place, price, usage, event))
            exact.append(_exact(rates[place], price, usage))
    by_model, by_hour, sums, happened = [Totals() for _ in names], [Totals() for _ in range(24)], 0, [0] * KINDS
    for number in range(EVENTS):
        kind = random.getrandbits(32) % KINDS
        happened[kind] += 1
        place, price, usage, event = kinds[kind]
        sums += cost_nanos(price, usage)
        by_model[place].add(event)
        by_hour[number % 24].add(event)
    for place, totals in enumerate(by_model):
        own = zip(happened[place :: len(names)], exact[place :: len(names)], strict=True)
        assert totals.cost_nanos == sum(count * int(nanos) for count, nanos in own), names[place]
    expected = sum(count * nanos for count, nanos in zip(happened, exact, strict=True))
    assert sum(totals.cost_nanos for totals in by_hour) == sums == expected > 10**12
    assert sum(totals.events for totals in by_hour) == sum(totals.events for totals in by_model) == EVENTS
    assert min(happened) > 0
