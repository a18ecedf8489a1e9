"""The bundled price list of genai-prices as exact prices. Offline: its update thread is never started.

Its own calculator and its extraction of usage are not used: they raise on counts that contradict each other and on
models that they do not know, and their look-ups remember every name they were ever asked for. Here only the models of
a policy are looked up, in the data itself, and what is found becomes our own `Price`; usage never passes through, so
nothing here can lose any. What the list says becomes entries of the book:

* a price with a start date: a version of its own from that day on in UTC, the future ones too;
* a price for some hours of the day: `Daily` hours of the entry;
* batch, flex, priority and fast: service tiers; other variants (a route, a type of search) cannot be seen in an answer
  and have no price of their own here;
* searches, audio by the hour, characters: units, none of whose precision is lost;
* a model with an input price and no output price, unless it has no output (embeddings, reranking): none;
* cached audio and cached images: as cached text, because cached tokens are one class;
* video, citations, pages and messages: no price.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enforcer.core.pricing import Quote
from schemas import units
from schemas.money import FEMTOS_PER_USD, NANOS_PER_USD, Price, Rates, parse_rate
from schemas.policy import Model, Provider
from schemas.prices import Daily

if TYPE_CHECKING:
    from genai_prices import types

SOURCE = "genai-prices"
OWN_PROVIDERS = {"openai": "openai", "anthropic": "anthropic"}
"""Protocol → provider in the list that is meant where the address does not say."""
HOUR_MS = 3_600_000
UNITS = {
    "web_searches_kcount": (units.WEB_SEARCH, 1_000),
    "storage_searches_kcount": (units.FILE_SEARCH, 1_000),
    "rerank_searches_kcount": (units.SEARCHES, 1_000),
    "input_mchars": (units.CHARACTERS, 1_000_000),
    "output_audio_hours": (units.AUDIO_MS, HOUR_MS),
    "input_audio_hours": (units.AUDIO_MS, HOUR_MS),
    "audio_hours": (units.AUDIO_MS, HOUR_MS),
}
"""Price key of the list → unit, and how many of it the price is for; of several keys of a unit the last counts."""
LEAST = {"groq/whisper-large-v3": {units.AUDIO_MS: 10_000}, "groq/whisper-large-v3-turbo": {units.AUDIO_MS: 10_000}}
"""Rules that the list has in its code: Groq bills ten seconds at least."""
_VARIANTS = ("service_tier", "processing", "speed")
"""What selects a variant that an answer can say: its value is the service tier."""
_NO_OUTPUT = re.compile(r"embed|rerank|moderation", re.IGNORECASE)
Values = dict[str, dict[int, Decimal]]
"""Price key → least input tokens → USD."""


class Version(NamedTuple):
    """What the list says of a model from a moment on: hours with another price, and the price of the others."""

    valid_from_ms: int
    price: Price | None
    daily: tuple[Daily, ...] = ()


class PriceList:
    """The list as it was bundled. Reading it takes most of a second, so it is read when first asked for."""

    def __init__(self) -> None:
        self.version = f"{SOURCE}-{metadata.version(SOURCE)}"

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the data, hex digits."""
        spec = util.find_spec("genai_prices.data")
        return hashlib.sha256(Path(str(spec and spec.origin)).read_bytes()).hexdigest()

    def at(self, now_ms: int) -> Quote:
        """Return the prices of a moment. The first call reads the list: not on an event loop."""

        def quote(provider: Provider, name: str, model: Model) -> Price | None:
            found = [version for version in self.versions(provider, name, model) if version.valid_from_ms <= now_ms]
            if not found:
                return None
            return next((daily.price for daily in reversed(found[-1].daily) if daily.holds(now_ms)), found[-1].price)

        return quote

    def versions(self, provider: Provider, name: str, model: Model) -> list[Version]:
        """Return all that the list says of a model, by time, from 0 on; empty if it has no price that can be used.

        Not on an event loop: the first call reads the list.
        """
        from genai_prices.data import providers

        for listed, found in _candidates(providers, provider, name):
            versions = [self._version_at(listed, found, model, start_ms) for start_ms in _starts(found)]
            if any(version.price is not None for version in versions):
                changed = zip([None, *versions], versions, strict=False)
                return [now for before, now in changed if before is None or before[1:] != now[1:]]
        return []

    def _version_at(self, listed: types.Provider, found: types.ModelInfo, model: Model, start_ms: int) -> Version:
        moment = datetime.fromtimestamp(start_ms / 1000, UTC)
        standard, hours = _standard(found, moment)

        def price(prices: types.ModelPrice) -> Price | None:
            return self._price(listed, found, model, prices, moment)

        daily = [(_minute(start), _minute(end), price(prices)) for start, end, prices in hours]
        said = tuple(Daily(start, end, priced) for start, end, priced in daily if priced is not None)
        return Version(start_ms, price(standard), said)

    def _price(
        self, listed: types.Provider, found: types.ModelInfo, model: Model, prices: types.ModelPrice, moment: datetime
    ) -> Price | None:
        values = _values(prices)
        if "input_mtok" in values and "output_mtok" not in values and not _has_no_output(found, model):
            return None
        try:
            tiers = _tiers(values)
            request_nanos = _request_nanos(values)
            variants = dict(_variants(found, values, moment)) if tiers else {}
        except ValueError:
            return None  # more decimals than a rate can hold exactly
        rates, per = _units(values)
        if not tiers and not rates:
            return None
        name = f"{listed.id}/{found.id}"
        return Price(
            SOURCE, f"{self.version}:{name}", tiers, request_nanos, rates, variants, None, per, LEAST.get(name, {})
        )


