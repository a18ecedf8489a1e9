"""What imports, files and applies add to the book, and what that changes for people."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from enforcer.core.book import Book
from enforcer.core.price_changes import (
    apply_entries,
    file_entries,
    file_problems,
    import_entries,
    prices_subject,
    stamp_of,
    unaudited,
)
from enforcer.core.price_report import example, report
from enforcer.core.resolution import resolve_all
from schemas.errors import ConfigError
from schemas.money import Price, cost_nanos
from schemas.price_file import load_prices
from schemas.prices import Daily, PriceEntry
from schemas.tokens import TokenUsage
from tests.unit.enforcer.enforcer_parts import DOCUMENT, policy
from tests.unit.enforcer.test_book import price, usd

POLICY = policy(DOCUMENT.replace("orgs:\n", "orgs:\n  beta: {}\n"))
MODEL = ("openai", "gpt-4o-mini")
DAY = 86_400_000


class Said(NamedTuple):
    """What a list says from a moment on."""

    valid_from_ms: int
    price: Price | None
    daily: tuple[Daily, ...] = ()


def _record(book: Book, entries: list[PriceEntry]) -> list[PriceEntry]:
    for entry in entries:
        assert book.append(entry)
    return entries


def _import(book: Book, now_ms: int, *said: Said) -> list[PriceEntry]:
    return _record(book, import_entries({MODEL: list(said)}, book, stamp_of(book, now_ms, "ada")))


def _file(book: Book, now_ms: int, text: str) -> list[PriceEntry]:
    return _record(book, file_entries(load_prices(text), book, stamp_of(book, now_ms, "ada")))


def _usd(book: Book, at_ms: int, known_ms: int = 1 << 60) -> int | None:
    return usd(book.price_at("acme", *MODEL, at_ms, known_ms))


def test_the_first_import_records_everything_from_the_beginning() -> None:
    """A price without a date has always been so, the first time; dated ones begin at their date, future ones too."""
    book = Book()
    entries = _import(book, 10 * DAY, Said(0, price(1)), Said(5 * DAY, price(2)), Said(20 * DAY, price(3)))
    assert [entry.valid_from_ms for entry in entries] == [0, 5 * DAY, 20 * DAY]
    assert [_usd(book, at) for at in (0, 5 * DAY, 20 * DAY)] == [1, 2, 3]
    assert len({entry.recorded_ms for entry in entries}) == 1


def test_importing_the_same_again_records_nothing() -> None:
    """Whenever that is, and whatever the version of the list is called."""
    book, said = Book(), (Said(0, price(1, "list-1")), Said(5 * DAY, price(2, "list-1")))
    _import(book, DAY, *said)
    again = (Said(0, price(1, "list-2")), Said(5 * DAY, price(2, "list-2")))
    assert [_import(book, now, *again) for now in (2 * DAY, 6 * DAY)] == [[], []]


def test_a_change_without_a_date_begins_when_it_is_recorded() -> None:
    """The past keeps the price that it had."""
    book = Book()
    _import(book, DAY, Said(0, price(1)))
    (entry,) = _import(book, 3 * DAY, Said(0, price(9)))
    assert entry.valid_from_ms == 3 * DAY
    assert [_usd(book, at) for at in (0, 3 * DAY - 1, 3 * DAY)] == [1, 1, 9]


def test_a_change_with_a_date_begins_at_its_date_in_the_past_too() -> None:
    """What was known before stays answerable."""
    book = Book()
    _import(book, DAY, Said(0, price(1)))
    _import(book, 10 * DAY, Said(0, price(1)), Said(4 * DAY, price(2)))
    assert [_usd(book, at) for at in (4 * DAY - 1, 4 * DAY, 10 * DAY)] == [1, 2, 2]
    assert _usd(book, 10 * DAY, known_ms=10 * DAY - 1) == 1


def test_a_future_price_that_the_list_takes_back_is_taken_back() -> None:
    """At its date the price stays what it is."""
    book = Book()
    _import(book, DAY, Said(0, price(1)), Said(20 * DAY, price(3)))
    (entry,) = _import(book, 2 * DAY, Said(0, price(1)))
    assert (entry.valid_from_ms, _usd(book, 21 * DAY)) == (20 * DAY, 1)


def test_hours_of_the_day_are_part_of_what_a_list_says() -> None:
    """A change of them alone is a change."""
    book = Book()
    _import(book, DAY, Said(0, price(1), (Daily(60, 120, price(2)),)))
    assert _import(book, 2 * DAY, Said(0, price(1), (Daily(60, 120, price(2)),))) == []
    assert len(_import(book, 3 * DAY, Said(0, price(1), (Daily(60, 180, price(2)),)))) == 1


def test_applying_records_list_prices_of_new_models_only() -> None:
    """A list that has changed meanwhile waits for its import; a provider that has become another one does not."""
    book = Book()
    for known, expected in (
        (price(1, "genai-prices-1:openai/m"), 1), (price(5, "genai-prices-2:openai/m"), 1),
        (price(6, "genai-prices-2:azure/m"), 6),
    ):  # fmt: skip
        now_ms = book.known_ms + DAY
        _record(book, apply_entries(POLICY, {MODEL: [Said(0, known)]}, book, stamp_of(book, now_ms, "ada")))
        assert _usd(book, now_ms) == expected


def test_a_file_is_recorded_once() -> None:
    """The same file again changes nothing; another price for the same moment corrects it."""
    book = Book()
    text = (
        "prices:\n  - {provider: openai, model: gpt-4o-mini, from: 2026-12-01T00:00:00Z, price: {input: %s, output: 5}}"
    )
    assert [len(_file(book, DAY, text % usd)) for usd in (1, 1, 2, 2)] == [1, 0, 1, 0]


def test_contracts_of_an_organisation_are_its_own() -> None:
    """Resolved beside the prices of all, and only where they differ."""
    book = Book()
    _import(book, DAY, Said(0, price(100)))
    _file(book, DAY, "prices: [{provider: openai, model: '*', kind: contract, org: acme, discounts: [{percent: 15%}]}]")
    prices = resolve_all(POLICY, book, 2 * DAY)
    assert (usd(prices.resolved["gpt-4o-mini"]), usd(prices.orgs["acme"]["gpt-4o-mini"])) == (100, 85)
    assert set(prices.orgs) == {"acme"}
    assert resolve_all(POLICY, Book(), DAY).unpriced == ["gpt-4o-mini"]


def test_what_begins_or_ends_is_reported_as_that() -> None:
    """A long context that goes, a fee that comes; another series that comes before does not hide what is recorded."""
    before = Book()
    _import(before, DAY, Said(0, price(1)))
    own = "prices: [{provider: openai, model: gpt-4o-mini, kind: %s, price: {%s}}]"
    _file(before, 2 * DAY, own % ("override", "input: 1, output: 5, long_context: [{above: 9, input: 2, output: 6}]"))
    after = before.copy()
    entries = _file(after, 3 * DAY, own % ("override", "input: 0, output: 5, request: 0.01 USD"))
    (change,) = report(entries, before, after, POLICY, 3 * DAY)
    assert change.differences == [
        "input 1 → 0 (-100.0%)", "input above 9 2 → none", "output above 9 6 → none", "request 0.01 (new)",
    ]  # fmt: skip
    back = after.copy()
    (change,) = report(_file(back, 4 * DAY, own % ("override", "input: 1, output: 5")), after, back, POLICY, 4 * DAY)
    assert (change.most_ppm, change.differences[0]) == (1_000_000_000, "input 0 → 1")
    hidden = back.copy()
    (change,) = report(_file(hidden, 5 * DAY, own % ("list", "input: 8, output: 5")), back, hidden, POLICY, 5 * DAY)
    assert change.differences == ["input 1 → 8 (+700.0%)"]


def test_a_withdrawal_of_nothing_is_nothing() -> None:
    """It would only fill the book."""
    text = "prices: [{provider: openai, model: gpt-4o-mini, kind: override, withdrawn: true}]"
    assert _file(Book(), DAY, text) == []


def test_a_report_shows_each_rate_and_a_worked_example() -> None:
    """In the unit that people know, with the change in percent; what follows another rate is not said twice."""
    before = Book()
    _import(before, DAY, Said(0, price(100)))
    after = before.copy()
    text = "prices: [{provider: openai, model: gpt-4o-mini, price: {input: 150, output: 500, units: {images: 0.04}}}]"
    (change,) = report(_file(after, 2 * DAY, text), before, after, POLICY, 2 * DAY)
    assert change.differences == ["input 100 → 150 (+50.0%)", "images 0.04 (new)"]
    assert change.most_ppm == 500_000
    assert change.example == "1,000 input + 500 output tokens = 0.40 USD; 1 × images = 0.04 USD"
    assert change.warnings == []


@pytest.mark.parametrize(("usd_text", "warned"), [("0.00015", "very little"), ("1500", "very much"), ("0.15", "")])
def test_a_price_in_another_unit_is_suspected(usd_text: str, warned: str) -> None:
    """A price a token, or one in cents, differs from usual prices by thousands."""
    book = Book()
    text = f"prices: [{{provider: openai, model: gpt-4o-mini, price: {{input: {usd_text}, output: 1}}}}]"
    (change,) = report(_file(book, DAY, text), Book(), book, POLICY, DAY)
    assert ("".join(change.warnings) != "") == bool(warned)
    assert warned in "".join(change.warnings)
    assert change.most_ppm is None


def test_a_discount_is_reported_for_every_model_it_is_about() -> None:
    """By what each of them costs then."""
    before = Book()
    _import(before, DAY, Said(0, price(100)))
    after = before.copy()
    text = (
        "prices: [{provider: '*', model: 'gpt*', kind: contract, org: acme, discounts: [{percent: 12.5%, of: output}]}]"
    )
    (change,) = report(_file(after, DAY, text), before, after, POLICY, DAY)
    assert change.differences == ["output 500 → 437.5 (-12.5%)"]


def test_what_a_file_names_must_be_there() -> None:
    """Provider, model and organisation of the policy in force, each with what there is."""
    items = [
        "{provider: nobody, model: m, price: {input: 1, output: 1}}",
        "{provider: openai, model: m, price: {input: 1, output: 1}}",
        "{provider: openai, model: gpt-4o-mini, kind: override, org: none, price: {input: 1, output: 1}}",
    ]
    found = file_problems(load_prices(f"prices: [{', '.join(items)}]"), POLICY)
    assert [path for path, _, _ in found] == ["prices.0.provider", "prices.1.model", "prices.2.org"]
    assert "gpt-4o-mini" in found[1][2]
    assert file_problems(load_prices(f"prices: [{items[0]}]"), None)[0][2].startswith("no policy is in force")


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("provider: p, model: m", "say one of price"),
        ("provider: p, model: m, withdrawn: true, price: {input: 1, output: 1}", "say one of price"),
        ("provider: p, model: 'm*', price: {input: 1, output: 1}", "absolute price is of one model"),
        ("provider: p, model: m, kind: list, discounts: [{percent: 10%}]", "use contract or override"),
        ("provider: p, model: m, org: acme, price: {input: 1, output: 1}", "a list is for all"),
        ("provider: p, model: m, kind: contract, discounts: [{percent: 10}]", "write a percentage"),
        ("provider: p, model: m, kind: contract, discounts: [{percent: 101%}]", "write a percentage"),
        ("provider: p, model: m, kind: contract, discounts: [{percent: some%}]", "write a percentage"),
        ("provider: p, model: m, kind: contract, volume: {by: tokens, steps: [{above: 9, discounts: []},"
         " {above: 9, discounts: []}]}", "order steps by `above`"),
        ("provider: p, model: m, price: {input: 1, output: 1, units: many}", "valid dictionary"),
        ("provider: p, model: m, kind: contract, discounts: [{percent: 10%, of: tokens}]", "is not billed; use input"),
        ("provider: p, model: m, from: 2026-12-01T00:00:00, price: {input: 1, output: 1}", "timezone"),
        ("provider: p, model: m, from: 2026-12-02T00:00:00Z, to: 2026-12-01T00:00:00Z, withdrawn: true",
         "after `from`"),
        ("provider: p, model: m, kind: contract, volume: {by: tokens, steps: [{above: many, discounts: []}]}",
         "is no number of tokens"),
        ("provider: p, model: m, kind: contract, volume: {by: usd, steps: [{above: 9 EUR, discounts: []}]}",
         "is in EUR"),
        ("provider: p, model: m, price: {input: 1 EUR, output: 1}", "is in EUR"),
        ("provider: p, model: m, prise: 1", "unknown field"),
    ],
)  # fmt: skip
def test_a_file_with_a_fault_is_refused_with_place_and_remedy(item: str, problem: str) -> None:
    """Every fault that people make with prices."""
    with pytest.raises(ConfigError) as raised:
        load_prices(f"prices:\n  - {{{item}}}", "prices.yaml")
    assert problem in str(raised.value.problems)
    assert all(line.startswith("prices.yaml: prices.0") for line in raised.value.problems)


def test_a_file_without_prices_is_refused() -> None:
    """It would change nothing, and somebody thinks that it does."""
    with pytest.raises(ConfigError, match="there is none; add one"):
        load_prices("prices: []")


def test_another_currency_is_refused() -> None:
    """For the whole file."""
    with pytest.raises(ConfigError, match="prices are in USD only; convert them"):
        load_prices("currency: EUR\nprices: [{provider: p, model: m, withdrawn: true}]")


def test_an_example_of_units_alone() -> None:
    """A minute of audio, a thousand characters, one search."""
    found = Price("x", "", (), 0, {"audio_ms": 36 * 10**13, "characters": 15 * 10**15}, per={
        "audio_ms": 3_600_000, "characters": 1_000_000})  # fmt: skip
    assert example(found) == "1 minute of audio = 0.006 USD; 1,000 characters = 0.015 USD"
    assert cost_nanos(found, TokenUsage(), {"audio_ms": 60_000}) == 6_000_000


def test_entries_that_no_audit_entry_speaks_of_are_found() -> None:
    """Together as they were recorded; those of a version that exists are in that version's own entry."""
    book = Book()
    (entry,) = _import(book, DAY, Said(0, price(1)))
    _record(book, apply_entries(
        policy(DOCUMENT.replace("{provider: openai}", "{provider: openai, price: {input: 7, output: 7}}")), {}, book,
        stamp_of(book, 2 * DAY, "ada", "policy version 1"),
    ))  # fmt: skip
    assert unaudited(book, lambda subject: False, [1]) == {DAY: [entry]}
    assert unaudited(book, lambda subject: subject == prices_subject(DAY), [1]) == {}
    assert set(unaudited(book, lambda subject: False, [])) == {DAY, 2 * DAY}
