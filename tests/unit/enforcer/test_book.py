"""The price book: which entry speaks for a request, as it was known at a time."""

from __future__ import annotations

from typing import Any

import pytest

from enforcer.core.book import Book
from schemas.money import Price, Rates, cost_nanos
from schemas.prices import Daily, Discount, PriceEntry
from schemas.tokens import TokenUsage

HOUR_MS = 3_600_000
MILLION = TokenUsage(input=1_000_000)


def price(usd: int, version: str = "", **more: Any) -> Price:
    """Return a price of `usd` per million input tokens and five times as much for output."""
    femtos = usd * 10**9
    return Price(
        "test", version, (Rates(0, femtos, femtos, femtos, femtos, 5 * femtos, 5 * femtos, femtos, 5 * femtos),), **more
    )


def entry(kind: str, recorded_ms: int, valid_from_ms: int = 0, usd: int | None = None, **more: Any) -> PriceEntry:
    """Return a sealed entry for `main/m`."""
    said = {"id": "", "provider": "main", "model": "m", "recorded_by": "ada", **more}
    if usd is not None:
        said["price"] = price(usd)
    return PriceEntry(kind=kind, recorded_ms=recorded_ms, valid_from_ms=valid_from_ms, **said).sealed()


def book_of(*entries: PriceEntry) -> Book:
    """Return a book with entries in the order of recording."""
    book = Book()
    for one in entries:
        assert book.append(one)
    return book


def usd(found: Price | None) -> int | None:
    """Return what a million input tokens cost, in USD."""
    return None if found is None else cost_nanos(found, MILLION) // 10**9


def test_who_speaks_first() -> None:
    """Contract of the organisation, its override, the policy, the deployment's own, the list: one after the other."""
    layers = [
        entry("list", 1, usd=1),
        entry("self-hosted", 2, usd=2),
        entry("override", 3, usd=3),
        entry("contract", 4, usd=4),
        entry("policy", 5, usd=5),
        entry("override", 6, usd=6, org="acme"),
        entry("contract", 7, usd=7, org="acme"),
    ]
    book = Book()
    seen = []
    for layer in layers:
        book.append(layer)
        seen.append((usd(book.price_at("acme", "main", "m", 10)), usd(book.price_at("other", "main", "m", 10))))
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 5), (7, 5)]
    assert book.price_at("acme", "main", "other", 10) is None
    assert book.price_at("acme", "else", "m", 10) is None


def test_a_version_ends_where_the_next_one_begins_and_both_stay_known() -> None:
    """Valid time: the price of the day of the request."""
    book = book_of(entry("list", 5, 0, 1), entry("list", 6, 100, 2), entry("list", 7, 200, 3))
    assert [usd(book.price_at("", "main", "m", at)) for at in (0, 99, 100, 199, 200, 10**15)] == [1, 1, 2, 2, 3, 3]


def test_a_correction_of_the_past_leaves_later_versions_alone() -> None:
    """It begins where the wrong version began, so it ends where that one ended."""
    book = book_of(entry("list", 5, 0, 1), entry("list", 6, 100, 2), entry("list", 300, 0, 9))
    assert [usd(book.price_at("", "main", "m", at)) for at in (0, 99, 100)] == [9, 9, 2]
    assert [usd(book.price_at("", "main", "m", at, known_at_ms=299)) for at in (0, 99, 100)] == [1, 1, 2]


def test_an_entry_that_ended_does_not_come_back() -> None:
    """After its end the next kind of price speaks, not the version before it."""
    book = book_of(
        entry("list", 1, 0, 1), entry("contract", 2, 0, 4, org="acme"),
        entry("contract", 3, 100, 5, org="acme", valid_to_ms=200),
    )  # fmt: skip
    assert [usd(book.price_at("acme", "main", "m", at)) for at in (99, 100, 199, 200)] == [4, 5, 5, 1]


def test_a_withdrawal_ends_a_series() -> None:
    """From its moment on the next kind of price speaks."""
    book = book_of(entry("list", 1, 0, 1), entry("override", 2, 0, 3), entry("override", 3, 50))
    assert [usd(book.price_at("", "main", "m", at)) for at in (49, 50)] == [3, 1]


def test_a_name_comes_before_a_glob_and_a_longer_glob_before_a_shorter() -> None:
    """Within one kind and owner."""
    percent = (Discount(100_000),)
    book = book_of(
        entry("list", 1, 0, 100), entry("list", 1, 0, 100, model="mini"), entry("list", 1, 0, 100, model="maxi"),
        entry("contract", 2, model="*", discounts=(Discount(500_000),)),
        entry("contract", 3, model="m*", discounts=(Discount(300_000),)),
        entry("contract", 4, model="mini", discounts=percent), entry("contract", 5, model="ma*i", discounts=percent),
    )  # fmt: skip
    found = {name: usd(book.price_at("", "main", name, 10)) for name in ("m", "mini", "maxi")}
    assert found == {"m": 70, "mini": 90, "maxi": 90}


def test_a_price_of_a_name_is_of_that_name_only() -> None:
    """Two names of the policy serve one model at two prices."""
    book = book_of(
        entry("list", 1, 0, 1), entry("policy", 2, 0, 2, name="cheap"), entry("policy", 3, 0, 3, name="dear")
    )
    asked = {name: usd(book.price_at("", "main", "m", 9, name=name)) for name in ("cheap", "dear", "plain", "")}
    assert asked == {"cheap": 2, "dear": 3, "plain": 1, "": 1}


