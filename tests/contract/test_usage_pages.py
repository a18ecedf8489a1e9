"""Pages of the ledger, from the real engine: every event once, in the order of admission, whatever the pages' size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.backtest.events import PastEvent, read_page
from meter.sink.core import usage_pages
from meter.sink.core.buffer import Entry
from meter.sink.core.records import PlacedEvent, place
from meter.sink.rows import DECISIONS_TABLE, USAGE_TABLE, DecisionRows, Source, UsageRows
from meter.sink.store import ClickHouse
from schemas.ids import format_id
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, UsageEvent
from tests.history_builders import NOW_MS, a_decision, an_event

SOURCE = Source("cluster", "usage", 2)
HOUR_MS = usage_pages.HOUR_MS


def insert(store: ClickHouse, events: list[UsageEvent]) -> None:
    """Insert events, out of the order of their admission."""
    placed = [PlacedEvent(event, "ingress-1", 1, 1, 0, number, NOW_MS) for number, event in enumerate(events)]
    for month, table in UsageRows(SOURCE).tables(placed).by_month.items():
        store.insert(USAGE_TABLE, table, f"t{month}")


def pages(
    store: ClickHouse, most: int, since: str | None = None, until: str | None = None, org: str = ""
) -> list[list[PastEvent]]:
    """Return all pages, as the API gives them."""
    found, after = [], None
    while True:
        page = usage_pages.parse(since, until, after, most, org)
        assert isinstance(page, usage_pages.Page)
        end_ms = page.end_ms(store.rows(usage_pages.HOURS, page.span))
        events, after = read_page(page.closed(store.lines(page.sql(), page.parameters(end_ms)), end_ms))
        found.append(list(events))
        if after is None:
            return found


def past(clickhouse: ClickHouse, events: list[UsageEvent]) -> list[UsageEvent]:
    """Insert events in a mixed order; return them in the order of their admission."""
    mixed = [events[number * 7 % len(events)] for number in range(len(events))]
    insert(clickhouse, mixed)
    return sorted(events, key=lambda event: (event.occurred_ms, event.status == "refused"))


@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_pages_hold_every_event_once_in_order(clickhouse: ClickHouse, most: int) -> None:
    """Events of one millisecond, of one hour, of hours far apart, at the borders of months: each comes once."""
    gaps_ms = [0, 0, 0, 1, 5, HOUR_MS - 7, 1, 0, 0, 50 * HOUR_MS, 2, 700 * HOUR_MS, 3]
    moments = [NOW_MS + sum(gaps_ms[: number + 1]) for number in range(len(gaps_ms))]
    events = [an_event(occurred_ms=moment, status="refused" if number % 3 == 1 else "settled")
              for number, moment in enumerate(moments)]  # fmt: skip
    expected = past(clickhouse, events)
    found = pages(clickhouse, most)
    assert all(len(page) <= most for page in found)
    read = [event for page in found for event in page]
    assert sorted(event.id for event in read) == sorted(format_id(event.id) for event in events)
    assert [(event.occurred_ms, event.status) for event in read] == [
        (event.occurred_ms, event.status) for event in expected
    ]


def test_a_time_is_half_open(clickhouse: ClickHouse) -> None:
    """`since` counts, `until` does not, to the millisecond; a time without events is one empty page."""
    insert(clickhouse, [an_event(occurred_ms=NOW_MS + number) for number in range(4)])
    found = pages(clickhouse, 10, str(NOW_MS + 1), str(NOW_MS + 3))
    assert [event.occurred_ms for page in found for event in page] == [NOW_MS + 1, NOW_MS + 2]
    assert pages(clickhouse, 10, str(NOW_MS + 4)) == [[]]


def test_pages_of_one_organisation_hold_no_other(clickhouse: ClickHouse) -> None:
    """`org` leaves the others out, on every page."""
    insert(clickhouse, [an_event(Attribution(org=f"org-{number % 2}", model="m"), occurred_ms=NOW_MS + number)
                        for number in range(6)])  # fmt: skip
    found = pages(clickhouse, 2, org="org-1")
    assert [event.occurred_ms - NOW_MS for page in found for event in page] == [1, 3, 5]


def test_an_event_comes_with_what_it_used_and_what_it_had_asked_for(clickhouse: ClickHouse) -> None:
    """Tokens by class, cost to the nano-dollar or unknown, charges, tags; of a refusal, measure and amount asked."""
    decision = a_decision(measure="tokens", asked=4_321)
    events: list[dict[str, Any]] = [
        {"usage": TokenUsage(1, 2, 3, 4, 5, 6, 7, 8), "cost_nanos": 999_999_999_999_999_999, "charge_nanos": 1},
        {"cost_nanos": None, "charge_tokens": 77, "duration_ms": 10**12},
        {"status": "refused", "error": "tpm", "decision_id": decision.id, "charge_requests": 0},
    ]
    insert(clickhouse, [an_event(occurred_ms=NOW_MS + number, **fields) for number, fields in enumerate(events)])
    rows = DecisionRows(Source("cluster", "decisions", 0))
    for month, table in rows.tables(place([Entry(4, NOW_MS, [decision], 1)])).by_month.items():
        clickhouse.insert(DECISIONS_TABLE, table, f"d{month}")
    (first, second, third), *_ = pages(clickhouse, 10)
    assert first.usage == TokenUsage(1, 2, 3, 4, 5, 6, 7, 8)
    assert (first.cost_nanos, first.charge_nanos, first.tags["env"]) == (999_999_999_999_999_999, 1, "prod")
    assert (second.cost_nanos, second.charge_tokens, second.duration_ms) == (None, 77, 10**12)
    assert (first.org, first.team, first.key, first.model, first.is_ruled) == (
        "acme", "search", "key_1", "gpt-4o-mini", True,
    )  # fmt: skip
    assert (third.was_refused, third.error, third.measure, third.asked) == (True, "tpm", "tokens", 4_321)


@pytest.mark.parametrize(
    ("asked", "field", "remedy"),
    [
        ({"since": "yesterday"}, "since", "write 2026-11-01T12:00:00Z"),
        ({"since": "2026-12-01", "until": "2026-11-01"}, "until", "not after"),
        ({"since": "99999999999999"}, "since", "unix milliseconds"),
        ({"most": 0}, "limit", "1 to 200000"),
        ({"after": "x"}, "after", "leave it out"),
        ({"after": "1/2/00000000-0000-0000-0000-00000000ffff"}, "after", "leave it out"),
        ({"after": "1/1/x"}, "after", "leave it out"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong(asked: dict[str, Any], field: str, remedy: str) -> None:
    """Each fault names its parameter, its value and a remedy."""
    faults = usage_pages.parse(**{"since": None, "until": None, "after": None, "most": 10, **asked})
    assert isinstance(faults, list)
    assert [fault.field for fault in faults] == [field]
    assert remedy in faults[0].message
    assert str(next(iter(asked.values()))) in faults[0].message


def test_a_place_is_read_back() -> None:
    """What a page ends with asks for the next one."""
    for place_ in (usage_pages.Place(5), usage_pages.Place(7, 1, "00000000-0000-0000-0000-00000000ffff")):
        page = usage_pages.parse(None, None, str(place_), 10)
        assert isinstance(page, usage_pages.Page)
        assert page.begin == place_


def test_a_page_that_was_cut_off_is_noticed() -> None:
    """A page without its last line, or of other columns, is no page."""
    from schemas.errors import TransportError

    with pytest.raises(TransportError, match="cut off"):
        read_page(b'[1, "a"]\n[2, "b"')
    with pytest.raises(TransportError, match="one version"):
        read_page(json.dumps({"columns": ["x"], "next": None}).encode())
