"""Arrow columns from plain values: exact money, ids, times, and values looked up by their encoded bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T")

MONEY = pa.decimal128(18, 9)
ID = pa.binary(16)
MOMENT = pa.timestamp("ms", "UTC")
TAGS = pa.map_(pa.string(), pa.string())
UNITS = pa.map_(pa.string(), pa.int64())
MAX_NANOS = 10**18 - 1
"""The largest amount of a Decimal(18, 9)."""


class Unstorable(Exception):
    """A value that no row can hold; the message says which."""


def money(nanos: Sequence[int | None]) -> Any:
    """Return nano-USD as exact decimals of USD: the integers become the low words of 128-bit numbers."""
    array = pa.array(nanos, pa.int64())
    size = len(array)
    validity, data = array.buffers()
    low = np.frombuffer(data, np.int64, size) if size else np.empty(0, np.int64)
    if size and max(int(low.max()), -int(low.min())) > MAX_NANOS:
        raise Unstorable("an amount of a billion USD or more")
    words = np.empty(2 * size, np.int64)
    words[0::2] = low
    words[1::2] = low >> 63
    return pa.Array.from_buffers(MONEY, size, [validity, pa.py_buffer(words)], array.null_count)


def months(unix_ms: Sequence[int]) -> Any:
    """Return the month of each moment as YYYYMM; Unstorable if one is outside of 1970 to 2299."""
    moments = np.asarray(unix_ms, np.int64)
    if moments.size and (int(moments.min()) < 0 or int(moments.max()) >= 10_413_792_000_000):
        raise Unstorable("a time before 1970 or after 2299")
    since = moments.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    return (1970 + since // 12) * 100 + since % 12 + 1


class Interned(Generic[T]):
    """Values looked up by their encoded bytes; each is decoded once while it is remembered."""

    def __init__(self, decode: Callable[[bytes], T], limit: int) -> None:
        self._decode = decode
        self._limit = limit
        self._known: dict[bytes, T] = {}

    def places(self, encoded: Iterable[bytes]) -> tuple[list[T], list[int]]:
        """Return the distinct values of `encoded`, and for each of `encoded` the place of its value among them."""
        index: dict[bytes, int] = {}
        places = [index.setdefault(key, len(index)) for key in encoded]
        known = self._known
        if len(known) + len(index) > self._limit:
            known.clear()
        for key in index:
            if key not in known:
                known[key] = self._decode(key)
        return [known[key] for key in index], places


def texts(values: Sequence[str], places: Sequence[int]) -> Any:
    """Return the column whose n-th text is `values[places[n]]`."""
    return pa.array(values, pa.string()).dictionary_encode().take(pa.array(places, pa.int32()))


def lists_of_texts(values: Sequence[Sequence[str]], places: Sequence[int]) -> Any:
    """Return the column whose n-th list is `values[places[n]]`; the texts themselves are there once."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(found) for found in values], out=offsets[1:])
    items = pa.array([text for found in values for text in found], pa.string()).dictionary_encode()
    return pa.ListArray.from_arrays(pa.array(offsets), items).take(pa.array(places, pa.int32()))


def looked_up(values: Sequence[Any], places: Sequence[int], kind: Any) -> Any:
    """Return the column of Arrow type `kind` whose n-th value is `values[places[n]]`."""
    return pa.array(values, kind).take(pa.array(places, pa.int32()))
