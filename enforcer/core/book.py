"""The price book: an append-only fold of price entries, asked for the price at a time as known at a time.

Theory
------
A *series* is all entries of one kind, organisation, provider, model and name. Of the entries of a series that were
recorded at or before the asked recorded time, the one in force at a moment is the one that begins last at or before
it; of several that begin together, the one recorded last. If it ends before the moment, or is a withdrawal, the
series has no price then: an entry that ended does not come back. So every version is closed by the next one that
begins after it, a correction of the past changes no more than the version it corrects, and no two versions overlap.

Recorded times never go back: an entry that claims an earlier one than the entry before it counts as recorded with
that. So what was known at a recorded time does not change once the next entry is recorded.

Which series speaks: contract of the organisation, override of the organisation, the policy document's own price,
contract, override, self-hosted price of the deployment, imported list. Within one of these, an exact name comes
before a glob and a longer glob before a shorter one. Percentages are off the list price; where the list has none,
off the deployment's own price; where that has none either, they say nothing. Hours of the day are those in UTC.

Discounts by volume need the use of the whole month. As long as that is not known they say nothing, and the entry's
other discounts count; whoever knows it (`tollway reprice`, once the month is over) brings it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from typing import NamedTuple

from enforcer.core.discounts import discounted, negotiated
from schemas.money import Price
from schemas.prices import DAY_MINUTES, Kind, PriceEntry

FOR_EVER = 1 << 62
DAY_MS = DAY_MINUTES * 60_000
Series = tuple[str, str, str, str, str]
Use = Callable[[PriceEntry, int], int | None]
"""(entry, moment) → the use of the moment's month, in the unit of the entry's volume; None: it is not known."""
_OWN = (Kind.CONTRACT, Kind.OVERRIDE, Kind.SELF_HOSTED)
_DEPLOYMENT = (Kind.POLICY, Kind.CONTRACT, Kind.OVERRIDE, Kind.SELF_HOSTED, Kind.LIST)
_BASES = (Kind.LIST, Kind.POLICY, Kind.OVERRIDE, Kind.SELF_HOSTED)
_GLOB = frozenset("*?[")


class Held(NamedTuple):
    """An entry, and since when it is known here."""

    entry: PriceEntry
    known_ms: int


class Book:
    """All entries that were ever recorded."""

    def __init__(self) -> None:
        self.entries: dict[str, Held] = {}
        """By id, in the order of recording."""
        self.known_ms = 0
        """When the newest entry was recorded."""
        self._series: dict[Series, list[Held]] = {}
        self._globs: dict[tuple[str, str], list[Series]] = {}

    def append(self, entry: PriceEntry) -> bool:
        """Take in an entry; False if it is known already."""
        if entry.id in self.entries:
            return False
        self.known_ms = max(self.known_ms, entry.recorded_ms)
        held = Held(entry, self.known_ms)
        self.entries[entry.id] = held
        if entry.series not in self._series and _GLOB & {*entry.provider, *entry.model}:
            self._globs.setdefault((entry.kind, entry.org), []).append(entry.series)
        self._series.setdefault(entry.series, []).append(held)
        return True

    def copy(self) -> Book:
        """Return a book with the same entries, to try others in."""
        book = Book()
        book.entries, book.known_ms = dict(self.entries), self.known_ms
        book._series = {series: list(held) for series, held in self._series.items()}
        book._globs = {layer: list(series) for layer, series in self._globs.items()}
        return book

    def price_at(
        self, org: str, provider: str, model: str, at_ms: int, known_at_ms: int = FOR_EVER, name: str = ""
    ) -> Price | None:
        """Return the price of a request at `at_ms`, as the book knew it at `known_at_ms`; None if it has none.

        Args:
            org: whose request; empty for the price that an organisation without one of its own has.
            provider: by its name in the policy.
            model: the served model.
            at_ms: valid time: when the request was admitted, unix ms.
            known_at_ms: recorded time, inclusive; left out: all that is known now.
            name: the model's name in the policy, as the client sent it: some prices are of a name only.
        """
        found = self.said_at(org, provider, model, at_ms, known_at_ms, name)
        return None if found is None else found[1]

    def said_at(
        self, org: str, provider: str, model: str, at_ms: int, known_at_ms: int = FOR_EVER, name: str = "",
        use: Use | None = None,
    ) -> tuple[PriceEntry, Price] | None:  # fmt: skip
        """Return the entry that says the price, and the price, as `price_at` does with the same arguments.

        `use` is what discounts by volume go by; left out, it is not known.
        """
        base: Price | None = None
        has_base = False
        for kind, of in _layers(org):
            for entry in self._active(kind, of, provider, model, name, at_ms, known_at_ms):
                if kind in (Kind.POLICY, Kind.SELF_HOSTED, Kind.LIST):
                    own = entry.price_at(at_ms)
                    return None if own is None else (entry, own)
                if not has_base:
                    base, has_base = self._base(provider, model, name, at_ms, known_at_ms), True
                price = _priced(entry, base, at_ms, use)
                if price is not None:
                    return entry, price
        return None

    def list_entry(self, provider: str, model: str, at_ms: int, known_at_ms: int = FOR_EVER) -> PriceEntry | None:
        """Return the imported list's entry that is in force."""
        return next(iter(self._active(Kind.LIST, "", provider, model, "", at_ms, known_at_ms)), None)

    def series_of(self, kind: str) -> list[Series]:
        """Return all series of a kind."""
        return [series for series in self._series if series[0] == kind]

    def versions(self, series: Series) -> list[Held]:
        """Return all entries of a series in the order of recording."""
        return list(self._series.get(series, ()))

    def in_force(self, series: Series, at_ms: int, known_at_ms: int = FOR_EVER) -> PriceEntry | None:
        """Return the entry of a series that is in force, a withdrawal too; None outside of all."""
        found: Held | None = None
        for held in self._series.get(series, ()):
            entry = held.entry
            begun = entry.valid_from_ms <= at_ms and held.known_ms <= known_at_ms
            if begun and (found is None or entry.valid_from_ms >= found.entry.valid_from_ms):
                found = held
        if found is None or (found.entry.valid_to_ms is not None and found.entry.valid_to_ms <= at_ms):
            return None
        return found.entry

    def next_change_ms(self, after_ms: int) -> int | None:
        """Return the first moment after `after_ms` at which some entry begins or ends; None if there is none."""
        moments = (
            moment for held in self.entries.values() for moment in _moments(held.entry, after_ms) if moment > after_ms
        )
        return min(moments, default=None)

    def orgs(self) -> list[str]:
        """Return the organisations that have prices of their own."""
        return sorted({series[1] for series in self._series} - {""})

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self.entries)

    def _active(
        self, kind: str, org: str, provider: str, model: str, name: str, at_ms: int, known_at_ms: int
    ) -> Iterator[PriceEntry]:
        """Yield the entries in force that are about a model, of one kind and owner, the most specific first."""
        exact = [(kind, org, provider, model, name)] if name else []
        for series in (*exact, (kind, org, provider, model, ""), *self._matching(kind, org, provider, model, name)):
            entry = self.in_force(series, at_ms, known_at_ms)
            if entry is not None and not entry.is_withdrawal:
                yield entry

    def _matching(self, kind: str, org: str, provider: str, model: str, name: str) -> list[Series]:
        found = [
            series
            for series in self._globs.get((kind, org), ())
            if fnmatch.fnmatchcase(provider, series[2]) and fnmatch.fnmatchcase(model, series[3])
            and series[4] in ("", name)
        ]  # fmt: skip
        return sorted(found, key=lambda series: (-_literal(series[3]), -_literal(series[2]), series))

    def _base(self, provider: str, model: str, name: str, at_ms: int, known_at_ms: int) -> Price | None:
        """Return what percentages are off: the list price, or where there is none the deployment's own."""
        for kind in _BASES:
            for entry in self._active(kind, "", provider, model, name, at_ms, known_at_ms):
                if entry.price is not None:
                    return entry.price_at(at_ms)
        return None


