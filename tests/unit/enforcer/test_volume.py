"""Volume discounts: a month's use decides, once the month is over, for all of the month."""

from __future__ import annotations

from typing import Any

import pytest

from enforcer.core.book import Book
from enforcer.core.price_changes import stamp_of
from enforcer.core.volume import closing, reached, volume_entries
from enforcer.prices import month_of
from schemas.prices import Discount, PriceEntry, Step, Volume
from tests.unit.enforcer.test_book import book_of, entry, usd

NOVEMBER, DECEMBER, JANUARY = (month for text in ("2026-11", "2026-12", "2027-01") if (month := month_of(text)))
VOLUME = Volume("tokens", (Step(1_000, (Discount(200_000),)), Step(5_000, (Discount(400_000),))))
START_MS, END_MS = NOVEMBER.start_ms, NOVEMBER.end_ms


def _book(**more: Any) -> tuple[Book, PriceEntry]:
    contract = entry("contract", 2, 5, org="acme", model="*", volume=VOLUME, **more)
    return book_of(entry("list", 1, 0, 100), contract), contract


def _close(book: Book, contract: PriceEntry, used: int, start_ms: int = START_MS, end_ms: int = END_MS) -> int:
    entries = closing(book, contract, start_ms, end_ms, used, stamp_of(book, end_ms + 9, "ada", "closed"))
    return sum(book.append(one) for one in entries)


def _costs(book: Book) -> list[int | None]:
    moments = (START_MS - 1, START_MS, END_MS - 1, END_MS)
    return [usd(book.price_at("acme", "main", "m", at_ms)) for at_ms in moments]


@pytest.mark.parametrize(("used", "costs"), [(1_000, 100), (1_001, 80), (5_000, 80), (5_001, 60), (10**9, 60)], ids=str)
def test_the_step_that_was_reached_prices_the_whole_month(used: int, costs: int) -> None:
    """And no moment before or after it: the next month begins without volume discounts, like this one did."""
    book, contract = _book()
    assert _costs(book) == [100, 100, 100, 100]
    assert _close(book, contract, used) == 2
    assert _costs(book) == [100, costs, costs, 100]


def test_closing_again_changes_nothing_unless_the_use_is_another() -> None:
    """Late usage that reaches the next step corrects the month; the next month is not touched."""
    book, contract = _book()
    assert [_close(book, contract, used) for used in (2_000, 2_000, 3_000, 6_000, 6_000)] == [2, 0, 0, 1, 0]
    assert _costs(book) == [100, 60, 60, 100]


def test_months_are_closed_one_after_the_other() -> None:
    """Each has its own step, and the contract goes on after the last one."""
    book, contract = _book(discounts=(Discount(100_000),))
    assert _close(book, contract, 6_000) == 2
    (again,) = volume_entries(book)
    assert _close(book, again, 2_000, DECEMBER.start_ms, DECEMBER.end_ms) == 2
    moments = (START_MS - 1, START_MS, DECEMBER.start_ms, JANUARY.start_ms)
    assert [usd(book.price_at("acme", "main", "m", at_ms)) for at_ms in moments] == [90, 60, 80, 90]


def test_a_contract_that_ends_within_the_month_ends_there() -> None:
    """Nothing is closed beyond its end, and nothing before its beginning."""
    middle = (START_MS + END_MS) // 2
    book, contract = _book(valid_to_ms=middle)
    _close(book, contract, 6_000)
    found = [usd(book.price_at("acme", "main", "m", at_ms)) for at_ms in (START_MS, middle - 1, middle)]
    assert found == [60, 60, 100]
    early = entry("contract", 3, END_MS, org="beta", volume=VOLUME)
    book.append(early)
    assert _close(book, early, 6_000) == 0


def test_what_is_below_the_first_step_has_the_plain_discounts() -> None:
    """Above means more than."""
    plain = (Discount(50_000),)
    assert [reached(VOLUME, plain, used) for used in (0, 1_000, 1_001)] == [plain, plain, VOLUME.steps[0].discounts]


@pytest.mark.parametrize("text", ["2026-13", "2026", "november", "2026-1-1"])
def test_what_is_no_month_is_none(text: str) -> None:
    """Months are calendar months in UTC."""
    assert month_of(text) is None
    assert (DECEMBER.start_ms, JANUARY.start_ms) == (END_MS, DECEMBER.end_ms)
