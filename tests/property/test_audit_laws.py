"""The audit raises no false alarm while data is on its way, and finds whatever is broken, with the range it is in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
from hypothesis import assume, given, settings

from meter.sink.core import audit
from meter.sink.core.audit import DAY_S, HOUR_S, Group, Span, Tables
from meter.sink.core.ledger import FIELDS
from meter.sink.core.repair import plan
from meter.sink.lane import Lane
from schemas.audits import Difference
from tests.history_builders import MONTH_END_MS
from tests.history_fakes import FakeLog, FakeStore, Fate, Killed
from tests.history_world import Script, live
from tests.property.test_sink_exactness import scripts

SPAN = Span(MONTH_END_MS // 1000 - DAY_S, MONTH_END_MS // 1000 + DAY_S)


def sums_of(rows: Iterable[dict[str, Any]]) -> list[Any]:
    """Return the sums of rows of one group, and where they are, as the engine gives them."""
    found = list(rows)
    tokens_in = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input")
    costs = [row["cost_usd"] for row in found]
    return [
        len(found), sum(row["charge_requests"] for row in found),
        sum(row[f"tokens_{name}"] for row in found for name in tokens_in),
        sum(row[f"tokens_{name}"] for row in found for name in ("output", "reasoning", "audio_output")),
        sum(cost for cost in costs if cost is not None), costs.count(None), sum(row["charge_usd"] for row in found),
        len(found), sum(hash(row["id"]) for row in found) % 2**64,
        min(row["seq"] for row in found), max(row["seq"] for row in found),
        min(row["src_offset"] for row in found), max(row["src_offset"] for row in found),
    ]  # fmt: skip


def grouped(rows: list[dict[str, Any]], by: Any, columns: int = len(FIELDS) + 6) -> list[list[Any]]:
    """Return rows of a query that groups `rows`."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return [[*key, *sums_of(some)[:columns]] for key, some in groups.items()]


def hour(row: dict[str, Any]) -> int:
    """Return the hour of a row."""
    return int(row["occurred_at"].timestamp()) // HOUR_S * HOUR_S


def run(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return where a row is from, and its run."""
    return row["src_log"], row["src_topic"], row["src_partition"], row["instance"], row["epoch"]


def differences(store: FakeStore, lane: Lane) -> list[Difference]:
    """Return what an audit of the store in memory finds; its second table is by run and hour, and by hour."""
    ledger, hourly, actors = (store.rows_of[name] for name in ("ledger", "hourly", "actors"))
    once = list({row["id"]: row for row in ledger}.values())
    tables = Tables(
        grouped(once, lambda row: (*run(row), row["org"], hour(row))),
        grouped(hourly, lambda row: (*run(row), hour(row))),
        grouped(hourly, lambda row: (row["org"], hour(row)), len(FIELDS)),
        grouped(actors, lambda row: (row["org"], datetime.fromtimestamp(hour(row), UTC).date()), len(FIELDS)),
    )
    runs = audit.runs_of(grouped(hourly, lambda row: run(row)[3:]))
    inside = audit.within(SPAN, tables)
    return inside + audit.apart(audit.against_told(0, runs, lane.books), inside)


def run_audited(script: Script, kills: list[int], pauses: list[int], max_rows: int) -> tuple[FakeStore, Lane]:
    """Run a sink over a log, killed as asked for, and audit whenever nothing is under way; return store and lane."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    lanes: list[Lane] = []

    def at_rest(lane: Lane) -> None:
        lanes.append(lane)
        assert differences(store, lane) == []

    for killed_at in [*kills, None]:
        log.fate = store.fate = Fate(killed_at)
        with contextlib.suppress(Killed):
            asyncio.run(live(log, store, pauses, max_rows, at_rest=at_rest))
    assume(lanes)
    return store, lanes[-1]


PAUSES = st.lists(st.sampled_from((0, 300, 900, 2_000)), min_size=1, max_size=5)


@settings(max_examples=80)
@given(scripts(), st.lists(st.integers(1, 14), max_size=3), PAUSES, st.integers(1, 6))
def test_nothing_differs_while_data_is_on_its_way(
    script: Script, kills: list[int], pauses: list[int], max_rows: int
) -> None:
    """Between any two batches, whatever is read and not inserted, held back or sent again: the ledgers agree."""
    run_audited(script, kills, pauses, max_rows)


@settings(max_examples=60)
@given(scripts(), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(("events", "rollup", "doubled", "all")))
def test_what_is_broken_is_found_with_its_range(script: Script, max_rows: int, pick: int, how: str) -> None:
    """A row that is gone from the events, from a rollup or from all, or doubled in a rollup: named, with a remedy."""
    store, lane = run_audited(script, [], [400], max_rows)
    assume(store.rows_of["ledger"])
    gone = store.rows_of["ledger"][pick % len(store.rows_of["ledger"])]
    for name in {"events": ["ledger"], "rollup": ["hourly"], "doubled": ["hourly"]}.get(how, list(store.rows_of)):
        kept = [row for row in store.rows_of[name] if row["id"] != gone["id"]]
        store.rows_of[name] = [*store.rows_of[name], gone] if how == "doubled" else kept
    found = differences(store, lane)
    assert found
    ranged = next(one for one in found if one.partition == 0)
    assert ranged.first_offset <= gone["src_offset"] <= ranged.last_offset
    assert ranged.first_seq <= gone["seq"] <= ranged.last_seq
    wanted = plan(found, {0: 0})
    assert not wanted.hopeless
    assert {step.what for step in wanted.steps} >= ({"rebuild"} if how == "rollup" else {"insert"})
    without_log = plan(found, {0: 10**9})
    if how == "events":
        assert not without_log.steps, "rollups are not made of events that lack some"
        assert without_log.hopeless


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    """Groups add up, and their range is the range of both."""
    one = Group((1, 1, 1, 1, 1, 0, 1), 1, 2**64 - 1, 3, 4, 30, 40)
    two = Group((2, 2, 2, 2, 2, 1, 2), 2, 2, 1, 9, 10, 35)
    assert one.plus(two) == Group((3, 3, 3, 3, 3, 1, 3), 3, 1, 1, 9, 10, 40)
