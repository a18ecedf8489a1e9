"""What costs are computed anew from, by the real engine: raw usage with its corrections, days by model and group."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from enforcer.core.adjustments import Adjustment, Target, derived_id, event_of
from meter.sink.core import cost_pages, day_costs, usage_pages
from meter.sink.core.records import PlacedEvent
from meter.sink.rows import USAGE_TABLE, Source, UsageRows
from meter.sink.store import ClickHouse
from schemas.codec import encode_attribution, encode_rows
from schemas.ids import NO_ID, format_id
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Detail, UsageEvent
from tests.history_builders import ACME, NOW_MS, an_event

SOURCE = Source("cluster", "usage", 2)
HOUR_MS = 3_600_000
MONEY = "team-month/cost/org=acme,team=search/month@1793491200+2592000"


def insert(store: ClickHouse, events: list[UsageEvent], logged_ms: int = NOW_MS) -> None:
    """Insert events as the sink does."""
    placed = [PlacedEvent(event, "ingress-1", 1, 1, 0, number, logged_ms) for number, event in enumerate(events)]
    for month, table in UsageRows(SOURCE).tables(placed).by_month.items():
        store.insert(USAGE_TABLE, table, f"t{month}-{events[0].id.hex()}")


def correction(of: UsageEvent | None, nanos: int, attribution: Attribution = ACME, **fields: Any) -> UsageEvent:
    """Return a correction of an event, or of a sum."""
    corrects = NO_ID if of is None else of.id
    moment = NOW_MS if of is None else of.occurred_ms
    adjustment = Adjustment(
        derived_id(corrects.hex(), nanos), 0, moment, "chat.completions", nanos, nanos, "price:2", corrects, **fields
    )
    target = Target(attribution, [MONEY])
    return event_of(adjustment, encode_attribution(target.attribution), encode_rows(target.rows))


def lines(store: ClickHouse, most: int = 100, equal: dict[str, str | None] | None = None) -> list[dict[str, Any]]:
    """Return all lines of all pages as the API gives them."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = cost_pages.ask(None, None, after, most, equal or {})
        assert isinstance(page, cost_pages.CostPage)
        end_ms = page.page.end_ms(store.rows(usage_pages.HOURS, page.page.span))
        *rows, last = page.closed(store.lines(page.sql(), page.parameters(end_ms)), end_ms).splitlines()
        told = json.loads(last)
        found += [dict(zip(told["columns"], json.loads(row), strict=True)) for row in rows]
        after = told["next"]
        if after is None:
            return found


@pytest.mark.parametrize("most", [1, 3, 100])
def test_events_come_with_their_raw_usage_and_the_sums_of_their_corrections(clickhouse: ClickHouse, most: int) -> None:
    """Every class, unit and tier; corrections of the event alone; nothing that used nothing, no correction itself."""
    detail = Detail(units={"web_search": 2}, service_tier="flex", list_cost_nanos=30_000)
    plain = an_event(row_keys=("key-minute/requests/org=acme/minute@1+60", MONEY))
    rich = an_event(usage=TokenUsage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), detail=detail, occurred_ms=NOW_MS + 2 * HOUR_MS)
    unpriced = an_event(cost_nanos=None, occurred_ms=NOW_MS + 5)
    folded = an_event(detail=Detail(kind="folded", stands_for=7), occurred_ms=NOW_MS + 40 * HOUR_MS)
    left_out = [an_event(usage_source="none", status="refused"), an_event(usage_source="unknown")]
    insert(clickhouse, [rich, folded, plain, unpriced, *left_out])
    insert(clickhouse, [correction(plain, -7), correction(unpriced, 12, first_price=True)])
    insert(clickhouse, [correction(plain, 3), correction(None, 1_000)])
    found = lines(clickhouse, most)
    assert [line["id"] for line in found] == [format_id(event.id) for event in (plain, unpriced, rich, folded)]
    by_id = {line["id"]: line for line in found}
    first, last = by_id[format_id(plain.id)], by_id[format_id(rich.id)]
    assert (first["corrections"], first["corrected_cost_nanos"], first["corrected_charge_nanos"]) == (2, -4, -4)
    assert (first["cost_nanos"], first["rows"], first["tags"]) == (27_000, [MONEY], {"env": "prod"})
    assert (last["usage"], last["units"]) == ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {"web_search": 2})
    assert (last["service_tier"], last["discount_nanos"], last["corrections"]) == ("flex", 3_000, 0)
    assert by_id[format_id(unpriced.id)]["cost_nanos"] is None
    assert (by_id[format_id(folded.id)]["kind"], by_id[format_id(folded.id)]["stands_for"]) == ("folded", 7)


