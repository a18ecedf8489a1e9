"""The prices of past moments, each looked up once as long as no price begins or ends."""

from __future__ import annotations

from collections.abc import Iterable

from enforcer.core.book import FOR_EVER, Book
from enforcer.core.repricing import PastCost
from schemas.money import Price
from schemas.prices import PriceEntry

UNKNOWN = object()


class Prices:
    """A price book as it was known at a time. Events have to come in the order of admission to be quick."""

    def __init__(self, entries: Iterable[PriceEntry], known_at_ms: int | None = None) -> None:
        self._book = Book()
        for entry in entries:
            self._book.append(entry)
        self._known_at_ms = FOR_EVER if known_at_ms is None else known_at_ms
        self._begin_ms, self._end_ms = 0, 0
        self._found: dict[tuple[str, str, str, str], Price | None] = {}

    def of(self, event: PastCost) -> Price | None:
        """Return the price of an event at its admission; None if it has none."""
        if not self._begin_ms <= event.occurred_ms < self._end_ms:
            self._found.clear()
            self._begin_ms = event.occurred_ms
            self._end_ms = self._book.next_change_ms(event.occurred_ms) or FOR_EVER
        key = (event.org, event.provider, event.model, event.model_requested)
        if key not in self._found:
            if len(self._found) > 100_000:  # names that clients send
                self._found.clear()
            self._found[key] = self._book.price_at(
                event.org, event.provider, event.model, event.occurred_ms, self._known_at_ms, event.model_requested
            )
        return self._found[key]
