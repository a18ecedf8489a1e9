"""What providers export about costs: each format read exactly, each fault named with its place, nothing guessed."""

from __future__ import annotations

import json
from datetime import date
from fractions import Fraction
from typing import Any

import pytest

from enforcer.core.invoices import Invoice, Line, read
from enforcer.core.model_names import Known, Matched, match

DAY = date(2026, 11, 20)
START_S = 1_795_132_800
"""2026-11-20T00:00:00Z"""


def one(data: str | bytes, name: str = "invoice") -> Invoice:
    """Read one file."""
    return read({name: data.encode() if isinstance(data, str) else data})


def openai_page(*results: dict[str, Any], **more: Any) -> str:
    """Return a page of one day as OpenAI's API returns it."""
    bucket = {"object": "bucket", "start_time": START_S, "end_time": START_S + 86_400, "results": list(results)}
    return json.dumps({"object": "page", "data": [bucket], "has_more": False, "next_page": None, **more})


def result(value: object, item: str | None, currency: str = "usd", **more: Any) -> dict[str, Any]:
    """Return a result of OpenAI's costs."""
    amount = {"value": value, "currency": currency}
    return {"object": "organization.costs.result", "amount": amount, "line_item": item, "project_id": "p", **more}


def test_openai_costs_as_json() -> None:
    """Amounts as numbers or long texts, exact; the model is what comes before the comma; tokens where they are told."""
    found = one(openai_page(
        result(0.06, "gpt-4o-2024-08-06, input"),
        result("0.000004500000000000000000000000000000000", "gpt-4o-mini-2024-07-18, cached input", quantity=30.0),
        result("0E-6176", "gpt-image-2-2026-04-21 image, output", quantity=3),
        result(1, "web search tool calls"),
        result(0.5, "evals | gpt-4o-mini-2024-07-18, input"),
    ))  # fmt: skip
    assert found.faults == []
    assert found.format == "openai-json"
    assert found.lines == [
        Line(DAY, "gpt-4o-2024-08-06", Fraction(6, 100), None),
        Line(DAY, "gpt-4o-mini-2024-07-18", Fraction(45, 10**7), 30),
        Line(DAY, "gpt-image-2-2026-04-21", Fraction(0), 3),
        Line(DAY, "web search tool calls", Fraction(1), None),
        Line(DAY, "evals | gpt-4o-mini-2024-07-18", Fraction(1, 2), None),
    ]


def test_openai_costs_as_csv() -> None:
    """The same as a table; a day without costs is an empty line."""
    found = one(
        "\ufeffstart_time,end_time,start_time_iso,amount_value,amount_currency,line_item,project_id\n"
        f'{START_S},{START_S + 86_400},2026-11-20,0.89587400,usd,"gpt-5-mini-2025-08-07, output",proj_1\n'
        f"{START_S},{START_S + 86_400},2026-11-20,,,,\n"
    )
    assert (found.format, found.faults) == ("openai-csv", [])
    assert found.lines == [Line(DAY, "gpt-5-mini-2025-08-07", Fraction(895_874, 10**6), None)]


def test_anthropic_cost_reports_are_in_cents() -> None:
    """An amount of 123.78912 is 1.2378912 USD; what is for no model has the name of what it is for."""
    results = [
        {"amount": "123.78912", "currency": "USD", "model": "claude-sonnet-4-20250514", "cost_type": "tokens"},
        {"amount": "1000", "currency": "USD", "model": None, "description": "Web Search Usage"},
    ]
    bucket = {"starting_at": "2026-11-20T00:00:00Z", "ending_at": "2026-11-21T00:00:00Z", "results": results}
    found = one(json.dumps({"data": [bucket], "has_more": False, "next_page": None}))
    assert (found.format, found.faults) == ("anthropic-json", [])
    assert found.lines == [
        Line(DAY, "claude-sonnet-4-20250514", Fraction(12_378_912, 10**7), None),
        Line(DAY, "Web Search Usage", Fraction(10), None),
    ]


def test_anthropic_costs_as_csv_are_in_dollars() -> None:
    """The Console's export has names for people."""
    found = one("usage_date_utc,model,workspace,token_type,cost_usd\n2026-11-20,Claude Haiku 4.5,Default,output,0.02\n")
    assert (found.format, found.faults) == ("anthropic-csv", [])
    assert found.lines == [Line(DAY, "Claude Haiku 4.5", Fraction(2, 100), None)]


def test_our_own_format_has_tokens_if_one_likes() -> None:
    """date, model, cost_usd; negative amounts are credits."""
    found = one("date,model,cost_usd,tokens\n2026-11-20,llama,12.5,1000000\n2026-11-20,llama,-0.5,\n")
    assert (found.format, found.faults) == ("csv", [])
    assert found.lines == [
        Line(DAY, "llama", Fraction(25, 2), 1_000_000), Line(DAY, "llama", Fraction(-1, 2), None)
    ]  # fmt: skip


