"""Which price each model of a policy has: the policy's own, else the price list's, else none.

A model without a price is named, never priced at nothing. The price list is a function that the caller brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from schemas.money import FEMTOS_PER_USD_PER_MTOK, Price, Rates, to_decimal
from schemas.policy import Model, Policy, PriceOverride, Provider
from schemas.price_parts import price_of
from schemas.unit_rates import UnitRate, unit_rate_text

Quote = Callable[[Provider, str, Model], Price | None]
"""(provider, name the provider knows, model) → price; None where the list has none that can be relied on."""

CLASSES = tuple(name for name in Rates.__struct_fields__ if name != "min_input_tokens")


class Prices(NamedTuple):
    """Resolved prices by name under `models`, the models that have none, and what some organisations pay instead."""

    resolved: dict[str, Price]
    unpriced: list[str]
    orgs: Mapping[str, Mapping[str, Price]] = {}


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
    return price_of(override, "policy")


def describe(price: Price) -> dict[str, Any]:
    """Return a price for people: USD per million tokens as exact text, and units as they are written."""
    shown: dict[str, Any] = {
        "source": price.source,
        "version": price.version,
        "request_usd": format(to_decimal(price.request_nanos), "f"),
        "tiers": _tiers(price.tiers),
    }
    if price.units:
        shown["units"] = {
            unit: unit_rate_text(unit, UnitRate(femtos, price.per.get(unit, 1))) for unit, femtos in price.units.items()
        }
    if price.variants:
        shown["service_tiers"] = {tier: _tiers(rates) for tier, rates in price.variants.items()}
    if price.least:
        shown["least"] = price.least
    if price.listed is not None:
        shown["listed"] = describe(price.listed)
    return shown


def _tiers(tiers: tuple[Rates, ...]) -> list[dict[str, Any]]:
    return [
        {
            "min_input_tokens": tier.min_input_tokens,
            **{name: _usd_text(rate) for name in CLASSES if (rate := getattr(tier, name)) >= 0},
        }
        for tier in tiers
    ]


def _usd_text(femtos: int) -> str:
    return format((Decimal(femtos) / FEMTOS_PER_USD_PER_MTOK).normalize(), "f")
