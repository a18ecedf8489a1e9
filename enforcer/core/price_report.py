"""What new entries change, in words that people check prices by: each rate before and after, and a worked example."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec

from enforcer.core.book import Book, Held
from enforcer.core.discounts import AS_PLAINER, CLASSES
from enforcer.core.price_changes import served_models
from enforcer.core.pricing import describe
from schemas.money import FEMTOS_PER_USD_PER_MTOK, Price, Rates, cost_nanos, format_usd
from schemas.policy import Policy
from schemas.prices import PPM, Kind, PriceEntry
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.units import AUDIO_MS, CHARACTERS

EXAMPLE = TokenUsage(input=1_000, output=500)
_EXAMPLE_UNITS = {AUDIO_MS: (60_000, "1 minute of audio"), CHARACTERS: (1_000, "1,000 characters")}
_PLAINER = {
    "cache_read": "input", "cache_write": "input", "cache_write_1h": "cache_write", "reasoning": "output",
    "audio_input": "input", "audio_output": "output", **AS_PLAINER,
}  # fmt: skip
CHEAPEST, DEAREST = FEMTOS_PER_USD_PER_MTOK // 1_000, 1_000 * FEMTOS_PER_USD_PER_MTOK
"""Outside of these a rate for plain input or output is probably in another unit: 0.001 to 1,000 USD per million."""


class PriceChange(msgspec.Struct, frozen=True):
    """What one entry means for one model."""

    id: str
    kind: str
    org: str
    provider: str
    model: str
    valid_from_ms: int
    valid_to_ms: int | None
    before: dict[str, Any] | None
    """The price at that moment as the book has it, or None."""
    after: dict[str, Any] | None
    differences: list[str]
    """`input 0.15 → 0.20 (+33.3%)`, in USD per million tokens or a unit."""
    most_ppm: int | None
    """The largest change of a rate in parts per million, without its sign; None where there was no price before."""
    example: str
    warnings: list[str] = []


def report(entries: Iterable[PriceEntry], before: Book, after: Book, policy: Policy, now_ms: int) -> list[PriceChange]:
    """Return what `entries` change: `before` is the book without and `after` the book with them."""
    found = []
    for entry in entries:
        for (provider, model), name in served_models(policy).items():
            if fnmatch.fnmatchcase(provider, entry.provider) and fnmatch.fnmatchcase(model, entry.model):
                at_ms = entry.valid_from_ms or now_ms
                was, becomes = (
                    _said(book, entry, provider, model, entry.name or name, at_ms) for book in (before, after)
                )
                found.append(_change(entry, provider, model, was, becomes))
    return found


def example(price: Price) -> str:
    """Return what usual requests cost at a price."""
    parts = []
    if price.tiers:
        parts.append(f"1,000 input + 500 output tokens = {format_usd(cost_nanos(price, EXAMPLE))}")
    for unit in price.units:
        count, words = _EXAMPLE_UNITS.get(unit, (1, f"1 × {unit}"))
        nanos = cost_nanos(msgspec.structs.replace(price, request_nanos=0), NO_TOKENS, {unit: count})
        parts.append(f"{words} = {format_usd(nanos)}")
    return "; ".join(parts)


def describe_entry(held: Held) -> dict[str, Any]:
    """Return an entry of the book as the API tells it, with both times."""
    entry = held.entry
    price = entry.price
    return {
        "id": entry.id, "kind": entry.kind, "org": entry.org, "provider": entry.provider, "model": entry.model,
        "name": entry.name, "valid_from_ms": entry.valid_from_ms, "valid_to_ms": entry.valid_to_ms,
        "recorded_ms": held.known_ms, "recorded_by": entry.recorded_by, "reason": entry.reason,
        "sha256": entry.sha256, "withdrawn": entry.is_withdrawal,
        "price": None if price is None else describe(msgspec.structs.replace(price, version=entry.version)),
        "daily": [{**msgspec.to_builtins(part), "price": describe(part.price)} for part in entry.daily],
        "discounts": msgspec.to_builtins(entry.discounts), "volume": msgspec.to_builtins(entry.volume),
        "example": "" if price is None else example(price),
    }  # fmt: skip


def _said(book: Book, entry: PriceEntry, provider: str, model: str, name: str, at_ms: int) -> Price | None:
    """Return what a model costs by the series of `entry`; by whatever comes instead where that series says nothing."""
    found = book.said_at(entry.org, provider, model, at_ms, name=name)
    own = book.in_force(entry.series, at_ms)
    if own is not None and own.price is not None and (found is None or found[0].series != entry.series):
        return own.price_at(at_ms)  # another series comes before it
    return None if found is None else found[1]


def _change(entry: PriceEntry, provider: str, model: str, was: Price | None, becomes: Price | None) -> PriceChange:
    tiers = {tier for price in (was, becomes) if price is not None for tier in price.variants}
    old, new = dict(_rates(was, tiers)), dict(_rates(becomes, tiers))
    ways = [(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [way for way in ways if not _follows(way[0], old, new, tiers)]
    sizes = [_ppm(before, after) for _, before, after in ways if before is not None]
    return PriceChange(
        id=entry.id, kind=entry.kind, org=entry.org, provider=provider, model=model,
        valid_from_ms=entry.valid_from_ms, valid_to_ms=entry.valid_to_ms,
        before=None if was is None else describe(was), after=None if becomes is None else describe(becomes),
        differences=[_words(*way) for way in shown], most_ppm=None if was is None else max(sizes, default=0),
        example="" if becomes is None else example(becomes), warnings=_warnings(becomes, entry.kind),
    )  # fmt: skip


def _rates(price: Price | None, services: Iterable[str]) -> Iterator[tuple[str, Fraction]]:
    """Yield name → USD per million tokens or a unit, of all that a price says; a service tier it leaves out as well."""
    if price is None:
        return
    named = ((f"{name} ", price.variants.get(name, price.tiers)) for name in sorted(services))
    for prefix, tiers in (("", price.tiers), *named):
        for tier in tiers:
            above = f" above {tier.min_input_tokens - 1:,}" if tier.min_input_tokens else ""
            yield from ((f"{prefix}{name}{above}", _usd(tier, name)) for name in CLASSES)
    for unit, femtos in price.units.items():
        yield unit, Fraction(femtos, price.per.get(unit, 1) * 10**15)
    if price.request_nanos:
        yield "request", Fraction(price.request_nanos, 10**9)


def _usd(tier: Rates, name: str) -> Fraction:
    rate = getattr(tier, name)
    return Fraction(getattr(tier, AS_PLAINER[name]) if rate < 0 else rate, FEMTOS_PER_USD_PER_MTOK)


def _follows(name: str, old: dict[str, Fraction], new: dict[str, Fraction], services: Collection[str]) -> bool:
    """Tell whether a class costs what a plainer one or the standard tier costs, before and after: it is not said."""
    words = name.split(" ")
    if words[0] in services and all(rates.get(name) == rates.get(name[len(words[0]) + 1 :]) for rates in (old, new)):
        return True
    for index, word in enumerate(words):
        plainer = _PLAINER.get(word)
        if plainer is not None:
            other = " ".join([*words[:index], plainer, *words[index + 1 :]])
            return all(rates.get(name) == rates.get(other) for rates in (old, new))
    return False


def _ppm(before: Fraction, after: Fraction | None) -> int:
    if before == 0:
        return 1_000 * PPM
    return PPM if after is None else int(abs(after - before) * PPM / before)


def _words(name: str, before: Fraction | None, after: Fraction | None) -> str:
    if before is None:
        return f"{name} {_number(after)} (new)"
    if after is None:
        return f"{name} {_number(before)} → none"
    percent = f" ({float((after - before) / before * 100):+.1f}%)" if before else ""
    return f"{name} {_number(before)} → {_number(after)}{percent}"


def _number(value: Fraction | None) -> str:
    if value is None:
        return "-"
    number = (Decimal(value.numerator) / value.denominator).quantize(Decimal("1e-12")).normalize()
    return format(number, "f")


def _warnings(price: Price | None, kind: str) -> list[str]:
    if price is None or not price.tiers or kind == Kind.SELF_HOSTED:
        return []
    found = []
    for name in ("input", "output"):
        rate = getattr(price.tiers[0], name)
        shown = _number(Fraction(rate, FEMTOS_PER_USD_PER_MTOK))
        if 0 < rate < CHEAPEST:
            found.append(f"{name}: {shown} USD per million tokens is very little; was it meant per token, or thousand?")
        if rate > DEAREST:
            found.append(f"{name}: {shown} USD per million tokens is very much; was it meant in cents, or per billion?")
    return found