def test_pages_make_up_one_report_and_one_that_goes_on_is_refused() -> None:
    """A list of pages is read as one; the last page must be the last."""
    page = json.loads(openai_page(result(1, "a, input")))
    assert len(one(json.dumps([{**page, "has_more": True}, page])).lines) == 2
    (fault,) = one(json.dumps({**page, "has_more": True})).faults
    assert "has_more: true" in fault
    assert "fetch all pages" in fault


@pytest.mark.parametrize(
    ("data", "place", "field", "said"),
    [
        (openai_page(result(1, "a, input"), result(1, "b", "eur")), "data.0.results.1", "amount.currency", "USD"),
        (openai_page(result("1,5", "a, input")), "data.0.results.0", "amount.value", "'1,5'"),
        (openai_page(result(None, "a, input")), "data.0.results.0", "amount.value", "None"),
        (openai_page(result(True, "a, input")), "data.0.results.0", "amount.value", "True"),
        (openai_page(result("1e400", "a, input")), "data.0.results.0", "amount.value", "not an amount"),
        (openai_page(result("1e9", "a, input")), "data.0.results.0", "amount.value", "billion"),
        (openai_page(result(1, None)), "data.0.results.0", "line_item", "group_by=line_item"),
        (openai_page(result(1, "a, input", quantity=1.5)), "data.0.results.0", "quantity", "1.5"),
        (openai_page(result(1, "a")).replace(str(START_S), str(START_S + 60)), "data.0", "start_time", "not a day"),
        ("date,model,cost_usd\n2026-11-31,a,1\n", "line 2", "date", "2026-11-31"),
        ("date,model,cost_usd\n2026-11-30,a,1\n2026-11-30,,1\n", "line 3", "model", "''"),
        ("date,model,cost_usd,currency\n2026-11-30,a,1,EUR\n", "line 2", "currency", "'EUR'"),
        ("date,model,cost_usd,tokens\n2026-11-30,a,1,-3\n", "line 2", "tokens", "'-3'"),
        ("date,model,cost_usd\n2026-11-30,a,$1\n", "line 2", "cost_usd", "'$1'"),
        ("date,model,cost_usd\n2026-11-30,a,1,5\n", "line 2", "more fields than columns", "quote"),
        ("date,model,cost_usd\n2026-11-30,a\n", "line 2", "cost_usd", "None"),
        ("when,what\n1,2\n", "line 1", "the columns what, when", "write date,model,cost_usd"),
        (b"\xff\xfe", "invoice", "not UTF-8", "byte 0"),
        ("{", "invoice", "not JSON", ""),
        ("[]", "there is no amount", "", ""),
        ('{"data": 3}', "invoice", "data", "missing"),
        ('{"data": [3]}', "data.0", "not an object", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_place_and_field(data: str | bytes, place: str, field: str, said: str) -> None:
    """File, line or path, field, value, remedy; the invoice is none then."""
    (fault,) = one(data).faults
    for part in (place, field, said):
        assert part in fault, fault


def test_the_digest_is_of_the_files_whatever_their_names_and_order() -> None:
    """The same files are the same invoice; another byte is another."""
    files = {"a": b"date,model,cost_usd\n2026-11-20,x,1\n", "b": b"date,model,cost_usd\n2026-11-21,x,1\n"}
    swapped = {"c": files["b"], "d": files["a"]}
    assert read(files).sha256 == read(swapped).sha256
    assert read({**files, "b": files["b"] + b"\n"}).sha256 != read(files).sha256


KNOWN = [
    Known("gpt-4o", "gpt-4o-2024-08-06"), Known("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    Known("fast", "gpt-5-mini-2025-08-07"), Known("cheap", "gpt-5-mini-2025-08-07"),
    Known("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("gpt-4o", ("gpt-4o",)),
        ("gpt-4o-2024-08-06", ("gpt-4o",)),
        ("gpt-4o-2024-11-20", ("gpt-4o",)),
        ("gpt-5-mini-2025-08-07", ("cheap", "fast")),
        ("Claude Haiku 4.5", ("claude-haiku-4-5",)),
        ("web search tool calls", ()),
        ("ft-gpt-4o-2024-08-06", ()),
    ],
)
def test_names_on_an_invoice_are_matched(name: str, ours: tuple[str, ...]) -> None:
    """The same name, what answers were named, names for people, other snapshots; what is none of ours stays alone."""
    found = [each for each in match([name], KNOWN, {}) if each.invoiced]
    assert [(each.ours, each.invoiced) for each in found] == [(ours, (name,))]


def test_what_is_connected_is_compared_together_and_somebody_may_say_what_is() -> None:
    """Two snapshots of one model, two models of one snapshot, and a fee that belongs to a model."""
    names = ["gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "web search tool calls", "gpt-5-mini-2025-08-07"]
    found = match(names, KNOWN, {"web search tool calls": "gpt-4o"})
    assert Matched(("gpt-4o",), ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "web search tool calls")) in found
    assert Matched(("cheap", "fast"), ("gpt-5-mini-2025-08-07",)) in found
    assert Matched(("gpt-4o-mini",), ()) in found
    assert next(each.label for each in found if len(each.ours) == 2) == "cheap + fast"
