"""Postings of corrections by the enforcer's process on a real broker: what is written, refused, and left by a kill."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
import pytest_asyncio

from deploy import topics
from enforcer.core.adjustments import derived_id
from schemas.adjusting import FIRST_PRICE
from schemas.audit import AuditEntry, broken_link
from schemas.codec import decode_attribution, decode_event, decode_json, decode_record, decode_rows
from schemas.connection import KafkaConnection
from schemas.ids import shard_of
from schemas.topics import AUDIT, USAGE
from schemas.usage import Batch, UsageEvent
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import Enforcer, now_ms, records, running

ORGS = ("acme", "globex", "wayne")


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    return connection


def chunk(number: int, first: int, count: int) -> dict[str, Any]:
    """Return corrections `first` and on, one cent each, in turn of the organisations."""
    targets = [
        [[org, "chat", "search", "ada", "key_1", "openai", "gpt-4o-mini"], [f"team/cost/org={org}/month@0+9"]]
        for org in ORGS
    ]
    adjustments = [
        [_b64(derived_id(n)), n % 3, now_ms(), "m", -n, -n, "price:2", _b64(derived_id("event", n)), 1, n % 2 == 0]
        for n in range(first, first + count)
    ]  # fmt: skip
    return {"chunk": number, "targets": targets, "adjustments": adjustments}


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


async def begin(enforcer: Enforcer, after: int | None = None) -> httpx.Response:
    """Begin a posting over what is there, or over another state."""
    last = (await enforcer.get("/v1/adjustments"))["last"] if after is None else after
    body = {"after": last, "reason": "reprice", "actor": "ann", "detail": {"events": 700}}
    return await enforcer.client.post("/v1/adjustments", json=body)


async def written(connection: KafkaConnection) -> tuple[list[Batch], list[UsageEvent]]:
    """Return all records of corrections and their events; each is in the partition of its organisation."""
    batches: list[Batch] = []
    events: list[UsageEvent] = []
    for partition in range(connection.partitions):
        for record in await records(connection, USAGE, partition):
            batch = decode_record(record.value)
            assert isinstance(batch, Batch)
            batches.append(batch)
            for raw in batch.events:
                event = decode_event(raw)
                assert shard_of(decode_attribution(event.attribution).org, connection.partitions) == partition
                events.append(event)
    return batches, events


async def test_a_posting_is_on_the_log_when_it_is_answered_and_in_the_audit_chain(connection: KafkaConnection) -> None:
    """Contiguous records, told totals and a final one by partition; announced before, concluded with sums after."""
    async with running(connection) as enforcer:
        begun = (await begin(enforcer)).json()
        assert begun["ends"] == {"0": 0, "1": 0}
        number = begun["posting"]
        for place, (first, count) in enumerate([(0, 500), (500, 200)], 1):
            answer = await enforcer.client.post(f"/v1/adjustments/{number}", json=chunk(place, first, count))
            assert answer.status_code == 200, answer.text
        ended = (await enforcer.client.post(f"/v1/adjustments/{number}/end")).json()
        batches, events = await written(connection)
        assert len(events) == len({event.id for event in events}) == 700
        assert sum(event.cost_nanos or 0 for event in events) == ended["cost_nanos"] == -sum(range(700))
        assert (ended["adjustments"], ended["records"]) == (700, len(batches))
        seven = next(event for event in events if event.id == derived_id(7))
        assert seven.detail is not None
        assert (seven.detail.corrects, seven.detail.note, seven.detail.flags) == (derived_id("event", 7), "price:2", ())
        eight = next(event for event in events if event.id == derived_id(8))
        assert eight.detail is not None
        assert eight.detail.flags == (FIRST_PRICE,)
        assert decode_rows(seven.rows) == ["team/cost/org=globex/month@0+9"]
        for partition in range(connection.partitions):
            own = [decode_record(record.value) for record in await records(connection, USAGE, partition)]
            runs = [batch for batch in own if isinstance(batch, Batch)]
            assert [batch.seq for batch in runs] == list(range(1, len(runs) + 1))
            assert [batch.final for batch in runs] == [False] * (len(runs) - 1) + [True]
            assert runs[-1].told.events == sum(len(batch.events) for batch in runs)
            assert {(batch.instance, batch.epoch) for batch in runs} == {("enforcer/adjust", number)}
        look = await enforcer.get("/v1/adjustments")
        assert (look["last"], look["under_way"]) == (number, "")
    entries = [decode_json(AuditEntry, record.value) for record in await records(connection, AUDIT)]
    assert broken_link(entries) is None
    assert [(entry.action, entry.actor, entry.number) for entry in entries] == [
        ("adjustments.begin", "ann", number), ("adjustments.end", "ann", number + 1)
    ]  # fmt: skip
    assert (entries[0].detail["reason"], entries[0].detail["events"]) == ("reprice", 700)
    assert entries[1].detail["adjustments"] == 700


async def test_one_posts_at_a_time_and_over_what_it_has_seen(connection: KafkaConnection) -> None:
    """Another posting is refused while one is under way, and one that was computed before another began."""
    async with running(connection) as enforcer:
        number = (await begin(enforcer)).json()["posting"]
        second = await begin(enforcer)
        assert second.status_code == 409
        assert f"posting {number} of ann is under way" in second.json()["error"]["message"]
        assert f"posting {number}" in (await enforcer.get("/v1/adjustments"))["under_way"]
        await enforcer.client.post(f"/v1/adjustments/{number}/end")
        stale = await begin(enforcer, after=0)
        assert stale.status_code == 409
        assert "was begun after these corrections were computed" in stale.json()["error"]["message"]
        late = await enforcer.client.post(f"/v1/adjustments/{number}", json=chunk(1, 0, 1))
        assert late.status_code == 404
        assert (await written(connection))[1] == []


async def test_a_chunk_that_is_not_valid_is_named_and_nothing_of_it_is_posted(connection: KafkaConnection) -> None:
    """Every problem with its place; a chunk that was sent twice is refused, and counts once."""
    async with running(connection) as enforcer:
        number = (await begin(enforcer)).json()["posting"]
        path = f"/v1/adjustments/{number}"
        bad = chunk(1, 0, 3)
        bad["targets"][1][0][0] = ""
        bad["adjustments"][2][4] = 10**18
        bad["adjustments"][0][1] = 9
        problems = (await enforcer.client.post(path, json=bad)).json()["error"]["problems"]
        assert [text.split(":")[0] for text in problems] == ["targets.1", "adjustments.0", "adjustments.2"]
        assert (await enforcer.client.post(path, json={"chunk": 1})).status_code == 422
        assert (await enforcer.client.post(path, content=b"{")).status_code == 400
        assert (await enforcer.client.post(path, json=chunk(1, 0, 5))).status_code == 200
        again = await enforcer.client.post(path, json=chunk(1, 0, 5))
        assert again.status_code == 409
        await enforcer.client.post(f"{path}/end")
        assert len((await written(connection))[1]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("place", ["posting_announced", "correction_written:2", "posting_closed"])
async def test_what_a_kill_leaves_can_be_gone_on_from(
    connection: KafkaConnection, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written stands; the next posting is a run of its own, over a log whose end it is told."""
    monkeypatch.setenv("TOLLWAY_CRASH_AT", f"enforcer.{place}")
    async with running(connection) as enforcer:
        with pytest.raises(httpx.TransportError):
            await _post_all(enforcer, 600)
    monkeypatch.delenv("TOLLWAY_CRASH_AT")
    batches, events = await written(connection)
    written_before = {"posting_announced": 0, "correction_written:2": 2, "posting_closed": len(batches)}[place]
    assert len(batches) == written_before
    async with running(connection) as enforcer:
        look = await enforcer.get("/v1/adjustments")
        assert sum(look["ends"].values()) == len(batches)
        await _post_all(enforcer, 3)
    after, more = await written(connection)
    assert len(more) == len(events) + 3
    assert len({(batch.epoch, batch.instance) for batch in after}) == (1 if place == "posting_announced" else 2)
    entries = [decode_json(AuditEntry, record.value) for record in await records(connection, AUDIT)]
    assert broken_link(entries) is None
    assert [entry.action for entry in entries] == ["adjustments.begin", "adjustments.begin", "adjustments.end"]


async def _post_all(enforcer: Enforcer, count: int) -> None:
    number = (await begin(enforcer)).json()["posting"]
    answer = await enforcer.client.post(f"/v1/adjustments/{number}", json=chunk(1, 0, count))
    assert answer.status_code == 200, answer.text
    await enforcer.client.post(f"/v1/adjustments/{number}/end")