def test_pages_can_be_of_some_attributes(clickhouse: ClickHouse) -> None:
    """Provider, model, team and key leave the others out."""
    other = encode_attribution(Attribution("acme", team="ml", key_id="key_2", provider="sim", model="gpt-x"))
    insert(clickhouse, [an_event(), an_event(attribution=ACME)])
    insert(clickhouse, [an_event(occurred_ms=NOW_MS + 1), _with(an_event(), other)])
    assert len(lines(clickhouse)) == 4
    for name, value in (("provider", "sim"), ("model", "gpt-x"), ("team", "ml"), ("key", "key_2")):
        assert [line[name] for line in lines(clickhouse, equal={name: value})] == [value]


def _with(event: UsageEvent, attribution: Any) -> UsageEvent:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return UsageEvent(**{**fields, "attribution": attribution})


def days(store: ClickHouse, exported_ms: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of November's days."""
    asked = day_costs.ask("openai", "2026-11-01", "2026-12-01", None if exported_ms is None else str(exported_ms))
    assert isinstance(asked, day_costs.DayCosts)
    rows = store.lines(asked.sql(), asked.parameters()).splitlines()
    return [dict(zip(day_costs.COLUMNS, json.loads(row), strict=True)) for row in rows]


def test_days_sum_up_groups_and_keep_what_an_invoice_corrected_apart(clickhouse: ClickHouse) -> None:
    """Costs with corrections of events, invoices beside; unpriced, estimated, late and edge usage by themselves."""
    midnight = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp() * 1000)
    ml = Attribution("acme", "chat", "ml", "bob", "key_2", "openai", "gpt-4o-mini")
    first = an_event(row_keys=(MONEY,), cost_nanos=900, charge_nanos=900)
    unpriced = an_event(cost_nanos=None, charge_nanos=500)
    insert(clickhouse, [
        first, unpriced, an_event(cost_nanos=100, charge_nanos=100, usage_source="estimated", duration_ms=5),
        an_event(cost_nanos=None, charge_nanos=70, usage_source="unknown", usage=TokenUsage()),
        an_event(occurred_ms=midnight + 86_000_000, duration_ms=400_000, cost_nanos=10, charge_nanos=10),
        an_event(ml, occurred_ms=midnight + 5, cost_nanos=4),
    ])  # fmt: skip
    insert(clickhouse, [an_event(cost_nanos=33, charge_nanos=33)], logged_ms=NOW_MS + 10 * HOUR_MS)
    insert(clickhouse, [correction(first, -50), correction(unpriced, 60, first_price=True), correction(None, 1_000)])
    insert(clickhouse, [an_event(ml, cost_nanos=None)])
    search, bob = sorted(days(clickhouse, NOW_MS + HOUR_MS), key=lambda line: str(line["user"]))
    assert (bob["user"], bob["cost_nanos"]) == ("bob", 4)
    assert (bob["unpriced_events"], bob["unpriced_tokens"]) == (1, 120)
    assert (search["day"], search["model"], search["model_reported"]) == (
        "2026-11-21", "gpt-4o-mini", "gpt-4o-mini-2026"
    )  # fmt: skip
    assert search["cost_nanos"] == 900 + 100 + 10 + 33 - 50 + 60
    assert search["charge_nanos"] == 900 + 500 + 100 + 70 + 10 + 33 - 50 + 60
    assert (search["invoiced_nanos"], search["invoiced_charge_nanos"]) == (1_000, 1_000)
    assert (search["events"], search["unpriced_events"], search["unpriced_tokens"]) == (6, 0, 0)
    assert (search["estimated_events"], search["estimated_nanos"]) == (1, 100)
    assert (search["unknown_events"], search["unknown_nanos"]) == (1, 70)
    assert (search["left_nanos"], search["late_nanos"]) == (10, 33)
    assert (search["rows"], search["occurred_ms"], search["largest_nanos"]) == ([MONEY], NOW_MS, 900)
    assert search["tags"] == {"env": "prod"}


def test_what_is_wrong_with_a_question_is_named() -> None:
    """Each parameter with its value and what to write instead."""
    faults = day_costs.ask("", "2026-13-01", "2026-11-01", "yesterday")
    assert isinstance(faults, list)
    assert [fault.field for fault in faults] == ["provider", "since", "exported"]
    too_long = day_costs.ask("openai", "2025-01-01", "2026-12-01", None)
    assert isinstance(too_long, list)
    assert isinstance(cost_pages.ask("x", None, None, 10, {}), list)
