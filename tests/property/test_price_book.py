"""Laws of the price book: append-only, answers as of a time never change, versions neither overlap nor leave gaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enforcer.core.book import Book
from schemas.money import Price, Rates
from schemas.prices import Discount, Kind, PriceEntry

TIMES = st.integers(0, 60)
ORGS = st.sampled_from(["", "acme"])
MODELS = st.sampled_from(["m", "n", "m*", "*"])
NAMES = st.sampled_from(["m", "n"])


def _price(rate: int) -> Price:
    return Price("test", "", (Rates(0, rate, rate, rate, rate, rate, rate, rate, rate),))


@st.composite
def entries(draw: st.DrawFn) -> PriceEntry:
    """Return an entry of some series: absolute, a percentage, or a withdrawal, open or with an end."""
    kind = draw(st.sampled_from([kind.value for kind in Kind]))
    start = draw(TIMES)
    percentage = kind == Kind.CONTRACT and draw(st.booleans())
    return PriceEntry(
        id="", kind=kind, provider="p", model=draw(MODELS), valid_from_ms=start, recorded_ms=draw(TIMES),
        recorded_by="ada", org=draw(ORGS) if kind in (Kind.CONTRACT, Kind.OVERRIDE) else "",
        valid_to_ms=draw(st.none() | st.integers(start + 1, 80)),
        price=None if percentage or draw(st.integers(0, 4)) == 0 else _price(draw(st.integers(1, 1_000))),
        discounts=(Discount(draw(st.integers(0, 1_000_000))),) if percentage else (),
    ).sealed()  # fmt: skip


def _book(found: list[PriceEntry]) -> Book:
    book = Book()
    for entry in found:
        book.append(entry)
    return book


@given(st.lists(entries(), max_size=12), st.lists(entries(), max_size=6), ORGS, NAMES, TIMES)
def test_what_was_known_does_not_change(
    before: list[PriceEntry], later: list[PriceEntry], org: str, model: str, at_ms: int
) -> None:
    """Whatever is recorded later, a question as of an earlier recorded time has the same answer."""
    book = _book(before)
    asked = [known for known in range(-1, 61, 4) if known < book.known_ms]
    answers = [book.price_at(org, "p", model, at_ms, known) for known in asked]
    ids = list(book.entries)
    for entry in later:
        book.append(entry)
    assert [book.price_at(org, "p", model, at_ms, known) for known in asked] == answers
    assert list(book.entries)[: len(ids)] == ids


@given(st.lists(entries(), max_size=12), ORGS, NAMES, TIMES)
def test_reading_the_topic_again_gives_the_same_book(found: list[PriceEntry], org: str, model: str, at_ms: int) -> None:
    """Entries that come twice, and a topic that is read from its beginning, change nothing."""
    book, again = _book(found), _book([*found, *found])
    assert list(book.entries) == list(again.entries)
    assert book.price_at(org, "p", model, at_ms) == again.price_at(org, "p", model, at_ms)


@given(st.lists(entries(), min_size=1, max_size=12), TIMES)
def test_at_each_moment_the_version_that_began_last_speaks(found: list[PriceEntry], at_ms: int) -> None:
    """Against the definition: of all that began, the last beginning, of those the last recorded; unless it ended."""
    book = _book(found)
    for series in {entry.series for entry in found}:
        begun = [held.entry for held in book.versions(series) if held.entry.valid_from_ms <= at_ms]
        expected = None
        if begun:
            last = max(entry.valid_from_ms for entry in begun)
            expected = [entry for entry in begun if entry.valid_from_ms == last][-1]
            if expected.valid_to_ms is not None and expected.valid_to_ms <= at_ms:
                expected = None
        assert book.in_force(series, at_ms) == expected


@given(st.lists(entries(), max_size=10), ORGS, NAMES)
def test_prices_change_only_at_the_moments_that_are_announced(found: list[PriceEntry], org: str, model: str) -> None:
    """Between two changes that the book names, every moment has the same price: no gap and no overlap is invented."""
    book = _book(found)
    at_ms, price = 0, book.price_at(org, "p", model, 0)
    change = book.next_change_ms(0)
    for at_ms in range(1, 85):
        now = book.price_at(org, "p", model, at_ms)
        if at_ms == change:
            change = book.next_change_ms(at_ms)
        else:
            assert now == price, at_ms
        price = now
    assert change is None
