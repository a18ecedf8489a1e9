"""Money: integer nano-USD amounts, per-token rates, and the rater that joins them.

Amounts are integers of 10⁻⁹ USD. Rates are integers of 10⁻¹⁵ USD a token (femto-USD), so that every price list
with up to nine decimals of USD per million tokens is exact. An event is rounded once, half to even; reservations
round up. There is no float here.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

import msgspec

from schemas.tokens import TokenUsage

NANOS_PER_USD = 1_000_000_000
FEMTOS_PER_NANO = 1_000_000
FEMTOS_PER_USD = 10**15
FEMTOS_PER_USD_PER_MTOK = 1_000_000_000
"""1 USD per million tokens is 10⁻⁶ USD a token, which is 10⁹ femto-USD."""

_MILLION = frozenset({"million", "1m", "mtok", "million tokens", "1m tokens", "1_000_000 tokens"})
_RATE = re.compile(
    r"^\s*(?:USD\s*|\$)?(?P<number>\d+(?:\.\d+)?)\s*(?:USD)?\s*(?:(?:per|/)\s*(?P<per>[\w ]*\w))?\s*$", re.IGNORECASE
)
_FOREIGN = re.compile(r"[€£¥₹¢₩]|\b(?!USD\b)[A-Z]{3}\b|\b(?:euros?|pounds?|yen|yuan|cents?|ct)\b|(?<=\d)c\b")
_AMOUNT = re.compile(r"^\s*(?:USD\s*)?(?P<number>\d[\d_,]*(?:\.\d+)?)\s*(?:USD)?\s*$", re.IGNORECASE)


class Rates(msgspec.Struct, frozen=True, array_like=True):
    """What one token of each class costs, in femto-USD, from `min_input_tokens` input tokens a request upwards."""

    min_input_tokens: int
    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int
    audio_input: int
    audio_output: int
    image_input: int = -1
    """-1: as `input`."""
    image_output: int = -1
    """-1: as `output`."""


class Price(msgspec.Struct, frozen=True, array_like=True):
    """A resolved price of one model: tiers by ascending `min_input_tokens`, the first from 0, and where it is from.

    The tier reached by all input tokens of a request prices all of its tokens (a cliff, as providers bill it).
    No tiers at all: tokens have no known price, only units have.
    """

    source: str
    version: str
    tiers: tuple[Rates, ...]
    request_nanos: int = 0
    units: dict[str, int] = {}
    """What `per` of a unit of `schemas.units` cost, in femto-USD. A unit that is not here has no known price."""
    variants: dict[str, tuple[Rates, ...]] = {}
    """Tiers by the service tier that served an answer; a service tier that is not here costs as the standard one."""
    listed: Price | None = None
    """The list price, where this one was negotiated."""
    per: dict[str, int] = {}
    """How many of a unit its price is for, where that is not one: 3,600,000 for audio by the hour, and no fraction of
    a femto-USD is lost on the way."""
    least: dict[str, int] = {}
    """How many of a unit a request is billed for if it used any: 10,000 for ten seconds of audio."""


def rates_for(tiers: tuple[Rates, ...], input_tokens: int) -> Rates:
    """Return the one of `tiers` that a request with `input_tokens` input tokens of all classes falls into."""
    found = tiers[0]
    for tier in tiers[1:]:
        if input_tokens < tier.min_input_tokens:
            break
        found = tier
    return found


def cost_nanos(price: Price, usage: TokenUsage, units: dict[str, int] | None = None, service_tier: str = "") -> int:
    """Return what an answer costs under `price` in nano-USD, rounded once, half to even.

    Args:
        price: of the served model.
        usage: tokens.
        units: what is billed beside tokens; one without a price (see `unpriced_units`) adds nothing here.
        service_tier: that served it.
    """
    femtos = _femtos(price, usage, service_tier)
    if units:
        return _with_units(price, femtos, units) + price.request_nanos
    return half_even(femtos, FEMTOS_PER_NANO) + price.request_nanos


def is_priced(price: Price, usage: TokenUsage, units: dict[str, int] | None = None) -> bool:
    """Tell whether `price` knows all that was used: if not, what an answer costs is unknown."""
    return (bool(price.tiers) or not usage.total) and not (units and unpriced_units(price, units))


def unpriced_units(price: Price, units: dict[str, int]) -> tuple[str, ...]:
    """Return the units that were used and that `price` does not know: their cost is unknown, and so is the sum."""
    return tuple(sorted(name for name, count in units.items() if count and name not in price.units))


def completed(price: Price, reserve: Price) -> Price:
    """Return `price` with what it does not know taken from `reserve`: tokens if it has no rates at all, and units."""
    lacks = {unit: femtos for unit, femtos in reserve.units.items() if unit not in price.units}
    if not lacks and price.tiers:
        return price
    per = {unit: count for unit, count in reserve.per.items() if unit in lacks}
    return msgspec.structs.replace(
        price, tiers=price.tiers or reserve.tiers, units={**price.units, **lacks}, per={**price.per, **per}
    )


def reserve_nanos(price: Price, usage: TokenUsage) -> int:
    """Return what to hold for an expected `usage` in nano-USD, rounded up."""
    return -(-_femtos(price, usage) // FEMTOS_PER_NANO) + price.request_nanos


def half_even(numerator: int, denominator: int) -> int:
    """Return a fraction above a positive `denominator` rounded to a whole number, half to even."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole & 1))


