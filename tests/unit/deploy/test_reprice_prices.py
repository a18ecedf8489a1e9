"""Prices of past moments: by the book as it was known, by the name that was served, by the use of whole months."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from deploy.reprice.prices import Prices, months_of
from enforcer.core.repricing import PastCost
from schemas.money import Price
from schemas.prices import Discount, Kind, PriceEntry, Step, Volume
from schemas.tokens import TokenUsage
from tests.unit.enforcer.repricing_parts import past, price, rates


def at(text: str) -> int:
    """Return a moment in unix milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def entry(kind: Kind, **fields: Any) -> PriceEntry:
    """Return an entry about the model of these tests."""
    values: dict[str, Any] = {
        "id": "", "kind": kind.value, "provider": "openai", "model": "gpt-4o-mini", "valid_from_ms": 0,
        "recorded_ms": at("2026-01-01"), "recorded_by": "ann",
    }  # fmt: skip
    return PriceEntry(**{**values, **fields}).sealed()


LIST = entry(Kind.LIST, price=price("list", rates(input=10, output=20)))
CONTRACT = entry(
    Kind.CONTRACT, org="acme", discounts=(Discount(100_000),), recorded_ms=at("2026-02-01"),
    volume=Volume("tokens", (Step(1_000, (Discount(200_000),)), Step(5_000, (Discount(500_000),)))),
)  # fmt: skip


def used(moment: str, tokens: int = 400, **fields: Any) -> PastCost:
    """Return an event of so many input tokens."""
    return past(occurred_ms=at(moment), usage=TokenUsage(tokens), **fields)


def rate(found: Price | None) -> int:
    """Return what a million input tokens cost, in whole USD."""
    assert found is not None
    return found.tiers[0].input // 10**9


def test_the_book_is_asked_for_the_moment_as_it_was_known() -> None:
    """An override of a part of the year, and one that was not known yet."""
    dear = entry(Kind.OVERRIDE, price=price("o", rates(input=99)), valid_from_ms=at("2026-03-01"),
                 valid_to_ms=at("2026-04-01"), recorded_ms=at("2026-06-01"))  # fmt: skip
    now = Prices([LIST, dear])
    assert [rate(now.of(used(day))) for day in ("2026-02-28", "2026-03-01", "2026-03-31", "2026-04-01")] == [
        10, 99, 99, 10
    ]  # fmt: skip
    assert rate(Prices([LIST, dear], at("2026-05-01")).of(used("2026-03-05"))) == 10
    assert Prices([LIST, dear], at("2025-05-01")).of(used("2026-03-05")) is None


def test_a_price_of_a_name_is_that_of_the_model_that_served() -> None:
    """What the client asked for is another name where it was sent to a cheaper model."""
    one = entry(Kind.POLICY, name="mini", price=price("a", rates(input=1)))
    other = entry(Kind.POLICY, name="small", price=price("b", rates(input=2)))
    prices = Prices([LIST, one, other])
    assert rate(prices.of(used("2026-03-05", model_requested="small"))) == 2
    assert rate(prices.of(used("2026-03-05", model_requested="big", price_version=other.version))) == 2
    assert rate(prices.of(used("2026-03-05", model_requested="big", price_version=""))) == 1


def test_discounts_by_volume_go_by_the_use_of_whole_months_that_are_over() -> None:
    """10 % for all, 20 % for a month of more than 1,000 tokens, 50 % above 5,000; nothing more before its end."""
    prices = Prices([LIST, CONTRACT], now_ms=at("2026-06-15"))
    assert prices.has_volumes
    events = [used("2026-03-01"), used("2026-03-31T23:59:59"), used("2026-03-15", 201)]
    events += [used("2026-04-01", 1_000), used("2026-05-10", 5_001), used("2026-06-01", 9_000)]
    events += [used("2026-04-02", 90_000, org="globex")]
    for event in sorted(events, key=lambda event: event.occurred_ms):
        prices.count(event)
    prices.counted()
    found = {day: prices.of(used(day)) for day in ("2026-03-20", "2026-04-20", "2026-05-20", "2026-06-02")}
    assert [rate(price) for price in found.values()] == [8, 9, 5, 9]
    versions = {price.version for price in found.values() if price is not None}
    assert len(versions) == 3
    assert all(price is not None and price.listed is not None for price in found.values())
    assert rate(prices.of(used("2026-04-20", org="globex"))) == 10


def test_volume_may_be_counted_at_list_prices() -> None:
    """What counts is what the use would have cost by the list."""
    by_usd = entry(Kind.CONTRACT, org="acme", volume=Volume("usd", (Step(10**9, (Discount(500_000),)),)))
    for tokens, dollars in ((100_000, 10), (100_001, 5)):
        prices = Prices([LIST, by_usd], now_ms=at("2026-06-15"))
        prices.count(used("2026-03-01", tokens))
        prices.counted()
        assert rate(prices.of(used("2026-03-01"))) == dollars


def test_months_are_whole() -> None:
    """Of the first and the last moment, the year's end too."""
    assert months_of(at("2026-03-05"), at("2026-03-06")) == (at("2026-03-01"), at("2026-04-01"))
    assert months_of(at("2026-11-30"), at("2026-12-31")) == (at("2026-11-01"), at("2027-01-01"))
