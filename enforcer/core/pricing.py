"""Which price each model of a policy has: the policy's own, else the price list's, else none.

A model without a price is named, never priced at nothing. The price list is a function that the caller brings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from schemas.money import FEMTOS_PER_USD_PER_MTOK, Price, Rates, to_decimal
from schemas.policy import Model, Policy, PriceOverride, Provider

Quote = Callable[[Provider, str, Model], Price | None]
"""(provider, name the provider knows, model) → price; None where the list has none that can be relied on."""

CLASSES = tuple(name for name in Rates.__struct_fields__ if name != "min_input_tokens")


class Prices(NamedTuple):
    """Resolved prices by name under `models`, and the models that have none."""

    resolved: dict[str, Price]
    unpriced: list[str]


def resolve(policy: Policy, quote: Quote) -> Prices:
    """Return the prices of all models of `policy`."""
    resolved: dict[str, Price] = {}
    for name, model in policy.models.items():
        if model.price is not None:
            resolved[name] = override_price(model.price)
        elif (price := quote(policy.providers[model.provider], model.upstream or name, model)) is not None:
            resolved[name] = price
    return Prices(resolved, [name for name in policy.models if name not in resolved])


def override_price(override: PriceOverride) -> Price:
    """Return the price that a policy sets; a class left out costs what its plainer class costs."""

    def rate(own: int | None, plainer: int) -> int:
        return plainer if own is None else own

    cache_write = rate(override.cache_write, override.input)
    rates = Rates(
        min_input_tokens=0,
        input=override.input,
        cache_read=rate(override.cache_read, override.input),
        cache_write=cache_write,
        cache_write_1h=rate(override.cache_write_1h, cache_write),
        output=override.output,
        reasoning=rate(override.reasoning, override.output),
        audio_input=rate(override.audio_input, override.input),
        audio_output=rate(override.audio_output, override.output),
    )
    digest = hashlib.sha256(msgspec.json.encode((rates, override.request))).hexdigest()[:12]
    return Price("policy", f"policy:{digest}", (rates,), override.request)


def describe(price: Price) -> dict[str, Any]:
    """Return a price for people: USD per million tokens as exact text."""
    return {
        "source": price.source,
        "version": price.version,
        "request_usd": format(to_decimal(price.request_nanos), "f"),
        "tiers": [
            {"min_input_tokens": tier.min_input_tokens, **{name: _usd_text(getattr(tier, name)) for name in CLASSES}}
            for tier in price.tiers
        ],
    }


def _usd_text(femtos: int) -> str:
    return format((Decimal(femtos) / FEMTOS_PER_USD_PER_MTOK).normalize(), "f")
