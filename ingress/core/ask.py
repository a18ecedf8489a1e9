"""What a client asks for, as far as admission and metering need it; the rest of the body is not looked at."""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.expected import Expected
from ingress.core.strict_json import InputError

MAX_ASKED_TOKENS = 10**9
MAX_CHOICES = 10**4


class Ask(msgspec.Struct, frozen=True):
    """A request body, understood."""

    model: str
    """As the client spells it."""
    stream: bool = False
    output_tokens: int | None = None
    """The most tokens that one choice may have, where the client says so."""
    choices: int = 1
    usage_wanted: bool = True
    """False for a stream of which the client did not ask the usage."""
    is_free: bool = False
    """Providers bill nothing for it: nothing is reserved but the request itself."""
    expected: Expected | None = None
    """What it may come to, where its body does not say it in text; None for text."""


def text_field(fields: dict[str, Any], name: str) -> str:
    """Return a required text; `InputError` if it is missing, empty or no text."""
    value = fields.get(name)
    if type(value) is str and value:
        return value
    if value is None:
        raise InputError(f"{name}: missing; name a model")
    raise InputError(f"{name}: must be a non-empty text")


def flag_field(fields: dict[str, Any], name: str) -> bool:
    """Return an optional truth value; `InputError` if it is anything else."""
    value = fields.get(name)
    if value is None:
        return False
    if type(value) is bool:
        return value
    raise InputError(f"{name}: must be true or false")


def count_field(fields: dict[str, Any], name: str, most: int) -> int | None:
    """Return an optional whole number from 0 to `most`; `InputError` if it is anything else."""
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is int and 0 <= value <= most:
        return value
    raise InputError(f"{name}: must be a whole number from 0 to {most}")