def test_a_percentage_is_off_the_list_price_of_the_day() -> None:
    """When the list changes, so does what the contract makes of it; the list price stays beside, and both are named."""
    contract = entry("contract", 3, org="acme", discounts=(Discount(150_000),))
    first, second = entry("list", 1, 0, 100), entry("list", 2, 50, 200)
    book = book_of(first, second, contract)
    before, after = (book.price_at("acme", "main", "m", at) for at in (49, 50))
    assert (usd(before), usd(after)) == (85, 170)
    assert before is not None
    assert after is not None
    assert (usd(before.listed), usd(after.listed)) == (100, 200)
    assert before.version == f"contract#{contract.id}+{first.id}"
    assert after.version == f"contract#{contract.id}+{second.id}"


def test_a_percentage_of_nothing_says_nothing() -> None:
    """Without a list price the deployment's own is taken; without that the model has none."""
    contract = entry("contract", 1, org="acme", model="*", discounts=(Discount(500_000),))
    assert book_of(contract).price_at("acme", "main", "m", 9) is None
    assert usd(book_of(contract, entry("self-hosted", 2, 0, 10)).price_at("acme", "main", "m", 9)) == 5


@pytest.mark.parametrize(
    ("discount", "expected"),
    [
        (Discount(500_000), (50, 250, 5, 25, 2)),
        (Discount(500_000, of=("output",)), (100, 250, 10, 25, 4)),
        (Discount(500_000, of=("web_search",)), (100, 500, 10, 50, 2)),
        (Discount(500_000, service_tiers=("flex",)), (100, 500, 5, 25, 4)),
        (Discount(500_000, service_tiers=("standard",)), (50, 250, 10, 50, 2)),
    ],
)
def test_what_a_discount_is_off(discount: Discount, expected: tuple[int, ...]) -> None:
    """By class, unit and service tier; and what it does not name keeps the list price."""
    flex = price(10).tiers
    listed = price(100, units={"web_search": 4 * 10**15}, variants={"flex": flex})
    book = book_of(
        entry("list", 1, 0, price=listed), entry("contract", 2, org="acme", discounts=(discount,))
    )  # fmt: skip
    found = book.price_at("acme", "main", "m", 9)
    assert found is not None
    output = TokenUsage(output=1_000_000)
    costs = [
        cost_nanos(found, MILLION), cost_nanos(found, output), cost_nanos(found, MILLION, None, "flex"),
        cost_nanos(found, output, None, "flex"), cost_nanos(found, TokenUsage(), {"web_search": 1}),
    ]  # fmt: skip
    assert tuple(cost // 10**9 for cost in costs) == expected


def test_units_that_a_contract_does_not_name_cost_what_the_list_says() -> None:
    """Tokens were negotiated, searches were not."""
    listed = price(100, units={"web_search": 10**13, "audio_ms": 36 * 10**11}, per={"audio_ms": HOUR_MS})
    book = book_of(
        entry("list", 1, 0, price=listed),
        entry("contract", 2, org="acme", price=price(7, units={"audio_ms": 10**6})),
    )  # fmt: skip
    found = book.price_at("acme", "main", "m", 9)
    assert found is not None
    assert (found.units, found.per) == ({"web_search": 10**13, "audio_ms": 10**6}, {})


def test_hours_of_the_day_have_their_price() -> None:
    """From the first minute of the hours to the last; the version is that of the entry."""
    one = entry("list", 1, 0, 1, daily=(Daily(60, 240, price(2)), Daily(1_380, 30, price(3))))
    book = book_of(one)
    minutes = (29, 30, 59, 60, 239, 240, 1_379, 1_380, 1_439)
    found = [usd(book.price_at("", "main", "m", 10 * 24 * HOUR_MS + minute * 60_000)) for minute in minutes]
    assert found == [3, 1, 1, 2, 2, 1, 1, 3, 3]
    assert book.next_change_ms(24 * HOUR_MS) == 24 * HOUR_MS + 30 * 60_000
    assert book.next_change_ms(24 * HOUR_MS + 1_380 * 60_000) == 48 * HOUR_MS + 30 * 60_000


def test_the_next_change_is_the_next_beginning_or_end() -> None:
    """So that prices are resolved again in time."""
    book = book_of(entry("list", 1, 100, 1), entry("override", 2, 50, 3, valid_to_ms=300))
    assert [book.next_change_ms(at) for at in (0, 50, 100, 300)] == [50, 100, 300, None]


def test_an_entry_is_taken_in_once() -> None:
    """The topic may be read twice, and an id is a digest: other content is another entry."""
    one = entry("list", 1, 0, 1)
    book = book_of(one)
    assert not book.append(one)
    assert len(book) == 1
    assert entry("list", 1, 0, 2).id != one.id


def test_recorded_times_never_go_back() -> None:
    """A clock that fell behind cannot change what was known."""
    book = book_of(entry("list", 100, 0, 1))
    before = book.price_at("", "main", "m", 5, known_at_ms=99), book.price_at("", "main", "m", 5, known_at_ms=100)
    book.append(entry("list", 40, 0, 2))
    assert book.price_at("", "main", "m", 5, known_at_ms=99) is before[0] is None
    assert book.known_ms == 100


def test_what_is_tried_in_a_copy_stays_there() -> None:
    """A dry run records nothing."""
    book = book_of(entry("list", 1, 0, 1))
    tried = book.copy()
    tried.append(entry("override", 2, 0, 5, model="*"))
    assert (usd(book.price_at("", "main", "m", 9)), usd(tried.price_at("", "main", "m", 9))) == (1, 5)
    assert len(book) == 1
