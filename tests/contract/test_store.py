"""What the history's store promises: embedded, behind HTTP and, where a container can run, on a server."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pyarrow as pa
import pytest

from meter.sink import migrate
from meter.sink.core import avoided, ledger, report
from meter.sink.core.buffer import Entry
from meter.sink.core.errors import BadQuery, StoreUnavailable
from meter.sink.core.records import PlacedEvent, place
from meter.sink.core.resume import LastRow
from meter.sink.engines import embedded
from meter.sink.rows import DECISIONS_TABLE, USAGE_TABLE, DecisionRows, Source, UsageRows
from meter.sink.store import ClickHouse
from schemas.migrations import load, migrations
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Detail, Kind, UsageEvent
from tests.history_builders import ACME, MONTH_END_MS, NOW_MS, a_decision, an_event, totals_of

SOURCE = Source("cluster", "usage", 2)


@pytest.fixture(
    params=[
        "clickhouse",
        pytest.param("clickhouse_over_http", marks=pytest.mark.slow),
        pytest.param("clickhouse_server", marks=pytest.mark.container),
    ]
)
def store(request: pytest.FixtureRequest) -> ClickHouse:
    """Return a store of each kind."""
    found: ClickHouse = request.getfixturevalue(request.param)
    return found


def insert(store: ClickHouse, events: list[UsageEvent], token: str = "t", offset: int = 0, seq: int = 1) -> None:
    """Insert events as one record of the log, under a token."""
    placed = [PlacedEvent(event, "ingress-1", 1, seq, offset, number, NOW_MS) for number, event in enumerate(events)]
    tables = UsageRows(SOURCE).tables(placed)
    assert not tables.unstorable
    for month, table in tables.of_batch(offset, offset).by_month.items():
        store.insert(USAGE_TABLE, table, f"{token}/{month}")


def last_offset(store: ClickHouse, source: Source = SOURCE) -> int | None:
    """Return the highest offset of a row from a partition."""
    row = store.last_row(USAGE_TABLE, source)
    return None if row is None else row.offset


def counts(store: ClickHouse) -> tuple[int, int, int]:
    """Return how many events the ledger, and each of the rollups, has."""
    found = [
        store.rows(sql)[0][0]
        for sql in ("SELECT count() FROM usage_events", "SELECT sum(events) FROM usage_hourly",
                    "SELECT sum(events) FROM usage_daily_actor")
    ]  # fmt: skip
    return int(found[0]), int(found[1]), int(found[2])


def test_every_field_of_an_event_comes_back(store: ClickHouse) -> None:
    """What is in an event and its attribution is in its row, to the nano-dollar and the millisecond."""
    event = an_event(
        attributed(user="zoë", tags={"env": "prod", "feature": "väg"}), ["a/requests/x/w", "b/cost/y/w"],
        usage=TokenUsage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), cost_nanos=999_999_999_999_999_999, charge_nanos=1, ttft_ms=-1,
        attempt=3, http_status=429, streamed=True, duration_ms=10**12, occurred_ms=NOW_MS + 7, decision_id=b"d" * 16,
    )  # fmt: skip
    insert(store, [event], offset=9, seq=4)
    names = [name for (name, *_) in store.rows("DESCRIBE TABLE usage")]
    row = dict(zip(names, store.rows("SELECT * FROM usage")[0], strict=True))
    assert (row["id"].bytes, row["request_id"].bytes, row["decision_id"].bytes) == (
        event.id,
        event.request_id,
        b"d" * 16,
    )
    assert row["cost_usd"] == Decimal("999999999.999999999")
    assert row["charge_usd"] == Decimal("0.000000001")
    assert round(row["occurred_at"].timestamp() * 1000) == NOW_MS + 7
    assert (row["input_tokens"], row["output_tokens"], row["ttft_ms"]) == (1 + 3 + 4 + 5 + 7 + 9, 2 + 6 + 8 + 10, None)
    assert row["tags"] == {"env": "prod", "feature": "väg"}
    assert row["row_keys"] == ["a/requests/x/w", "b/cost/y/w"]
    assert (row["user"], row["org"], row["key_id"], row["policy_version"]) == ("zoë", "acme", "key_1", 3)
    assert (row["attempt"], row["http_status"], row["streamed"], row["duration_ms"]) == (3, 429, True, 10**12)
    assert (row["instance"], row["epoch"], row["seq"], row["src_offset"], row["src_index"]) == ("ingress-1", 1, 4, 9, 0)
    assert (row["src_log"], row["src_topic"], row["src_partition"]) == ("cluster", "usage", 2)
    assert (row["kind"], row["stands_for"], row["units"], row["flags"], row["note"]) == ("usage", 1, {}, [], "")
    assert (row["tokens_image_input"], row["tokens_image_output"], row["list_cost_usd"]) == (9, 10, None)


def test_every_detail_of_an_event_comes_back(store: ClickHouse) -> None:
    """Units, tier, list price, flags, what it stands for and what it corrects are in the row of the event."""
    corrected = an_event()
    detail = Detail(
        {"web_search": 3, "audio_ms": 2**40}, "flex", 10**9 + 1, ("clamped", "drained"), Kind.ADJUSTMENT, 4,
        corrected.id, "price 2026-12",
    )  # fmt: skip
    insert(store, [corrected, an_event(detail=detail)])
    columns = "units, service_tier, list_cost_usd, flags, kind, stands_for, corrects_id, note"
    rows = store.rows(f"SELECT {columns} FROM usage ORDER BY src_index")
    assert rows[0] == ({}, "", None, [], "usage", 1, UUID(int=0), "")
    assert rows[1] == (
        {"web_search": 3, "audio_ms": 2**40}, "flex", Decimal("1.000000001"), ["clamped", "drained"], "adjustment", 4,
        UUID(bytes=corrected.id), "price 2026-12",
    )  # fmt: skip


def adjustment(nanos: int, of: UsageEvent, flags: tuple[str, ...] = (), stands_for: int = 1) -> UsageEvent:
    """Return the correction of an event's cost by `nanos`."""
    detail = Detail(kind=Kind.ADJUSTMENT, corrects=of.id, flags=flags, stands_for=stands_for, note="price 2")
    return an_event(
        usage=TokenUsage(), cost_nanos=nanos, charge_nanos=nanos, charge_requests=0, charge_tokens=0, detail=detail,
    )  # fmt: skip