def _layers(org: str) -> Iterator[tuple[Kind, str]]:
    if org:
        yield from ((kind, org) for kind in _OWN)
    yield from ((kind, "") for kind in _DEPLOYMENT)


def _literal(glob: str) -> int:
    """Return how much of a glob is literal; an exact name is more than any glob."""
    return len(glob) + 1_000 if not _GLOB & set(glob) else sum(letter not in _GLOB for letter in glob)


def _priced(entry: PriceEntry, base: Price | None, at_ms: int, use: Use | None) -> Price | None:
    """Return what a contract or an override makes of the list price; None if it has nothing to be off from."""
    own = entry.price_at(at_ms)
    if own is not None:
        return negotiated(own, base)
    if base is None:
        return None
    version = f"{entry.version}+{base.version.rpartition('#')[2]}"
    step = None if use is None or entry.volume is None else entry.volume.step(use(entry, at_ms))
    if step is None:
        return discounted(base, entry.discounts, entry.kind, version)
    return discounted(base, (*step.discounts, *entry.discounts), entry.kind, f"{version}@{step.above}")


def _moments(entry: PriceEntry, after_ms: int) -> Iterator[int]:
    """Yield moments after `after_ms` at which an entry begins or ends, or the first of each of its hours does."""
    yield entry.valid_from_ms
    if entry.valid_to_ms is not None:
        yield entry.valid_to_ms
    day_ms = after_ms - after_ms % DAY_MS
    for daily in entry.daily:
        for minute in (daily.from_minute, daily.to_minute):
            today_ms = day_ms + minute % DAY_MINUTES * 60_000
            yield today_ms if today_ms > after_ms else today_ms + DAY_MS
