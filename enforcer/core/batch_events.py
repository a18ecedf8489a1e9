"""What a batch, or a line of one, is as an event of usage. Pure.

The event belongs to whom the batch belongs to, with the model that served it. Its id follows from the provider, the
batch and the line, so that the same usage is the same event wherever it was seen.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from enforcer.core.adjustments import MAX_TEXT, derived_id
from enforcer.core.batch_terms import MINUTE_S, Served, Terms
from schemas.batches import BatchSeen, Book, Line
from schemas.codec import decode_attribution, encode_attribution, encode_rows
from schemas.flags import BATCH_FOUND, BATCH_TOTAL, unpriced_flags
from schemas.ids import NO_ID
from schemas.money import Price, cost_nanos, is_priced
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import Detail, Kind, Status, UsageEvent, UsageSource

TIER = "batch"
"""The service tier of what does not say one."""
FREE = frozenset({"moderations"})
"""Operations that cost nothing where no usage is told, as in live answers."""
OPERATION = "batches"
"""Of what does not say one."""
HOUR_MS = 3_600_000
BEFORE_SEEN_MS = 48 * HOUR_MS
"""Nothing of a batch was answered longer than this before we first saw it, whatever it says."""
BOOKED_MS = 47 * HOUR_MS
"""Rows are those of the moment, or of this long ago where that is later: the meter keeps rows for two days after their
windows, and what is booked to an older one would count in no limit."""
_MAX_MODEL = 256


class Usage(NamedTuple):
    """What is charged with one event."""

    id: bytes
    kind: Kind
    stands_for: int
    operation: str
    reported: str
    usage: TokenUsage | None
    occurred_ms: int
    service_tier: str
    units: dict[str, int]
    flags: tuple[str, ...]


def of_line(book: Book, line: Line, seen_ms: int) -> Usage:
    """Return what a line of a batch has used."""
    return Usage(
        derived_id("batch", book.provider, book.batch_id, line.id.hex()), Kind.USAGE, 1,
        line.operation or book.operation or OPERATION, line.model or book.model, line.usage,
        line.occurred_ms or book.ended_ms or seen_ms, line.service_tier or TIER, line.units, line.flags,
    )  # fmt: skip


def of_total(book: Book, seen: BatchSeen, usage: TokenUsage) -> Usage:
    """Return what a batch has used in all."""
    return Usage(
        derived_id("batch", book.provider, book.batch_id, "total"), Kind.FOLDED, max(1, seen.requests),
        book.operation or OPERATION, seen.model or book.model, usage, book.ended_ms or seen.seen_ms, TIER, {},
        (*seen.flags, BATCH_TOTAL),
    )  # fmt: skip


def is_summable(terms: Terms, book: Book, reported: str) -> bool:
    """Tell whether a sum over answers has a cost: not where that depends on how long each prompt was.

    A batch whose model is not told is charged by its lines, which tell it.
    """
    owner = decode_attribution(book.attribution)
    price = terms.price(owner.org, terms.served(book.provider, reported, owner.model_requested).name)
    tiers = () if price is None else price.variants.get(TIER, price.tiers)
    return bool(reported) and len(tiers) <= 1


class Writer:
    """Makes the events of one batch."""

    def __init__(self, book: Book, terms: Terms, now_ms: int) -> None:
        self._book, self._terms, self._now_ms = book, terms, now_ms
        self._owner = decode_attribution(book.attribution)
        self._request_id = derived_id("batch", book.provider, book.batch_id)
        self._heads: dict[tuple[Served, str], msgspec.Raw] = {}
        self._rows: dict[tuple[Served, str, int], msgspec.Raw] = {}

    @property
    def org(self) -> str:
        """The organisation that the batch belongs to."""
        return self._owner.org

    def event(self, used: Usage) -> UsageEvent:
        """Return usage as an event."""
        served = self._terms.served(self._book.provider, used.reported[:_MAX_MODEL], self._owner.model_requested)
        price = self._terms.price(self._owner.org, served.name)
        tokens = NO_TOKENS if used.usage is None else used.usage
        cost, charge = self._amounts(price, used)
        flags = used.flags if self._book.is_owned else (*used.flags, BATCH_FOUND)
        if used.usage is not None:
            flags = (*flags, *(unpriced_flags(price, tokens, used.units) if cost is None else ()))
        detail = Detail(
            used.units, used.service_tier, _list_nanos(price, used), flags, used.kind.value, used.stands_for,
            note=f"batch {self._book.batch_id}"[:MAX_TEXT],
        )  # fmt: skip
        occurred_ms = self._moment(used.occurred_ms)
        source = UsageSource.UNKNOWN if used.usage is None else UsageSource.PROVIDER
        return UsageEvent(
            used.id, self._request_id, 1, Status.SETTLED.value, used.operation, occurred_ms, 0, -1, 200, False,
            source.value, tokens, cost, used.stands_for, tokens.total, charge, used.reported[:_MAX_MODEL], "", NO_ID,
            self._head(served, price), self._rows_of(served, used.operation, occurred_ms), detail,
        )  # fmt: skip

    def _amounts(self, price: Price | None, used: Usage) -> tuple[int | None, int]:
        """Return the cost, None where it is not known, and what rows of money are charged."""
        if used.operation in FREE and used.usage is not None and not (used.usage.total or used.units):
            return 0, 0
        if used.usage is not None and price is not None and is_priced(price, used.usage, used.units):
            cost = _nanos(price, used)
            return cost, cost
        return None, _nanos(self._terms.reserve(price), used)

    def _moment(self, told_ms: int) -> int:
        return min(max(told_ms, self._book.first_seen_ms - BEFORE_SEEN_MS, 0), self._now_ms)

    def _head(self, served: Served, price: Price | None) -> msgspec.Raw:
        version = "" if price is None else price.version
        key = (served, version)
        found = self._heads.get(key)
        if found is None:
            whose = msgspec.structs.replace(
                self._owner, provider=self._book.provider, model=served.model,
                model_requested=served.name or served.model, policy_version=self._terms.version, price_version=version,
            )  # fmt: skip
            found = self._heads[key] = encode_attribution(whose)
        return found

    def _rows_of(self, served: Served, operation: str, occurred_ms: int) -> msgspec.Raw:
        minute = max(occurred_ms, self._now_ms - BOOKED_MS) // 1000 // MINUTE_S
        key = (served, operation, minute)
        found = self._rows.get(key)
        if found is None:
            owner = msgspec.structs.replace(self._owner, provider=self._book.provider, model=served.model)
            found = self._rows[key] = encode_rows(self._terms.rows(owner, operation, minute * MINUTE_S))
        return found


def _nanos(price: Price, used: Usage) -> int:
    """Return what usage costs by a price that knows all of it, what each request costs included."""
    tokens = NO_TOKENS if used.usage is None else used.usage
    return cost_nanos(price, tokens, used.units, used.service_tier) + price.request_nanos * (used.stands_for - 1)


def _list_nanos(price: Price | None, used: Usage) -> int | None:
    listed = None if price is None else price.listed
    if listed is None or used.usage is None or not is_priced(listed, used.usage, used.units):
        return None
    return _nanos(listed, used)
