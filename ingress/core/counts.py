"""Reads counts that nobody vouches for: what is no count becomes one, or nothing, and a flag says which.

Used where the strict decoder has refused an object, or a key stands in it twice; so it may take its time, within the
bounds below. Never raises for what is in the bytes. Knows no field of any provider but those that are a discount.
"""

from __future__ import annotations

import json
import math
import re
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from schemas import flags

MAX_TOKENS = 10**9
"""More than any answer has; a larger count is a fault of the provider's."""
MAX_SALVAGED_BYTES = 1024 * 1024
"""A longer text that the strict decoder refuses is not looked at again."""

MAX_ENTRIES = 1_000
"""Of a list of counts."""
DISCOUNTS = frozenset({"cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"})
"""Counts of what costs less: of two readings the smaller one is the safe one."""

MAX_SHAPES, MAX_SHAPE_BYTES = 256, 2_048
_SINGLE: set[bytes] = set()
"""Shapes of texts in which no key stands twice. A memory of what is true of bytes: forgetting costs time only."""
_keys_with_digits = re.compile(rb'"([^"]*[0-9][^"]*)"\s*:').findall
_WITH_DIGITS = frozenset(
    {b"ephemeral_5m_input_tokens", b"ephemeral_1h_input_tokens", b"ttl_30m_tokens", b"ttl_12h_tokens"}
)
"""Keys that can be told apart without their digits; others with digits are looked at each time."""
Kind = TypeVar("Kind", bound=msgspec.Struct)
_NUMBER = re.compile(r"[+-]?(?:\d{1,32}(?:\.\d{0,32})?(?:[eE][+-]?\d{1,4})?|inf(?:inity)?|nan)", re.IGNORECASE)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Doubled(dict[str, Any]):
    """An object in which a key stood more than once."""


def has_duplicates(data: bytes) -> bool:
    """Tell whether a key stands twice in an object of a JSON text; or whether that cannot be ruled out at little cost.

    Every member has one colon, and text keeps its colons, so encoding what was decoded has as many, or a key was lost.
    Servers always write the same keys: what is left of a text without its digits is looked at once.
    """
    shape = data.translate(None, b"0123456789")
    if shape in _SINGLE:
        return False
    try:
        has_some = data.count(b":") != _encode(_decode(data)).count(b":")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return True
    if not has_some and len(shape) <= MAX_SHAPE_BYTES and all(key in _WITH_DIGITS for key in _keys_with_digits(data)):
        if len(_SINGLE) >= MAX_SHAPES:
            _SINGLE.clear()
        _SINGLE.add(shape)
    return has_some


def salvaged(data: bytes) -> Any:
    """Return what a JSON text says, read as leniently as may be; None if nothing can be made of it."""
    if len(data) > MAX_SALVAGED_BYTES:
        return None
    try:
        return json.loads(data.decode(errors="replace"), object_pairs_hook=_joined)
    except (ValueError, RecursionError):
        return None


def repaired(found: Any, kind: type[Kind], odd: set[str]) -> Kind | None:
    """Return the counts of an object that `salvaged` has read, as a struct of counts and of such structs.

    Args:
        found: anything.
        kind: whose fields are counts, texts or such structs, each with a default.
        odd: takes the flags of what is odd.
    """
    if not isinstance(found, dict):
        odd.add(flags.MALFORMED)
        return None
    if isinstance(found, _Doubled):
        odd.add(flags.DUPLICATED)
    values: dict[str, Any] = {}
    for name, nested in _fields(kind).items():
        value = found.get(name)
        if value is None:
            continue
        if nested is str:
            values[name] = value if isinstance(value, str) else None
        elif isinstance(nested, list):
            values[name] = _each(value, nested[0], odd)
        elif nested is not None:
            values[name] = repaired(value, nested, odd)
        else:
            values[name] = count_of(value, odd, name in DISCOUNTS)
    return kind(**values)


def _each(found: Any, kind: type[Kind], odd: set[str]) -> list[Kind] | None:
    if not isinstance(found, list):
        odd.add(flags.MALFORMED)
        return None
    return [entry for value in found[:MAX_ENTRIES] if (entry := repaired(value, kind, odd)) is not None]


def count_of(value: Any, odd: set[str], is_discount: bool = False) -> int | None:
    """Return a count from 0 to `MAX_TOKENS`, or None for what cannot be one; `odd` takes the flags."""
    if isinstance(value, str):
        odd.add(flags.NOT_A_NUMBER)
        text = value.strip()
        if _NUMBER.fullmatch(text) is None:
            return None
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        odd.add(flags.NOT_A_NUMBER)
        return None
    if isinstance(value, float) and not math.isfinite(value):
        odd.add(flags.NOT_FINITE)
        return None
    if value < 0:
        odd.add(flags.NEGATIVE)
        return None
    if value > MAX_TOKENS:
        odd.add(flags.OVERSIZED)
        return None
    if isinstance(value, float) and not value.is_integer():
        odd.add(flags.FRACTIONAL)
        return math.floor(value) if is_discount else math.ceil(value)
    return int(value)


def _joined(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of members; of those with the same key the safe one counts."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    safe: dict[str, Any] = {}
    for key, value in pairs:
        safe[key] = _safe(key, safe[key], value) if key in safe else value
    return _Doubled(safe)


def _safe(key: str, one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        joined = {name: _safe(name, value, other.get(name, value)) for name, value in one.items()}
        return _Doubled({**other, **joined})
    if _is_number(one) and _is_number(other):
        return min(one, other) if key in DISCOUNTS else max(one, other)
    return one if _is_number(one) or other is None else other


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_KNOWN: dict[type[msgspec.Struct], dict[str, Any]] = {}


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of a struct: the struct that each holds (in a list: several), `str` for a text, else None."""
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = {name: _nested(hint) for name, hint in get_type_hints(kind).items()}
    return known


def _nested(hint: Any) -> Any:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for part in parts:
        if get_origin(part) is list:
            return list(get_args(part))
        if part is str or (isinstance(part, type) and issubclass(part, msgspec.Struct)):
            return part
    return None
