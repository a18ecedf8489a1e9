"""The prices of past moments, each looked up once as long as no price begins or ends, and no month does.

Discounts by volume need the use of a whole month. `count` adds it up, event by event, before anything is priced; months
that are not over have no use yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from deploy.api import Api
from enforcer.core.book import FOR_EVER, Book, Series
from enforcer.core.repricing import PastCost
from schemas.codec import decode_json
from schemas.money import Price, cost_nanos
from schemas.prices import PriceEntry

MOST_KEPT = 100_000
Said = tuple[PriceEntry, Price]


class Prices:
    """A price book as it was known at a time. Events have to come in the order of admission to be quick.

    Args:
        entries: in the order of recording.
        known_at_ms: None: as it is known now.
        now_ms: which months are over.
    """

    def __init__(self, entries: Iterable[PriceEntry], known_at_ms: int | None = None, now_ms: int = FOR_EVER) -> None:
        self._book = Book()
        self._names: dict[tuple[str, str], list[str]] = {}
        self._name_of: dict[str, str] = {}
        self.has_volumes = False
        """Whether some prices depend on the use of a month."""
        for entry in entries:
            self._book.append(entry)
            self.has_volumes |= entry.volume is not None
            if entry.name:
                self._name_of[entry.version] = entry.name
                names = self._names.setdefault((entry.provider, entry.model), [])
                names += [] if entry.name in names else [entry.name]
        self._known_at_ms = FOR_EVER if known_at_ms is None else known_at_ms
        self._now_ms = now_ms
        self._begin_ms, self._end_ms = 0, 0
        self._found: dict[tuple[str, str, str, str], Said | None] = {}
        self._uses: dict[tuple[Series, int], int] = {}

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._book)

    def of(self, event: PastCost) -> Price | None:
        """Return the price of an event at its admission; None if it has none."""
        found = self._said(event)
        return None if found is None else found[1]

    def count(self, event: PastCost) -> None:
        """Add an event to the use of its month."""
        found = self._said(event)
        if found is None or found[0].volume is None:
            return
        entry, price = found
        used = event.usage.total
        if found[0].volume.by == "usd":
            used = cost_nanos(price.listed or price, event.usage, event.units, event.service_tier)
        key = (entry.series, months_of(event.occurred_ms, event.occurred_ms)[0])
        self._uses[key] = self._uses.get(key, 0) + used

    def counted(self) -> None:
        """Take that the use of all months in question has been counted."""
        self._begin_ms, self._end_ms = 0, 0

    def _said(self, event: PastCost) -> Said | None:
        if not self._begin_ms <= event.occurred_ms < self._end_ms:
            self._found.clear()
            self._begin_ms = event.occurred_ms
            month_end_ms = months_of(event.occurred_ms, event.occurred_ms)[1]
            self._end_ms = min(self._book.next_change_ms(event.occurred_ms) or FOR_EVER, month_end_ms)
        key = (event.org, event.provider, event.model, self._name(event))
        if key not in self._found:
            if len(self._found) >= MOST_KEPT:
                self._found.clear()
            org, provider, model, name = key
            self._found[key] = self._book.said_at(
                org, provider, model, event.occurred_ms, self._known_at_ms, name, self._use
            )
        return self._found[key]

    def _use(self, entry: PriceEntry, at_ms: int) -> int | None:
        begin, end = months_of(at_ms, at_ms)
        return None if end > self._now_ms else self._uses.get((entry.series, begin))

    def _name(self, event: PastCost) -> str:
        """Return the model's name in the policy. It is not what the client asked for where another model served it."""
        asked, names = event.model_requested, self._names.get((event.provider, event.model), [])
        if asked in names or not names:
            return asked
        return self._name_of.get(event.price_version, names[0])


def months_of(since_ms: int, until_ms: int) -> tuple[int, int]:
    """Return the bounds of the whole months (UTC) that a time touches, both of its ends included."""
    begin = datetime.fromtimestamp(since_ms / 1000, UTC)
    last = datetime.fromtimestamp(until_ms / 1000, UTC)
    end = datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=UTC)
    return int(datetime(begin.year, begin.month, 1, tzinfo=UTC).timestamp()) * 1000, int(end.timestamp()) * 1000


def read(enforcer: Api, known_at_ms: int | None, now_ms: int) -> Prices:
    """Return the deployment's price book as it was known at a time. Raises as `Api.call` does."""
    lines = enforcer.lines("/v1/prices/book").splitlines()
    return Prices((decode_json(PriceEntry, line) for line in lines if line), known_at_ms, now_ms)
