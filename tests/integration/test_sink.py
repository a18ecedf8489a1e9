"""The history on a real broker and the real engine: exact when it is killed, readable over HTTP, clean when stopped."""

from __future__ import annotations

import asyncio
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from meter.sink.rows import Source, Table
from meter.sink.store import ClickHouse
from schemas.codec import decode_json, encode_decisions, encode_event
from schemas.connection import KafkaConnection
from schemas.crash_points import SINK_POINTS
from schemas.deadletters import DeadLetter
from schemas.ids import format_id
from schemas.usage import Attribution, UsageEvent
from tests.fixtures.broker import Broker
from tests.history_builders import ACME, MONTH_END_MS, a_batch, a_decision, an_event, totals_of
from tests.history_fakes import FakeLog, Fate, Killed
from tests.history_world import Script, live, take_up
from tests.integration.sink_lab import SinkProcess, a_producer, a_sink, read_all

RECORDS = 300


class MortalStore:
    """The real store, in a process that may be killed before and after each insert."""

    def __init__(self, store: ClickHouse) -> None:
        self._store = store
        self.fate = Fate()

    def insert(self, name: str, table: Table, token: str) -> None:
        """See `Store`."""
        self.fate.step()
        self._store.insert(name, table, token)
        self.fate.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_batch_is_whole_wherever_its_process_was_killed(clickhouse: ClickHouse) -> None:
    """Killed at each step of a batch over two months in turn, the real tables end up with each event once."""
    sent: list[UsageEvent] = []
    steps = 2 + 2 * 2 + 2
    for killed_at in range(1, steps + 1):
        source = Source("cluster", "usage", killed_at)
        script = a_script()
        sent += script.expected
        log, store = FakeLog(), MortalStore(clickhouse)
        log.values = script.values
        log.fate = store.fate = Fate(killed_at)
        with pytest.raises(Killed):
            await live(log, store, [0], 100, source)
        log.fate = store.fate = Fate()
        await live(log, store, [0], 100, source)
        assert log.fate.steps in (0, steps - 2, steps), "nothing to do, sent again, or done for the first time"
        assert take_up(log, clickhouse, source).position == len(script.values)
    expected = (len(sent), Decimal(sum(event.cost_nanos or 0 for event in sent)).scaleb(-9))
    assert clickhouse.rows("SELECT count(), sum(cost_usd) FROM usage_events") == [expected]
    for table in ("usage_hourly", "usage_daily_actor"):
        assert clickhouse.rows(f"SELECT sum(events), sum(cost_usd) FROM {table}") == [expected]


def a_script() -> Script:
    """Return a log with events of two months, a duplicate, and records out of order."""
    script = Script()
    script.send(("a", 1), [an_event(occurred_ms=MONTH_END_MS - 1), an_event(occurred_ms=MONTH_END_MS, cost_nanos=None)])
    script.send_again(0)
    script.send(("b", 1), [an_event(cost_nanos=10**18 - 1)])
    script.send_out_of_order(("a", 1), [an_event(), an_event()])
    return script


def connection_to(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return how to reach a broker with two shards under a prefix of one's own."""
    return KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)


def as_dict(events: list[UsageEvent]) -> dict[str, int]:
    """Return the sums of events by name."""
    totals = totals_of(events)
    return {name: getattr(totals, name) for name in totals.__struct_fields__}


