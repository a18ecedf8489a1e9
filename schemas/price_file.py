"""Price files: what people import into the price book, as YAML or JSON, validated with every problem at once.

The format is ours and in docs/prices.md. Amounts are in USD; another currency is refused, never converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from schemas.fields import DocumentPart, Name, PolicyProblems, matching
from schemas.money import parse_usd
from schemas.policy_file import load
from schemas.price_parts import PriceOverride, TokenPrices
from schemas.prices import PPM, REQUEST, Discount, Step, Volume
from schemas.units import UNITS

MAX_ITEMS = 5_000
BILLED = (*TokenPrices.model_fields, *UNITS, REQUEST)
"""What a discount can be of."""
_GLOB = re.compile(r"^[A-Za-z0-9*?][A-Za-z0-9._:/@*?\[\]-]{0,127}$")
_SOURCE = re.compile(r"^[\w .:/@+-]{0,64}$")
Glob = Annotated[str, matching(_GLOB, "use letters, digits and . _ : / @ -, or a glob of them, 128 at most")]


def _off(value: Any) -> Any:
    text = "" if isinstance(value, bool) else str(value)
    try:
        ppm = Decimal(text.removesuffix("%").strip()) * (PPM // 100)
    except InvalidOperation:
        ppm = Decimal(-1)
    if not text.endswith("%") or ppm != ppm.to_integral_value() or not 0 < ppm <= PPM:
        raise ValueError("write a percentage above 0% and up to 100% with at most four decimals, such as 15% or 12.5%")
    return int(ppm)


def _currency(value: Any) -> Any:
    if value != "USD":
        raise ValueError("prices are in USD only; convert them, and write currency: USD")
    return value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _billed(values: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [value for value in values if value not in BILLED]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not billed; use {', '.join(BILLED)}")
    return values


class DiscountPart(DocumentPart):
    """A percentage off the list price; of several that match, the first counts."""

    percent: Annotated[int, BeforeValidator(_off)]
    """Off the list price, such as 15%."""
    of: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Token classes, units or `request`; left out: all."""
    service_tiers: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """`standard`, `flex`, …; left out: all."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        _billed(self.of)
        return self

    def discount(self) -> Discount:
        """Return it as entries have it."""
        return Discount(self.percent, self.of, self.service_tiers)


class StepPart(DocumentPart):
    """Discounts of a month whose use is above something."""

    above: int | str
    """Tokens, or an amount such as 10_000 USD."""
    discounts: tuple[DiscountPart, ...]


class VolumePart(DocumentPart):
    """Discounts by the use of a calendar month in UTC, settled when it is over."""

    by: Literal["tokens", "usd"]
    """All tokens, or USD at list prices."""
    steps: tuple[StepPart, ...]

    @model_validator(mode="after")
    def _is_ascending(self) -> Self:
        found = [step.above for step in self.volume().steps]
        if found != sorted(set(found)):
            raise PolicyProblems([("steps", found, "order steps by `above`, each once")])
        return self

    def volume(self) -> Volume:
        """Return it as entries have it. ValueError where an amount is none."""
        return Volume(self.by, tuple(
            Step(self._above(step.above), tuple(part.discount() for part in step.discounts)) for step in self.steps
        ))  # fmt: skip

    def _above(self, value: int | str) -> int:
        if self.by == "usd":
            return parse_usd(value)
        digits = str(value).replace("_", "").replace(",", "")
        if not digits.isdecimal():
            raise ValueError(f"{value!r} is no number of tokens; write it like 1_000_000_000")
        return int(digits)


class PriceItem(DocumentPart):
    """One price: absolute, or off the list price, or none any more."""

    provider: Glob
    """A provider of the policy by name; for discounts a glob."""
    model: Glob
    """The served model; for discounts a glob."""
    kind: Literal["list", "override", "contract", "self-hosted"] = "list"
    """Whose word it is: docs/prices.md says which comes first."""
    org: Name | Literal[""] = ""
    """Left out: for all organisations."""
    valid_from: AwareDatetime | None = Field(default=None, alias="from")
    """The first moment, with a UTC offset. Left out: the moment it is recorded."""
    valid_to: AwareDatetime | None = Field(default=None, alias="to")
    """The first moment it does not apply to any more. Left out: until another price begins."""
    price: PriceOverride | None = None
    """As in the policy document."""
    discounts: tuple[DiscountPart, ...] = ()
    """Off the list price."""
    volume: VolumePart | None = None
    """Off the list price, by the month's use."""
    withdrawn: bool = False
    """From then on there is no such price any more, and the next kind of price counts."""
    reason: Annotated[str, Field(max_length=2_000)] = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        problems = list(_item_problems(self))
        if problems:
            raise PolicyProblems(problems)
        return self


class PriceFile(DocumentPart):
    """A whole file."""

    version: Literal[1] = 1
    """Of the format."""
    currency: Annotated[str, BeforeValidator(_currency)] = "USD"
    source: Annotated[str, matching(_SOURCE, "use letters, digits, spaces and . : / @ + -, 64 at most")] = ""
    """Where the prices are from; on events of prices that have no other name."""
    prices: Annotated[tuple[PriceItem, ...], Field(max_length=MAX_ITEMS)]

    @model_validator(mode="after")
    def _has_prices(self) -> Self:
        if not self.prices:
            raise PolicyProblems([("prices", None, "there is none; add one")])
        return self


def load_prices(text: str, name: str = "prices") -> PriceFile:
    """Return the prices in YAML or JSON `text`; ConfigError with every problem, each beginning with `name`."""
    return load(PriceFile, text, name, "prices: [...]")


def is_glob(text: str) -> bool:
    """Tell whether a name stands for several."""
    return any(letter in text for letter in "*?[")


def _item_problems(item: PriceItem) -> Iterator[tuple[str, Any, str]]:
    off = bool(item.discounts or item.volume)
    if sum((item.price is not None, off, item.withdrawn)) != 1:
        yield "price", None, "say one of price, discounts (and volume), or withdrawn: true"
    if item.valid_from and item.valid_to and item.valid_to <= item.valid_from:
        yield "to", _text(item.valid_to), "name a moment after `from`"
    if item.price is not None and (is_glob(item.provider) or is_glob(item.model)):
        yield "model", f"{item.provider}/{item.model}", "an absolute price is of one model; globs are for discounts"
    if off and item.kind in ("list", "self-hosted"):
        yield "kind", item.kind, "discounts are off the list price: use contract or override"
    if item.org and item.kind == "list":
        yield "org", item.org, "a list is for all; use contract or override for one organisation"


def _text(moment: datetime) -> str:
    return moment.isoformat()
