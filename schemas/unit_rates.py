"""Prices of what is billed beside tokens, as people write them: `10 USD per 1000`, `0.006 USD per minute`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from schemas.money import FEMTOS_PER_USD, foreign_currency
from schemas.units import AUDIO_MS

NUMBERS = {"": 1, "one": 1, "thousand": 1_000, "million": 1_000_000}
SPANS_MS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000}
HOW = "write it like 0.01 USD, 10 USD per 1000 or 15 USD per million"
HOW_LONG = "write it like 0.006 USD per minute, or per second or hour"
_TEXT = re.compile(
    r"^\s*(?:USD\s*|\$)?(?P<amount>\d[\d_,]*(?:\.\d+)?)\s*(?:USD)?\s*(?:(?:per|/)\s*(?P<per>[\d_,]+|[a-z]+))?\s*$",
    re.IGNORECASE,
)


class UnitRate(NamedTuple):
    """What `per` of a unit cost."""

    femtos: int
    per: int


def parse_unit_rate(unit: str, value: object) -> UnitRate:
    """Return the rate of `unit` that `value` says; ValueError says what is wrong and how to write it."""
    how = HOW_LONG if unit == AUDIO_MS else HOW
    text = format(Decimal(str(value)), "f") if isinstance(value, float) else str(value)
    match = None if isinstance(value, bool) else _TEXT.match(text)
    if match is None:
        raise ValueError(foreign_currency(str(value), how) or f"{value!r} is not a price; {how}")
    femtos = Decimal(match["amount"].replace("_", "").replace(",", "")) * FEMTOS_PER_USD
    if femtos != femtos.to_integral_value():
        raise ValueError(f"{value!r} has more than fifteen decimals; say what a thousand or a million cost")
    return UnitRate(int(femtos), _per(unit, match["per"] or "", how))


def unit_rate_text(unit: str, rate: UnitRate) -> str:
    """Return a rate as it is written."""
    amount = format((Decimal(rate.femtos) / FEMTOS_PER_USD).normalize(), "f")
    names = {count: name for name, count in SPANS_MS.items()} if unit == AUDIO_MS else {1_000_000: "million"}
    per = names.get(rate.per, f"{rate.per}")
    return f"{amount} USD" if rate.per == 1 else f"{amount} USD per {per}"


def _per(unit: str, text: str, how: str) -> int:
    word = text.lower().removesuffix("s")
    if unit == AUDIO_MS:
        if word not in SPANS_MS:
            raise ValueError(f"per {text or 'what'}? audio is billed by time; {how}")
        return SPANS_MS[word]
    digits = word.replace("_", "").replace(",", "")
    if digits.isdecimal() and int(digits):
        return int(digits)
    if word not in NUMBERS:
        raise ValueError(f"per {text!r}? {how}")
    return NUMBERS[word]