async def test_what_was_metered_can_be_asked_for(broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    """Events, duplicates, garbage, decisions go in; reports, SQL, ledgers, status come out; a stop loses nothing."""
    connection = connection_to(broker, topic_prefix)
    usage, decisions = f"{topic_prefix}usage", f"{topic_prefix}decisions"
    priced = [an_event(cost_nanos=10**9 + number) for number in range(5)]
    unpriced = [an_event(Attribution(org="beta", model="new"), cost_nanos=None)]
    too_much = an_event(cost_nanos=10**18)
    decision = a_decision()
    values = [
        a_batch(priced, 1), a_batch([], 2), a_batch(priced, 1), b"garbage",
        a_batch([too_much, b"\x01", *unpriced], 3), a_batch([], 5),
    ]  # fmt: skip
    async with a_sink(connection, tmp_path / "state", max_batch_age_ms=50) as sink, a_producer(connection) as producer:
        for value in values:
            await producer.send_and_wait(usage, value, partition=1)
        await producer.send_and_wait(decisions, encode_decisions([decision]), partition=0)
        await producer.send_and_wait(decisions, b"garbage", partition=0)
        await sink.up_to(len(values))
        await _check_status(sink)
        await _check_ledger(sink, priced, unpriced)
        await _check_reports(sink)
        await _check_refusals(sink)
        found = await sink.until(lambda: _decision(sink, decision.id))
        assert (found["rule"], found["limit_value"], found["org"]) == ("team-month", 10**9, "acme")
        assert await sink.stop() == 0
        letters = [
            decode_json(DeadLetter, (await read_all(connection, f"{topic_prefix}usage.dlq", partition, 1))[0])
            for partition in (0, 1)
        ]
        assert [(letter.topic, letter.partition, letter.offset) for letter in letters] == [
            (decisions, 0, 1),
            (usage, 1, 4),
        ]
        assert letters[1].value == encode_event(too_much)
        assert "billion" in letters[1].reason
        await sink.start()
        await producer.send_and_wait(usage, a_batch(priced, 1), partition=1)
        await producer.send_and_wait(usage, a_batch([an_event()], 4), partition=1)
        await sink.up_to(len(values) + 2)
        assert await sink.events() == len(priced) + len(unpriced) + 1


async def _decision(sink: SinkProcess, decision_id: bytes) -> Any:
    answer = await sink.http.get(f"/v1/decisions/{format_id(decision_id)}")
    return answer.json() if answer.status_code == httpx.codes.OK else None


async def _check_status(sink: SinkProcess) -> None:
    status = await sink.get("/v1/status")
    assert (status["ready"], status["lag"], status["waiting_rows"]) == (True, 0, 0)
    assert (status["duplicates_dropped"], status["gaps"], status["set_aside"]) == (1, 1, 1)
    assert status["undecodable"] >= 2
    assert status["stored_rows"]["usage_events"] == 6
    metrics = (await sink.http.get("/metrics")).text
    assert (
        f'tollway_history_duplicate_records_total{{partition="1",topic="{status["partitions"][-1]["topic"]}"}} 1.0'
        in metrics
    )


async def _check_ledger(sink: SinkProcess, priced: list[UsageEvent], unpriced: list[UsageEvent]) -> None:
    ledger = await sink.get("/v1/ledger")
    by_day = {"org=acme/day=2026-11-21": as_dict(priced), "org=beta/day=2026-11-21": as_dict(unpriced)}
    parts = ("rollups", "actors", "events")
    of = {part: {account["key"]: account["totals"] for account in ledger[part]} for part in parts}
    assert of["rollups"] == of["actors"] == by_day
    assert of["events"] == {**by_day, "instance=ingress-1/epoch=1": as_dict([*priced, *unpriced])}
    assert await sink.get("/v1/ledger", exact="true") == ledger


async def _check_reports(sink: SinkProcess) -> None:
    report = await sink.get("/v1/report/spend", by="org,model")
    rows = [dict(zip(report["columns"], row, strict=True)) for row in report["rows"]]
    assert [(row["org"], row["model"], row["cost_usd"]) for row in rows] == [
        ("acme", ACME.model, "5.000000010"), ("beta", "new", None),
    ]  # fmt: skip
    assert (report["totals"]["cost_usd"], report["totals"]["unpriced_requests"]) == ("5.000000010", 1)
    assert await sink.sql("SELECT model, sum(cost_usd) FROM spend_daily GROUP BY model ORDER BY model") == [
        [ACME.model, "5.00000001"], ["new", None],
    ]  # fmt: skip
    pages = [(await sink.http.get("/v1/usage", params={"limit": 4})).text.splitlines()]
    pages.append(
        (await sink.http.get("/v1/usage", params={"after": json.loads(pages[0][-1])["next"]})).text.splitlines()
    )
    assert [len(lines) - 1 for lines in pages] == [4, 2]
    assert json.loads(pages[1][-1])["next"] is None
    csv = await sink.http.post("/v1/sql", json={"query": "SELECT 1 AS a, 'b,c' AS d", "format": "csv"})
    assert csv.text == '"a","d"\n1,"b,c"\n'


async def _check_refusals(sink: SinkProcess) -> None:
    nobody = await sink.http.get("/v1/status", headers={"Authorization": "Bearer wrong"})
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")
    for path, field, remedy in (
        ("/v1/report/spend?by=colour", "by", "use some of org"),
        ("/v1/report/spend?by=org&since=yesterday", "since", "write 2026-11-01"),
        ("/v1/report/spend?by=org&since=2026-12-01&until=2026-11-01", "until", "not after"),
        ("/v1/usage?after=x", "after", "leave it out"),
        ("/v1/decisions/x", "decision_id", "use that of the refusal"),
    ):
        answer = await sink.http.get(path)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
        assert remedy in answer.json()["error"]["message"]
    for body, status in (
        ({"query": "DROP TABLE usage_events"}, 400),
        ({"query": "SELECT x"}, 400),
        ({"sql": "x"}, 422),
    ):
        answer = await sink.http.post("/v1/sql", json=body)
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True)
    missing = await sink.http.get("/v1/decisions/00000000-0000-0000-0000-00000000ffff")
    assert missing.status_code == 404


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_marked_step_is_one_at_which_it_may_be_killed(
    broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Killed at each place of a batch over two months, each event is there once after the next start."""
    connection = connection_to(broker, topic_prefix)
    sent: list[UsageEvent] = []
    async with a_producer(connection) as producer, a_sink(connection, tmp_path / "state", max_batch_age_ms=30) as sink:
        for seq, place in enumerate(SINK_POINTS[:4], 1):
            await sink.kill()
            events = [an_event(occurred_ms=MONTH_END_MS + when, cost_nanos=7) for when in (-1, 0, 0)]
            await producer.send_and_wait(f"{topic_prefix}usage", a_batch(events, seq), partition=1)
            sent += events
            await sink.dies_at(place)
            await sink.start()
            await sink.up_to(seq)
            sums = await sink.sql(
                "SELECT count(), count() FROM usage_events"
                " UNION ALL SELECT sum(events), sum(requests) FROM usage_hourly"
                " UNION ALL SELECT sum(events), sum(requests) FROM usage_daily_actor"
                " UNION ALL SELECT sum(events), sum(requests) FROM usage_ledger_hourly"
            )
            assert sums == [[len(sent), len(sent)]] * 4, place


@pytest.mark.timeout(180)
async def test_kill_minus_nine_loses_nothing_and_doubles_nothing(
    broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Killed at any moment while it inserts small batches, the history ends up with each event once."""
    connection = connection_to(broker, topic_prefix)
    usage = f"{topic_prefix}usage"
    moments = random.Random(7)
    sent: list[UsageEvent] = []
    seqs = [0, 0]

    async def play() -> None:
        for turn in range(RECORDS):
            shard = turn % 2
            events = [an_event(occurred_ms=MONTH_END_MS + moments.choice((-1, 1)), cost_nanos=turn) for _ in range(5)]
            seqs[shard] += 1
            value = a_batch(events, seqs[shard])
            for _ in range(1 + (turn % 10 == 0)):
                await producer.send_and_wait(usage, value, partition=shard)
            sent.extend(events)

    async with (
        a_producer(connection) as producer,
        a_sink(connection, tmp_path / "state", max_batch_rows=40, max_batch_age_ms=30) as sink,
    ):
        playing = asyncio.create_task(play(), name="replicas")
        for _ in range(2):
            before = await sink.events()
            await sink.until(lambda before=before: _has_more(sink, before))
            await asyncio.sleep(moments.random() * 0.15)
            await sink.kill()
            await sink.start()
        await playing
        await sink.up_to(RECORDS + RECORDS // 10)
        expected = [len(sent), f"{Decimal(sum(event.cost_nanos or 0 for event in sent)).scaleb(-9):f}"]
        rows = await sink.sql(
            "SELECT count(), toString(sum(cost_usd)) FROM usage_events"
            " UNION ALL SELECT sum(events), toString(sum(cost_usd)) FROM usage_hourly"
            " UNION ALL SELECT sum(events), toString(sum(cost_usd)) FROM usage_daily_actor"
        )
        assert [[row[0], Decimal(row[1])] for row in rows] == [[expected[0], Decimal(str(expected[1]))]] * 3
        assert (await sink.sql("SELECT count() FROM usage"))[0][0] == len(sent)
        assert await sink.stop() == 0


async def _has_more(sink: SinkProcess, than: int) -> bool:
    return await sink.events() > than