def _with_units(price: Price, femtos: int, units: dict[str, int]) -> int:
    """Return the nano-USD of `femtos` and units together, rounded once: fractions are added as fractions."""
    below = 1
    for name, count in units.items():
        rate = price.units.get(name)
        if rate and count > 0:
            per = price.per.get(name, 1)
            femtos = femtos * per + max(count, price.least.get(name, 0)) * rate * below
            below *= per
    return half_even(femtos, below * FEMTOS_PER_NANO)


def _femtos(price: Price, usage: TokenUsage, service_tier: str = "") -> int:
    tiers = price.tiers
    if service_tier:
        tiers = price.variants.get(service_tier, tiers)
    if len(tiers) == 1:
        rates = tiers[0]
    elif tiers:
        rates = rates_for(tiers, usage.all_input)
    else:
        return 0
    total = usage.input * rates.input + usage.output * rates.output
    if usage.plain:
        return total
    return (
        total
        + usage.cache_read * rates.cache_read
        + usage.cache_write * rates.cache_write
        + usage.cache_write_1h * rates.cache_write_1h
        + usage.reasoning * rates.reasoning
        + usage.audio_input * rates.audio_input
        + usage.audio_output * rates.audio_output
        + usage.image_input * (rates.input if rates.image_input < 0 else rates.image_input)
        + usage.image_output * (rates.output if rates.image_output < 0 else rates.image_output)
    )


def parse_usd(text: str | int) -> int:
    """Return the nano-USD of an amount such as `2_000 USD`, `12.50` or `USD 3`; ValueError says what is wrong."""
    match = _AMOUNT.match(str(text))
    if match is None:
        how = "write it like 2_000 USD or 12.50 USD"
        raise ValueError(foreign_currency(str(text), how) or f"{text!r} is not an amount; {how}")
    nanos = Decimal(match["number"].replace("_", "").replace(",", "")) * NANOS_PER_USD
    if nanos != nanos.to_integral_value():
        raise ValueError(f"{text!r} has more than nine decimals, the smallest amount is 0.000000001 USD")
    return int(nanos)


def parse_rate(text: str | int | Decimal) -> int:
    """Return the femto-USD a token of a price in USD per million tokens; ValueError says what is wrong."""
    match = _RATE.match(str(text))
    if match is not None and match["per"] and match["per"].lower() not in _MILLION:
        raise ValueError(f"{text!r} is per {match['per']}; write USD per million tokens, such as 0.15")
    try:
        femtos = Decimal(str(text) if match is None else match["number"]) * FEMTOS_PER_USD_PER_MTOK
    except InvalidOperation as error:
        how = "write USD per million tokens, such as 0.15"
        raise ValueError(foreign_currency(str(text), how) or f"{text!r} is not a price; {how}") from error
    if not femtos.is_finite() or femtos < 0 or femtos != femtos.to_integral_value():
        raise ValueError(f"{text!r} is not a price of zero or more with at most nine decimals")
    return int(femtos)


def foreign_currency(text: str, how: str) -> str:
    """Return what is wrong with an amount that is not in USD, and `how` to write it; empty if it names no other."""
    found = _FOREIGN.search(text)
    return "" if found is None else f"{text!r} is in {found[0].strip()}: amounts are in USD only; convert it, and {how}"


def to_decimal(nanos: int) -> Decimal:
    """Return nano-USD as an exact Decimal of USD with nine places."""
    return Decimal(nanos).scaleb(-9)


def format_usd(nanos: int) -> str:
    """Return nano-USD as text: at least cents, no trailing zeros beyond them, such as `12.50 USD`."""
    sign, digits = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, rest = divmod(digits, NANOS_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole:,}.{decimals} USD"
