"""The prices of past moments, each looked up once as long as no price begins or ends."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.api import Api
from enforcer.core.book import FOR_EVER, Book
from enforcer.core.repricing import PastCost
from schemas.codec import decode_json
from schemas.money import Price
from schemas.prices import PriceEntry

MOST_KEPT = 100_000


class Prices:
    """A price book as it was known at a time. Events have to come in the order of admission to be quick."""

    def __init__(self, entries: Iterable[PriceEntry], known_at_ms: int | None = None) -> None:
        self._book = Book()
        self._names: dict[tuple[str, str], list[str]] = {}
        self._name_of: dict[str, str] = {}
        for entry in entries:
            self._book.append(entry)
            if entry.name:
                self._name_of[entry.version] = entry.name
                names = self._names.setdefault((entry.provider, entry.model), [])
                names += [] if entry.name in names else [entry.name]
        self._known_at_ms = FOR_EVER if known_at_ms is None else known_at_ms
        self._begin_ms, self._end_ms = 0, 0
        self._found: dict[tuple[str, str, str, str], Price | None] = {}

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._book)

    def of(self, event: PastCost) -> Price | None:
        """Return the price of an event at its admission; None if it has none."""
        if not self._begin_ms <= event.occurred_ms < self._end_ms:
            self._found.clear()
            self._begin_ms = event.occurred_ms
            self._end_ms = self._book.next_change_ms(event.occurred_ms) or FOR_EVER
        key = (event.org, event.provider, event.model, self._name(event))
        if key not in self._found:
            if len(self._found) >= MOST_KEPT:
                self._found.clear()
            org, provider, model, name = key
            self._found[key] = self._book.price_at(org, provider, model, event.occurred_ms, self._known_at_ms, name)
        return self._found[key]

    def _name(self, event: PastCost) -> str:
        """Return the model's name in the policy. It is not what the client asked for where another model served it."""
        asked, names = event.model_requested, self._names.get((event.provider, event.model), [])
        if asked in names or not names:
            return asked
        return self._name_of.get(event.price_version, names[0])


def read(enforcer: Api, known_at_ms: int | None) -> Prices:
    """Return the deployment's price book as it was known at a time. Raises as `Api.call` does."""
    lines = enforcer.lines("/v1/prices/book").splitlines()
    return Prices((decode_json(PriceEntry, line) for line in lines if line), known_at_ms)
