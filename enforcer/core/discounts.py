"""What negotiated prices are made of: percentages off a list price, and absolute prices beside one.

A discounted rate is rounded to whole femto-USD (10⁻¹⁵ USD a token), half to even, once.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.money import Price, Rates, half_even
from schemas.prices import PPM, REQUEST, STANDARD, Discount

CLASSES = tuple(name for name in Rates.__struct_fields__ if name != "min_input_tokens")
AS_PLAINER = {"image_input": "input", "image_output": "output"}
"""Classes whose rate may be -1, and whose it is then."""


def discounted(listed: Price, discounts: Iterable[Discount], source: str, version: str) -> Price:
    """Return `listed` with percentages taken off; it stays beside as the list price."""
    rules = tuple(discounts)
    services = {*listed.variants, *(tier for rule in rules for tier in rule.service_tiers if tier != STANDARD)}
    variants = {tier: _tiers(listed.variants.get(tier, listed.tiers), rules, tier) for tier in sorted(services)}
    return msgspec.structs.replace(
        listed,
        source=source,
        version=version,
        tiers=_tiers(listed.tiers, rules, STANDARD),
        request_nanos=_off(listed.request_nanos, REQUEST, STANDARD, rules),
        units={name: _off(femtos, name, STANDARD, rules) for name, femtos in listed.units.items()},
        variants=variants,
        listed=_bare(listed),
    )


def negotiated(own: Price, listed: Price | None) -> Price:
    """Return an absolute price with the list price beside it. Units that it does not name cost what the list says."""
    if listed is None:
        return own
    units = {**listed.units, **own.units}
    return msgspec.structs.replace(
        own,
        units=units,
        per=_kept(listed.per, own.per, own.units),
        least=_kept(listed.least, own.least, own.units),
        listed=_bare(listed),
    )


def _kept(listed: dict[str, int], own: dict[str, int], named: Iterable[str]) -> dict[str, int]:
    return {**{unit: count for unit, count in listed.items() if unit not in set(named)}, **own}


def _bare(price: Price) -> Price:
    return msgspec.structs.replace(price, listed=None)


def _tiers(tiers: tuple[Rates, ...], rules: tuple[Discount, ...], service_tier: str) -> tuple[Rates, ...]:
    return tuple(_rates(rates, rules, service_tier) for rates in tiers)


def _rates(rates: Rates, rules: tuple[Discount, ...], service_tier: str) -> Rates:
    off = {}
    for name in CLASSES:
        rate = getattr(rates, name)
        if rate < 0:
            plainer = AS_PLAINER[name]
            if _rule(name, service_tier, rules) == _rule(plainer, service_tier, rules):
                continue
            rate = getattr(rates, plainer)
        off[name] = _off(rate, name, service_tier, rules)
    return msgspec.structs.replace(rates, **off)


def _off(amount: int, name: str, service_tier: str, rules: tuple[Discount, ...]) -> int:
    rule = _rule(name, service_tier, rules)
    return amount if rule is None else half_even(amount * (PPM - rule.off_ppm), PPM)


def _rule(name: str, service_tier: str, rules: tuple[Discount, ...]) -> Discount | None:
    for rule in rules:
        if (not rule.of or name in rule.of) and (not rule.service_tiers or service_tier in rule.service_tiers):
            return rule
    return None
