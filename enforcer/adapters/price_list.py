"""The bundled price list of genai-prices as exact rates. Offline: its update thread is never started.

Its own calculator is not used: it can fail on token counts that contradict each other, and its look-ups remember
every name they were ever asked for. Here only the models of a policy are looked up, in the data itself, and what is
found becomes our own `Price`. What the list cannot say for certain is no price:

* prices that change with the time of day: the price outside of those hours is taken;
* prices with a date: the one of the day the policy is applied, which then stays until the next version;
* a model without input price, or without output price unless it has no output (embeddings, reranking): none;
* batch, priority and other variants: the standard price.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib import metadata
from typing import TYPE_CHECKING

from enforcer.core.pricing import Quote
from schemas.money import NANOS_PER_USD, Price, Rates, parse_rate
from schemas.policy import Model, Provider

if TYPE_CHECKING:
    from genai_prices import types

SOURCE = "genai-prices"
OWN_PROVIDERS = {"openai": "openai", "anthropic": "anthropic"}
"""Protocol → provider in the list that is meant where the address does not say."""
_NO_OUTPUT = re.compile(r"embed|rerank|moderation", re.IGNORECASE)


class PriceList:
    """The list as it was bundled. Reading it takes most of a second, so it is read when first asked for."""

    def __init__(self) -> None:
        self._version = metadata.version("genai-prices")

    def at(self, now_ms: int) -> Quote:
        """Return the prices of a moment. The first call reads the list: not on an event loop."""
        from genai_prices.data import providers

        moment = datetime.fromtimestamp(now_ms / 1000, UTC)

        def quote(provider: Provider, name: str, model: Model) -> Price | None:
            for listed, found in _candidates(providers, provider, name):
                price = self._price(listed, found, model, moment)
                if price is not None:
                    return price
            return None

        return quote

    def _price(self, listed: types.Provider, found: types.ModelInfo, model: Model, moment: datetime) -> Price | None:
        values = _values(_standard(found, moment))
        if "input_mtok" not in values or ("output_mtok" not in values and not _has_no_output(found, model)):
            return None
        starts = sorted({0, *(start for tiers in values.values() for start in tiers)})
        try:
            tiers = tuple(_rates(start, values) for start in starts)
            request_nanos = _request_nanos(values)
        except ValueError:
            return None  # more decimals than a rate can hold exactly
        return Price(SOURCE, f"{SOURCE}-{self._version}:{listed.id}/{found.id}", tiers, request_nanos)


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


def _standard(found: types.ModelInfo, moment: datetime) -> types.ModelPrice:
    """Return the price of a day, whatever the hour."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    if isinstance(found.prices, ModelPrice):
        return found.prices
    lasting = [price for price in found.prices if not isinstance(price.constraint, TimeOfDateConstraint)]
    active = [price for price in lasting if price.constraint is None or price.constraint.active(moment)]
    return (active or lasting[:1] or found.prices[:1])[-1].prices


def _values(prices: types.ModelPrice) -> dict[str, dict[int, Decimal]]:
    """Return price key → least input tokens → price. A tier begins one token after the start that the list gives."""
    values: dict[str, dict[int, Decimal]] = {}
    for key, value in prices.__dict__.items():
        if isinstance(value, Decimal):
            values[key] = {0: value}
        elif value is not None:
            values[key] = {0: value.base, **{tier.start + 1: tier.price for tier in value.tiers}}
    return values


def _rates(start: int, values: dict[str, dict[int, Decimal]]) -> Rates:
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
    )


def _request_nanos(values: dict[str, dict[int, Decimal]]) -> int:
    nanos = values.get("requests_kcount", {0: Decimal(0)})[0] * NANOS_PER_USD / 1000
    if nanos != nanos.to_integral_value():
        raise ValueError("a price a request with more than nine decimals")
    return int(nanos)


def _has_no_output(found: types.ModelInfo, model: Model) -> bool:
    return model.operations == ("embeddings",) or _NO_OUTPUT.search(found.id) is not None