def test_a_correction_changes_costs_and_nothing_else(store: ClickHouse) -> None:
    """Attempts, requests and tokens stay; costs are corrected; what got its first price is not unpriced any more."""
    priced, unpriced, other = an_event(cost_nanos=1_000), an_event(cost_nanos=None), an_event(cost_nanos=None)
    folded = an_event(cost_nanos=None, charge_requests=5, detail=Detail(kind=Kind.FOLDED, stands_for=5))
    insert(store, [priced, unpriced, other, folded])
    corrections = [
        adjustment(-400, priced), adjustment(70, unpriced, ("first_price",)), adjustment(9, folded, ("first_price",), 5)
    ]  # fmt: skip
    insert(store, corrections, "corrections", offset=1, seq=2)
    for by in ("org", "user", "user,hour"):
        query = report.parse(by, None, None)
        assert isinstance(query, report.SpendQuery)
        found = report.answer(query, store.rows(query.sql(), query.parameters()))
        totals = {name: found.totals[name] for name in ("events", "requests", "unpriced_requests", "input_tokens")}
        assert totals == {"events": 8, "requests": 8, "unpriced_requests": 1, "input_tokens": 400}, query.table
        assert (found.totals["cost_usd"], found.totals["adjusted_usd"]) == ("0.000000679", "-0.000000321")
    for view in ("spend_hourly", "spend_daily"):
        assert store.rows(f"SELECT events, unpriced_requests, cost_usd, adjustments, adjusted_usd FROM {view}") == [
            (8, 1, Decimal("6.79E-7"), 7, Decimal("-3.21E-7"))
        ]
    sums = as_dict([priced, unpriced, other, folded, *corrections])
    for sql in (ledger.BY_DAY, ledger.ROLLUP_BY_DAY, ledger.ACTORS_BY_DAY):
        assert [account["totals"] for account in ledger.by_day(store.rows(sql))] == [sums]


def test_a_correction_without_usage_beside_it_is_in_reports(store: ClickHouse) -> None:
    """A day with nothing but a correction is a row of its own: totals foot."""
    insert(store, [adjustment(-5, an_event())])
    for by in ("day", "user", "user,hour"):
        query = report.parse(by, None, None)
        assert isinstance(query, report.SpendQuery)
        found = report.answer(query, store.rows(query.sql(), query.parameters()))
        assert [row[-3] for row in found.rows] == ["-0.000000005"]


def attributed(**fields: Any) -> Attribution:
    """Return the usual attribution with other fields."""
    values = {name: getattr(ACME, name) for name in ACME.__struct_fields__}
    return Attribution(**{**values, **fields})