def _candidates(
    providers: list[types.Provider], provider: Provider, name: str
) -> Iterator[tuple[types.Provider, types.ModelInfo]]:
    """Yield what the list has for a name: of the provider at this address, else of the protocol's, else by name."""
    wanted = name.lower()
    by_address = [listed for listed in providers if re.match(listed.api_pattern, provider.base_url)]
    own = [listed for listed in providers if listed.id == OWN_PROVIDERS.get(provider.protocol)]
    by_name = [listed for listed in providers if listed.model_match and listed.model_match.is_match(wanted)]
    for listed in by_address or [*own, *by_name]:
        found = listed.find_model(wanted, all_providers=providers)
        if found is not None:
            yield listed, found


def _starts(found: types.ModelInfo) -> list[int]:
    """Return the moments at which a price or a variant begins, and 0: what is said first has always been so."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    conditional = [] if isinstance(found.prices, ModelPrice) else found.prices
    constraints = [part.constraint for part in (*conditional, *(found.price_variants or ()))]
    dates = {part.start_date for part in constraints if isinstance(part, StartDateConstraint)}
    return sorted({0, *(int(datetime.combine(day, time(), UTC).timestamp()) * 1000 for day in dates)})


def _standard(
    found: types.ModelInfo, moment: datetime
) -> tuple[types.ModelPrice, list[tuple[time, time, types.ModelPrice]]]:
    """Return the price of a day outside of special hours, and those hours with their prices."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    if isinstance(found.prices, ModelPrice):
        return found.prices, []
    hours = [
        (part.constraint.start_time, part.constraint.end_time, part.prices)
        for part in found.prices
        if isinstance(part.constraint, TimeOfDateConstraint)
    ]
    lasting = [part for part in found.prices if not isinstance(part.constraint, TimeOfDateConstraint)]
    active = [part for part in lasting if part.constraint is None or part.constraint.active(moment)]
    return (active or lasting[:1] or found.prices[:1])[-1].prices, hours


def _minute(moment: time) -> int:
    """Return the minute of the day in UTC; without a zone it is UTC."""
    there = datetime.combine(datetime(1970, 1, 2, tzinfo=UTC).date(), moment, moment.tzinfo or UTC).astimezone(UTC)
    return there.hour * 60 + there.minute


def _variants(found: types.ModelInfo, standard: Values, moment: datetime) -> Iterator[tuple[str, tuple[Rates, ...]]]:
    """Yield service tiers with their rates; what a variant does not say costs what it costs in the standard tier."""
    said: dict[str, Values] = {}
    for variant in found.price_variants or ():
        names = [variant.when[part] for part in _VARIANTS if part in variant.when]
        values = _values(variant.prices)
        if len(variant.when) != 1 or not names or not values:
            continue
        if variant.constraint is None or variant.constraint.active(moment):
            said[names[0]] = {**values, **said.get(names[0], {})}
    for name, values in said.items():
        yield name, _tiers({**standard, **values})


def _values(prices: types.ModelPrice) -> Values:
    """Return what prices say. A tier begins one token after the start that the list gives."""
    values: Values = {}
    for key, value in prices.__dict__.items():
        if isinstance(value, Decimal):
            values[key] = {0: value}
        elif value is not None:
            values[key] = {0: value.base, **{tier.start + 1: tier.price for tier in value.tiers}}
    return values


def _tiers(values: Values) -> tuple[Rates, ...]:
    """Return the rates of all tiers; none if tokens have no price."""
    if "input_mtok" not in values:
        return ()
    starts = sorted({0, *(start for key, tiers in values.items() if key.endswith("_mtok") for start in tiers)})
    return tuple(_rates(start, values) for start in starts)


def _rates(start: int, values: Values) -> Rates:
    def rate(key: str, plainer: int) -> int:
        tiers = values.get(key)
        return plainer if tiers is None else parse_rate(tiers[max(begin for begin in tiers if begin <= start)])

    plain_input, plain_output = rate("input_mtok", 0), rate("output_mtok", 0)
    cache_write = rate("cache_write_mtok", plain_input)
    return Rates(
        min_input_tokens=start,
        input=plain_input,
        cache_read=rate("cache_read_mtok", plain_input),
        cache_write=cache_write,
        cache_write_1h=rate("cache_write_1h_mtok", cache_write),
        output=plain_output,
        reasoning=rate("output_reasoning_mtok", plain_output),
        audio_input=rate("input_audio_mtok", plain_input),
        audio_output=rate("output_audio_mtok", plain_output),
        image_input=rate("input_image_mtok", -1),
        image_output=rate("output_image_mtok", -1),
    )


def _units(values: Values) -> tuple[dict[str, int], dict[str, int]]:
    """Return unit → femto-USD, and of how many of it that is."""
    rates: dict[str, int] = {}
    per: dict[str, int] = {}
    for key, (unit, count) in UNITS.items():
        if key in values:
            femtos = values[key][0] * FEMTOS_PER_USD
            if femtos == femtos.to_integral_value():
                rates[unit], per[unit] = int(femtos), count
    return rates, per


def _request_nanos(values: Values) -> int:
    nanos = values.get("requests_kcount", {0: Decimal(0)})[0] * NANOS_PER_USD / 1000
    if nanos != nanos.to_integral_value():
        raise ValueError("a price a request with more than nine decimals")
    return int(nanos)


def _has_no_output(found: types.ModelInfo, model: Model) -> bool:
    return model.operations == ("embeddings",) or _NO_OUTPUT.search(found.id) is not None
