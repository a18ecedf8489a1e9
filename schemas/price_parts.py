"""How people write prices, in the policy document and in price files: USD per million tokens, USD per so many units.

Reading is strict about units, because that is where prices go wrong: another currency, cents, and a price a token
where one per million is meant are refused with what to write instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Self

import msgspec
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from schemas.fields import Count, DocumentPart, PolicyProblems, Rate, Usd
from schemas.money import Price, Rates
from schemas.unit_rates import UnitRate, parse_unit_rate, unit_rate_text
from schemas.units import UNITS

TIERS_PROBLEM = "name each threshold once, and not 0: that is what the price begins with"


def _units(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    problems, read = [], {}
    for name, text in value.items():
        if name not in UNITS:
            problems.append((str(name), text, f"use one of {', '.join(UNITS)}"))
            continue
        try:
            read[name] = parse_unit_rate(name, text)
        except ValueError as error:
            problems.append((name, text, str(error)))
    if problems:
        raise PolicyProblems(problems)
    return read


def _unit_texts(value: dict[str, UnitRate]) -> dict[str, str]:
    return {name: unit_rate_text(name, rate) for name, rate in value.items()}


Units = Annotated[dict[str, Any], BeforeValidator(_units), PlainSerializer(_unit_texts)]
"""Unit → `UnitRate`, written as text such as `10 USD per 1000`."""


class TokenPrices(DocumentPart):
    """USD per million tokens. A class that is left out costs what its plainer class costs."""

    input: Rate | None = None
    """Input tokens that are in no other class."""
    output: Rate | None = None
    """Output tokens that are in no other class."""
    cache_read: Rate | None = None
    """Input read from the prompt cache; as `input` if left out."""
    cache_write: Rate | None = None
    """Input written to the prompt cache for five minutes; as `input` if left out."""
    cache_write_1h: Rate | None = None
    """Input written to the prompt cache for an hour; as `cache_write` if left out."""
    reasoning: Rate | None = None
    """Output that only the model sees; as `output` if left out."""
    audio_input: Rate | None = None
    """Audio heard; as `input` if left out."""
    audio_output: Rate | None = None
    """Audio spoken; as `output` if left out."""
    image_input: Rate | None = None
    """Images seen; as `input` if left out."""
    image_output: Rate | None = None
    """Images made; as `output` if left out."""

    @property
    def has_tokens(self) -> bool:
        """Whether tokens have a price here."""
        return self.input is not None and self.output is not None


class LongContext(TokenPrices):
    """What all tokens of a request cost if its input is longer than so many tokens."""

    above: Annotated[Count, Field(gt=0)]
    """Input tokens of all classes."""


class ServiceTier(TokenPrices):
    """What tokens cost that another service tier served."""

    long_context: tuple[LongContext, ...] = ()
    """Other prices for long inputs; those of the standard tier do not apply here."""


class PriceOverride(ServiceTier):
    """USD per million tokens, and USD per so many of what is billed beside tokens."""

    request: Usd = 0
    """USD a request, beside the tokens."""
    units: Units = Field(default={})
    """What is billed beside tokens: `web_search: 10 USD per 1000`, `audio_ms: 0.006 USD per minute`. A unit that is
    left out has no price here."""
    service_tiers: dict[str, ServiceTier] = Field(default={})
    """By the tier that served an answer: `flex`, `priority`, `batch`, …; one that is left out costs as the rest."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        problems = [*_token_problems("", self, needed=not (self.units or self.request))]
        for name, tier in self.service_tiers.items():
            problems += _token_problems(f"service_tiers.{name}.", tier, needed=True)
        if problems:
            raise PolicyProblems(problems)
        return self


def _token_problems(path: str, part: ServiceTier, *, needed: bool) -> Iterator[tuple[str, Any, str]]:
    said = {name for name in TokenPrices.model_fields if getattr(part, name) is not None}
    for name in ("input", "output"):
        if name not in said and (said or needed or part.long_context):
            yield f"{path}{name}", None, "missing; add it"
    starts = [tier.above for tier in part.long_context]
    if len(starts) != len(set(starts)):
        yield f"{path}long_context", starts, TIERS_PROBLEM
    for index, tier in enumerate(part.long_context):
        if not tier.has_tokens:
            yield f"{path}long_context.{index}", None, "missing input or output; add both"


def price_of(part: PriceOverride, source: str, version: str = "") -> Price:
    """Return the price that people wrote; its version names the rates if none is given."""
    units: dict[str, UnitRate] = part.units
    price = Price(
        source=source,
        version=version,
        tiers=_tiers(part),
        request_nanos=part.request,
        units={name: rate.femtos for name, rate in units.items()},
        variants={name: _tiers(tier) for name, tier in part.service_tiers.items()},
        per={name: rate.per for name, rate in units.items() if rate.per != 1},
    )
    if version:
        return price
    digest = hashlib.sha256(msgspec.json.encode(price)).hexdigest()[:12]
    return msgspec.structs.replace(price, version=f"{source}:{digest}")


def _tiers(part: ServiceTier) -> tuple[Rates, ...]:
    if not part.has_tokens:
        return ()
    long = sorted(part.long_context, key=lambda tier: tier.above)
    return (_rates(part, 0), *(_rates(tier, tier.above + 1) for tier in long))


def _rates(part: TokenPrices, min_input_tokens: int) -> Rates:
    def rate(own: int | None, plainer: int | None) -> int:
        return (plainer or 0) if own is None else own

    cache_write = rate(part.cache_write, part.input)
    return Rates(
        min_input_tokens=min_input_tokens,
        input=rate(part.input, 0),
        cache_read=rate(part.cache_read, part.input),
        cache_write=cache_write,
        cache_write_1h=rate(part.cache_write_1h, cache_write),
        output=rate(part.output, 0),
        reasoning=rate(part.reasoning, part.output),
        audio_input=rate(part.audio_input, part.input),
        audio_output=rate(part.audio_output, part.output),
        image_input=-1 if part.image_input is None else part.image_input,
        image_output=-1 if part.image_output is None else part.image_output,
    )