def test_unknown_cost_is_null_and_free_is_zero(store: ClickHouse) -> None:
    """A cost that is not known is NULL in the ledger and counted apart in the rollups; a price of 0 is 0."""
    insert(store, [an_event(cost_nanos=None), an_event(cost_nanos=0), an_event(cost_nanos=5)])
    assert [row[0] for row in store.rows("SELECT cost_usd FROM usage ORDER BY cost_usd NULLS FIRST")] == [
        None, Decimal("0E-9"), Decimal("5E-9"),
    ]  # fmt: skip
    for table in ("usage_hourly", "usage_daily_actor"):
        assert store.rows(
            f"SELECT sum(priced_events), sum(unpriced_events), sum(unpriced_requests), sum(cost_usd) FROM {table}"
        ) == [(2, 1, 1, Decimal("5E-9"))]


def test_the_same_token_counts_once(store: ClickHouse) -> None:
    """A batch that is sent again is dropped, in the ledger and in every rollup, whatever month it is of."""
    events = [an_event(), an_event(occurred_ms=MONTH_END_MS - 1), an_event(occurred_ms=MONTH_END_MS)]
    insert(store, events)
    insert(store, events)
    assert counts(store) == (3, 3, 3)


def test_a_batch_that_was_cut_short_is_completed(store: ClickHouse) -> None:
    """If a rollup fails, the same batch again fills what is missing and doubles nothing."""
    client = store._connect(store._database, {})
    client.command("ALTER TABLE usage_daily_actor_feed MODIFY QUERY SELECT throwIf(1) AS events FROM usage_events")
    events = [an_event(), an_event()]
    with pytest.raises(StoreUnavailable):
        insert(store, events)
    broken = counts(store)
    assert broken != (2, 2, 2)
    for statement in migrations()[5].statements:
        client.command(statement)
    insert(store, events)
    insert(store, events)
    client.close()
    assert counts(store) == (2, 2, 2)


def test_position_and_watermarks_are_those_of_the_rows(store: ClickHouse) -> None:
    """The table tells the last offset of a partition, and the last record of each run below an offset."""
    assert last_offset(store) is None
    insert(store, [an_event()], "a", offset=5, seq=3)
    insert(store, [an_event()], "b", offset=9, seq=4)
    assert last_offset(store) == 9
    assert last_offset(store, replace(SOURCE, partition=3)) is None
    assert last_offset(store, replace(SOURCE, log="another")) is None
    assert store.last_row(USAGE_TABLE, SOURCE) == LastRow(9, 9, 9, NOW_MS)
    assert store.watermarks(SOURCE, before=10) == {("ingress-1", 1): 4}
    assert store.watermarks(SOURCE, before=9) == {("ingress-1", 1): 3}
    assert store.watermarks(SOURCE, before=5) == {}


def test_decisions_are_kept_with_what_refused(store: ClickHouse) -> None:
    """A decision comes back with row, limit, use, weight and fence."""
    decision = a_decision()
    rows = DecisionRows(replace(SOURCE, topic="decisions"))
    for month, table in rows.tables(place([Entry(4, NOW_MS, [decision], 1)])).by_month.items():
        store.insert(DECISIONS_TABLE, table, f"d{month}")
    found = store.rows(
        "SELECT toString(id), reason, rule, row_key, limit_value, used_value, asked_value, room_value, weight_num,"
        " weight_den, weight_off, fence, toUnixTimestamp(resets_at), org, tags['env'] FROM decisions"
    )
    assert found == [
        ("00000000-0000-0000-0000-" + decision.id.hex()[-12:], "budget", "team-month", decision.row, 10**9, 999_999_999,
         27_000, 1, 1, 2, 1, 77, 1_796_083_200, "acme", "prod")
    ]  # fmt: skip


def test_ledgers_agree_with_the_sums_of_the_contract(store: ClickHouse) -> None:
    """Sums by organisation and day, and by run, are those of `schemas.usage.Totals`, from events and from rollups."""
    other = attributed(org="beta")
    events = [
        an_event(usage=TokenUsage(10, 1, 2, 3, 4, 5, 6, 7), cost_nanos=123_456_789_123_456_789),
        an_event(cost_nanos=None, charge_nanos=77),
        an_event(occurred_ms=MONTH_END_MS, charge_requests=0),
        an_event(other, status="refused", cost_nanos=0, charge_requests=0, charge_nanos=0, usage=TokenUsage()),
    ]
    insert(store, events)
    by_key = {
        "org=acme/day=2026-11-21": events[:2],
        "org=acme/day=2026-12-01": [events[2]],
        "org=beta/day=2026-11-21": [events[3]],
    }
    expected = {key: as_dict(found) for key, found in by_key.items()}
    for sql in (ledger.BY_DAY, ledger.ROLLUP_BY_DAY, ledger.ACTORS_BY_DAY):
        assert {account["key"]: account["totals"] for account in ledger.by_day(store.rows(sql))} == expected
    by_run = ledger.by_run(store.rows(ledger.BY_RUN))
    assert by_run == [{"key": "instance=ingress-1/epoch=1", "totals": as_dict(events)}]
    for sql in (ledger.BY_HOUR, ledger.RAW_BY_HOUR):
        by_hour = ledger.by_hour(store.rows(sql, {"since": MONTH_END_MS // 1000}))
        assert by_hour == [{"key": "instance=ingress-1/epoch=1/hour=2026-12-01T00Z", "totals": as_dict([events[2]])}]


def as_dict(events: list[UsageEvent]) -> dict[str, int]:
    """Return the sums of events by name."""
    totals = totals_of(events)
    return {name: getattr(totals, name) for name in totals.__struct_fields__}


BYS = ("org", "org,team", "user,model", "key", "status,operation", "day", "hour", "user,hour")
BOUNDS = ((None, None), ("2026-11-21", "2026-12-01"), ("2026-11-21T10:30:00Z", None))


def test_reports_foot_to_the_nano_dollar(store: ClickHouse) -> None:
    """Whatever a report groups by and whichever table answers, rows sum to the totals, and totals to the events."""
    events = [
        an_event(attributed(user=f"u{number % 3}", team=f"t{number % 2}"), cost_nanos=10**15 + number,
                 occurred_ms=NOW_MS - number * 1_700_000, status="failed" if number % 4 == 0 else "settled")
        for number in range(12)
    ]  # fmt: skip
    insert(store, [*events, an_event(cost_nanos=None)])
    tables = set()
    for by, bounds in itertools.product(BYS, BOUNDS):
        query = report.parse(by, *bounds)
        assert isinstance(query, report.SpendQuery)
        tables.add(query.table)
        since = 0 if query.since is None else query.since.timestamp() * 1000
        until = 10**15 if query.until is None else query.until.timestamp() * 1000
        inside = [event for event in events if since <= event.occurred_ms < until]
        found = report.answer(query, store.rows(query.sql(), query.parameters()))
        cost = found.columns.index("cost_usd")
        assert found.totals["events"] == len(inside) + 1, (by, bounds)
        assert found.totals["unpriced_requests"] == 1
        assert nanos(found.totals["cost_usd"]) == sum(event.cost_nanos or 0 for event in inside)
        assert nanos(found.totals["cost_usd"]) == sum(nanos(row[cost]) for row in found.rows if row[cost] is not None)
        assert sum(row[found.columns.index("requests")] for row in found.rows) == found.totals["requests"]
    assert tables == {"usage_events", "usage_hourly", "usage_daily_actor"}


def nanos(usd: str) -> int:
    """Return exact decimal USD as nano-dollars."""
    return int(Decimal(usd).scaleb(9))


def test_a_group_without_any_price_has_no_cost(store: ClickHouse) -> None:
    """Spend that is unknown is shown as unknown, never as 0."""
    insert(store, [an_event(attributed(model="new"), cost_nanos=None), an_event()])
    for by in ("model", "user,model", "model,hour"):
        query = report.parse(by, None, None)
        assert isinstance(query, report.SpendQuery)
        found = report.answer(query, store.rows(query.sql(), query.parameters()))
        rows = {row[found.columns.index("model")]: dict(zip(found.columns, row, strict=True)) for row in found.rows}
        assert (rows["new"]["cost_usd"], rows["new"]["unpriced_requests"]) == (None, 1)
        assert (rows["gpt-4o-mini"]["cost_usd"], rows["gpt-4o-mini"]["unpriced_requests"]) == ("0.000027000", 0)
    assert store.rows("SELECT cost_usd FROM spend_hourly WHERE model = 'new'") == [(None,)]
    assert store.rows("SELECT cost_usd FROM spend_daily WHERE model = 'new'") == [(None,)]


REFUSED = (
    "INSERT INTO usage_events (id) VALUES (generateUUIDv4())", "DROP TABLE usage_events", "SELECT 1; SELECT 2",
    "SELECT * FROM file('/etc/hostname', 'LineAsString')", "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a Int8')",
    "SELECT 1 INTO OUTFILE '/tmp/never.csv'", "SELECT 1 SETTINGS max_result_rows = 0", "KILL QUERY WHERE 1",
    "SELECT * FROM default.`/etc/hostname`", "SELECT nothing FROM usage", "SELECT * FROM numbers(2000)",
    "SELECT", "", "SET readonly = 0", "CREATE TEMPORARY TABLE x (a Int8)", "SELECT 1 FORMAT CSV",
)  # fmt: skip


def test_queries_read_and_do_nothing_else(store: ClickHouse) -> None:
    """What writes, reaches outside, asks twice, is wrong or is too large is refused in words; the next query works."""
    insert(store, [an_event()])
    for sql in REFUSED:
        with pytest.raises(BadQuery) as refused:
            store.ask(sql, "JSONCompact")
        assert str(refused.value), sql
        assert json.loads(store.ask("SELECT toInt64(7), toDecimal64(1, 9) AS d;", "JSONCompact"))["data"] == [[7, "1"]]
    assert not Path("/tmp/never.csv").exists()
    assert counts(store) == (1, 1, 1)
    insert(store, [an_event()], "u")
    assert counts(store) == (2, 2, 2)


def test_schema_is_brought_up_to_date_once(store: ClickHouse) -> None:
    """Opening again applies nothing; a new migration is applied; a changed or an unknown one is refused."""
    client = store._connect(None, {})
    assert migrate.apply(client, store._database) == []
    more = load("0099_more.sql", "CREATE TABLE IF NOT EXISTS more (a Int8) ENGINE = Memory;\n")
    more = replace(more, number=len(migrations()) + 1)
    assert migrate.apply(client, store._database, [*migrations(), more]) == [more]
    assert migrate.apply(client, store._database, [*migrations(), more]) == []
    with pytest.raises(migrate.MigrationError, match="put the file back"):
        migrate.apply(client, store._database, [*migrations(), replace(more, sha256="0" * 64)])
    with pytest.raises(migrate.MigrationError, match="not known to this version"):
        migrate.apply(client, store._database)
    client.close()


def test_a_filled_database_keeps_its_sums(clickhouse_directory: Path) -> None:
    """What an older version has stored counts as before, its ledger by run is filled in, and twice is as once."""
    connect, database = embedded(clickhouse_directory), f"t{uuid4().hex[:12]}"
    client, store = connect(None, {}), ClickHouse(connect, database)
    migrate.apply(client, database, migrations()[:3])
    known = {row[0] for row in client.query("DESCRIBE TABLE usage_events").result_rows}
    events = [an_event(cost_nanos=None), an_event(occurred_ms=MONTH_END_MS)]
    placed = [PlacedEvent(event, "ingress-1", 1, 1, 0, number, NOW_MS) for number, event in enumerate(events)]
    for month, table in UsageRows(SOURCE).tables(placed).by_month.items():
        store.insert(USAGE_TABLE, table.select([name for name in table.column_names if name in known]), f"t/{month}")
    client.command("INSERT INTO usage_events SELECT * FROM usage_events LIMIT 1 SETTINGS insert_deduplicate = 0")
    hourly = "SELECT sum(events), sum(requests), sum(unpriced_events), sum(charge_usd) FROM usage_hourly"
    before = store.rows(hourly)
    migrate.apply(client, database, migrations())
    for _ in range(2):
        for statement in migrations()[3].statements:
            client.command(statement)
        assert store.rows(hourly) == before
        assert ledger.by_run(store.rows(ledger.BY_RUN)) == [
            {"key": "instance=ingress-1/epoch=1", "totals": as_dict(events)}
        ]
    later = an_event(usage=TokenUsage(image_output=7))
    insert(store, [later], "later", offset=1, seq=2)
    totals = as_dict([*events, later])
    assert [account["totals"] for account in ledger.by_run(store.rows(ledger.BY_RUN))] == [totals]
    store.close()
    client.command(f"DROP DATABASE {database} SYNC")
    client.close()


def test_tables_have_what_exactness_rests_on(store: ClickHouse) -> None:
    """Every table that rows are inserted into drops batches that come again, and is split by month."""
    found = store.rows(
        "SELECT name, partition_key, engine_full FROM system.tables WHERE database = currentDatabase()"
        " AND engine LIKE '%MergeTree' AND name != 'schema_migrations' ORDER BY name"
    )
    assert [row[0] for row in found] == [
        "enforcement_decisions", "usage_daily_actor", "usage_events", "usage_hourly", "usage_ledger_hourly",
    ]  # fmt: skip
    for _, partition, engine in found:
        assert partition.startswith("toYYYYMM(")
        assert "non_replicated_deduplication_window = 10000" in engine
        assert "TTL" in engine


def test_one_embedded_engine_is_open_to_many_threads(
    clickhouse: ClickHouse, clickhouse_directory: Path, request: pytest.FixtureRequest
) -> None:
    """Several stores on the one directory of a process share its engine; another directory is refused."""
    again = ClickHouse(embedded(clickhouse_directory), clickhouse._database)
    again.open()
    insert(clickhouse, [an_event()])
    assert counts(again) == (1, 1, 1)
    again.close()
    with pytest.raises(StoreUnavailable, match="different path"):
        ClickHouse(embedded(clickhouse_directory / "other"), "x").open()


def test_arrow_tables_have_the_columns_of_the_schema(store: ClickHouse) -> None:
    """Every column that is not computed by the engine is given by the sink where an event has something to say."""
    event = an_event(usage=TokenUsage(image_input=1), detail=Detail())
    for table, made in (
        (USAGE_TABLE, UsageRows(SOURCE).tables([PlacedEvent(event, "i", 1, 1, 0, 0, NOW_MS)]).of_batch(0, 0)),
        (DECISIONS_TABLE, DecisionRows(SOURCE).tables(place([Entry(0, NOW_MS, [a_decision()], 1)])).of_batch(0, 0)),
    ):
        described = store.rows(f"DESCRIBE TABLE {table}")
        columns = {name for name, _, kind, *_ in described if not kind or (kind == "DEFAULT" and name != "ingested_at")}
        arrow: pa.Table = next(iter(made.by_month.values()))
        assert set(arrow.column_names) == columns


def test_cost_avoided_is_summed_by_rule_team_and_day_once_a_decision(store: ClickHouse) -> None:
    """Refusals, downgrades and cut answers avoid; what only looks would have; the same decision twice is one."""
    other = replace_attribution(team="ml")
    decisions = [
        a_decision(cost_avoided_nanos=1),
        a_decision(cost_avoided_nanos=2, action="downgrade", downgraded_to="gpt-4o-mini"),
        a_decision(cost_avoided_nanos=4, action="shadow", mode="shadow", rung="block"),
        a_decision(cost_avoided_nanos=8, attribution=other, action="terminate"),
        a_decision(cost_avoided_nanos=16, rule="key-day", decided_ms=MONTH_END_MS),
    ]
    rows = DecisionRows(replace(SOURCE, topic="decisions"))
    for token in ("a", "b"):
        for month, table in rows.tables(place([Entry(4, NOW_MS, decisions, 5)])).by_month.items():
            store.insert(DECISIONS_TABLE, table, f"{token}{month}")
    query = avoided.parse("rule,team", None, None)
    assert isinstance(query, avoided.AvoidedQuery)
    found = avoided.answer(query, store.rows(query.sql(), query.parameters()))
    assert found.rows == [
        ["key-day", "search", 1, 1, "0.000000016", "0.000000000"],
        ["team-month", "ml", 1, 1, "0.000000008", "0.000000000"],
        ["team-month", "search", 3, 3, "0.000000003", "0.000000004"],
    ]
    assert found.totals == {
        "decisions": 5, "requests": 5, "avoided_usd": "0.000000027", "would_avoid_usd": "0.000000004",
    }  # fmt: skip
    query = avoided.parse("day,action", "2026-12-01", None)
    assert isinstance(query, avoided.AvoidedQuery)
    assert [row[:3] for row in store.rows(query.sql(), query.parameters())] == [(date(2026, 12, 1), "refuse", 1)]


def replace_attribution(**fields: str) -> Attribution:
    """Return the usual attribution with other fields."""
    return msgspec.structs.replace(ACME, **fields)


def test_a_question_about_decisions_that_cannot_be_answered_names_everything_wrong() -> None:
    """Unknown columns and times that are none are told with what to write."""
    faults = avoided.parse("rule,colour", "yesterday", None)
    assert isinstance(faults, list)
    assert [fault.field for fault in faults] == ["by", "since"]
    assert avoided.parse("rule", "2026-12-01", "2026-11-01") != []
