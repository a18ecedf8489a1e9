"""The enforcer as a process on a real broker: what it writes, what it answers, what a kill leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from deploy import topics
from deploy.kafka import EmbeddedKafka
from schemas.audit import AuditEntry, broken_link
from schemas.codec import decode_json
from schemas.connection import KafkaConnection
from schemas.decisions import Decision
from schemas.ids import format_id, secret_hash
from schemas.keys import VirtualKey
from schemas.policy import PolicyRecord
from schemas.quota import LedgerState, RowState, Weight
from schemas.topics import ALERTS, ALERTS_SENT, AUDIT, BLOCKS, KEYS, POLICY, QUOTA_UPDATES
from schemas.usage import Attribution, Totals
from schemas.windows import Period, window_at
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import (
    POLICY as DOCUMENT,
)
from tests.integration.enforcer_lab import (
    ROOT,
    Enforcer,
    FakeMeter,
    fake_meter,
    now_ms,
    records,
    running,
    until,
    values,
)

USD = 1_000_000_000


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    return connection


@pytest_asyncio.fixture
async def meter(connection: KafkaConnection) -> AsyncIterator[FakeMeter]:
    """Yield somebody who publishes rows."""
    async with fake_meter(connection) as meter:
        yield meter


def _team_row(settled_usd: int, team: str = "search") -> RowState:
    window = window_at(Period.MONTH, "UTC", now_ms() // 1000)
    return RowState(f"team-month/cost/org=acme,team={team}/{window}", settled_usd * USD, 0)


async def _alerts(connection: KafkaConnection, count: int) -> list[Any]:
    async def enough() -> list[Any] | None:
        found = await values(connection, ALERTS)
        return found if len(found) >= count else None

    found: list[Any] = await until(enough, f"{count} alerts")
    return found


async def test_policies_and_keys_reach_their_topics_before_they_are_answered(connection: KafkaConnection) -> None:
    """Apply, issue, revoke, roll back: each answer's effect is on the log, audited in one unbroken chain."""
    async with running(connection) as enforcer:
        assert (await enforcer.client.get("/v1/policy")).status_code == 404
        applied = await enforcer.apply(note="first")
        assert (applied["version"], applied["applied"], applied["unpriced"]) == (1, True, ["in-house"])
        record = decode_json(PolicyRecord, (await records(connection, POLICY))[0].value)
        assert record.document == DOCUMENT
        assert record.prices["gpt-4o-mini"].source == "genai-prices"

        assert not (await enforcer.apply())["applied"], "the same document makes no version"
        made = await enforcer.create_key(name="laptop")
        stored = decode_json(VirtualKey, (await records(connection, KEYS))[-1].value)
        assert stored.hash == f"sha256:{secret_hash(made['secret'].encode()).hex()}"
        key_id = made["key"]["id"]
        for _ in range(2):
            assert (await enforcer.client.delete(f"/v1/keys/{key_id}")).json()["revoked_ms"] is not None
        assert decode_json(VirtualKey, (await records(connection, KEYS))[-1].value).revoked_ms is not None
        unknown = await enforcer.client.delete("/v1/keys/key_nobody")
        assert unknown.status_code == 404
        assert "tollway keys list" in unknown.json()["error"]["message"]

        second = await enforcer.apply(DOCUMENT.replace("100 USD", "200 USD"), base_version=1)
        assert second["changes"] == [
            {"path": "budgets.team-month.amount", "before": "100 USD", "after": "200 USD"}
        ]  # fmt: skip
        stale = await enforcer.client.post("/v1/policy", json={"document": DOCUMENT, "base_version": 1})
        assert stale.status_code == 409
        back = await enforcer.client.post("/v1/policy/rollback", json={"version": 1})
        assert back.json()["version"] == 3
        assert (await enforcer.get("/v1/policy"))["document"] == DOCUMENT
        assert [item["version"] for item in (await enforcer.get("/v1/policy/history"))["versions"]] == [3, 2, 1]
        assert made["secret"] not in str(await enforcer.get("/v1/keys")) + str(await enforcer.get("/v1/audit"))

    entries = [decode_json(AuditEntry, record.value) for record in await records(connection, AUDIT)]
    assert [entry.action for entry in entries] == [
        "policy.apply", "key.create", "key.revoke", "policy.apply", "policy.rollback",
    ]  # fmt: skip
    assert broken_link(entries) is None
    written = [record for topic in (POLICY, KEYS, AUDIT) for record in await records(connection, topic)]
    everything = b"".join(record.value for record in written)
    assert made["secret"].encode() not in everything


async def test_thresholds_alert_once_through_restarts_and_kills(connection: KafkaConnection, meter: FakeMeter) -> None:
    """Rows repeated, a clean restart and a kill -9 between write and write: each threshold is on the topic once."""
    async with running(connection) as enforcer:
        await enforcer.apply()
        await meter.publish("acme", [_team_row(60)])
        first = (await _alerts(connection, 1))[0]
        assert first["data"]["threshold_percent"] == 50
        assert first["data"]["used_usd"] == "60.000000000"
        assert await enforcer.end(signal.SIGTERM) == 0

    async with running(connection) as enforcer:
        await meter.publish("acme", [_team_row(60), _team_row(55, "ml")])
        await _alerts(connection, 2)
        await meter.publish("acme", [_team_row(120), _team_row(130, "ml")])
        await enforcer.end(signal.SIGKILL)

    async with running(connection) as enforcer:
        found = await _alerts(connection, 4)
        await until(lambda: _blocked(enforcer, 2), "both teams are blocked")
        status = await enforcer.get("/v1/status")
        assert status["alerts"]["sent"] == 4
        await meter.publish("acme", [_team_row(121), _team_row(131, "ml")])
        await until(lambda: _seen(enforcer, 121 * USD), "the next rows are read")
        assert (await enforcer.get("/v1/status"))["alerts"]["sent"] == 4

    found = await values(connection, ALERTS)
    assert len({alert["id"] for alert in found}) == len(found) == 4
    markers = {record.key.decode() for record in await records(connection, ALERTS_SENT)}
    assert markers == {alert["id"] for alert in found}


async def _seen(enforcer: Any, settled: int) -> bool:
    budgets = (await enforcer.get("/v1/budgets"))["budgets"]
    return any(budget["settled"] == settled for budget in budgets)


async def _blocked(enforcer: Any, count: int) -> bool:
    return len((await enforcer.get("/v1/blocks"))["blocks"]) == count


async def test_a_used_up_budget_is_blocked_until_a_higher_amount_leaves_room(
    connection: KafkaConnection, meter: FakeMeter
) -> None:
    """The entry is on the topic, survives a restart, and a raised amount writes a tombstone."""
    async with running(connection) as enforcer:
        await enforcer.apply()
        await meter.publish("acme", [_team_row(100)])
        await until(lambda: _blocked(enforcer, 1), "the team is blocked")
    async with running(connection) as enforcer:
        assert await _blocked(enforcer, 1)
        budget = (await enforcer.get("/v1/budgets"))["budgets"][0]
        assert (budget["exhausted"], budget["remaining"], budget["thresholds_crossed_percent"]) == (True, 0, [50, 100])
        await enforcer.apply(DOCUMENT.replace("100 USD", "150 USD"))
        await until(lambda: _blocked(enforcer, 0), "the block is lifted")
    written = await records(connection, BLOCKS)
    assert {record.key.decode() for record in written} == {"team-month/org=acme,team=search"}
    assert [record.value is None for record in written] == [False, True]


async def test_reading_paths_show_rows_ledgers_decisions_and_status(
    connection: KafkaConnection, meter: FakeMeter
) -> None:
    """What meter and ingress publish is answered with every field named; a damaged snapshot is skipped and counted."""
    decision = Decision(
        id=bytes(range(16)), request_id=bytes(16), decided_ms=now_ms(), instance="ingress-1", action="refuse",
        reason="budget", attribution=Attribution(org="acme", team="search"), rule="team-month", measure="cost",
        limit=100 * USD, used=99 * USD, asked=2 * USD, room=USD, weight=Weight(1, 2, 1), fence=7,
    )  # fmt: skip
    async with running(connection) as enforcer:
        await enforcer.apply()
        await meter.raw(QUOTA_UPDATES, 0, b"TWQ\x09not a snapshot")
        told = Totals(events=3, requests=3, cost_nanos=5)
        await meter.publish(
            "acme",
            [_team_row(10)],
            [
                LedgerState("org=acme/day=2026-11-21", Totals(events=3, unpriced=1), None),
                LedgerState("instance=ingress-1/epoch=1", told, told),
            ],
        )
        await meter.decide([decision])
        alert = (await _alerts(connection, 1))[0]
        assert (alert["type"], alert["data"]["events"]) == ("dev.tollway.usage.unpriced.v1", 1)
        rows = (await enforcer.get("/v1/usage?org=acme"))["rows"]
        assert [(row["settled"], row["limit"], row["used_percent"]) for row in rows] == [(10 * USD, 100 * USD, 10.0)]
        assert (await enforcer.get("/v1/usage?org=other"))["rows"] == []
        ledger = {row["key"]: row for row in (await enforcer.get("/v1/ledger"))["rows"]}
        assert ledger["instance=ingress-1/epoch=1"]["told"]["cost_nanos"] == 5
        shown = await until(lambda: _decision(enforcer, decision.id), "the decision is read")
        assert (shown["limit_usd"], shown["weight"]["den"], shown["attribution"]["team"]) == (
            "100.000000000", 2, "search",
        )  # fmt: skip
        status = await enforcer.get("/v1/status")
        assert any(shard["members"] and shard["staleness_ms"] is not None for shard in status["partitions"])
        metrics = (await enforcer.client.get("/metrics")).text
        assert 'tollway_enforcer_undecodable_total{topic="quota.updates"} 1.0' in metrics
        assert "tollway_enforcer_policy_version 1.0" in metrics


async def _decision(enforcer: Any, decision_id: bytes) -> Any:
    answer = await enforcer.client.get(f"/v1/decisions/{format_id(decision_id)}")
    return answer.json() if answer.status_code == 200 else None


async def test_the_api_is_closed_without_the_token_and_names_every_problem(connection: KafkaConnection) -> None:
    """No token, bad JSON, unknown fields, unknown names: each with its own status, all problems with their paths."""
    async with running(connection) as enforcer:
        client = enforcer.client
        for token in ("", "Bearer wrong", "Basic x"):
            assert (await client.get("/v1/keys", headers={"Authorization": token})).status_code == 401
        assert (await client.post("/v1/keys", content=b"{")).status_code == 400
        bad = await client.post("/v1/keys", json={"organisation": "acme", "expires_ms": "soon"})
        assert bad.status_code == 422
        assert {problem["path"] for problem in bad.json()["error"]["problems"]} == {"org", "organisation", "expires_ms"}
        await enforcer.apply()
        wrong = await client.post("/v1/keys", json={"org": "acme", "team": "nobody", "user": "eve", "expires_ms": 1})
        assert {problem["path"] for problem in wrong.json()["error"]["problems"]} == {"team", "user", "expires_ms"}
        document = DOCUMENT.replace("rpm: 20", "rpm: many").replace("period: month", "period: moon")
        problems = (await client.post("/v1/policy", json={"document": document})).json()["error"]["problems"]
        assert [problem.split(":")[0] for problem in problems] == ["limits.0.rpm", "budgets.0.period"]
        assert (await client.get("/v1/nothing")).status_code == 404
        assert (await client.get("/v1/policy/9")).status_code == 404
        assert (await client.get("/v1/decisions/x")).status_code == 422


async def test_a_second_enforcer_takes_the_right_to_alert_from_the_first(
    connection: KafkaConnection, meter: FakeMeter
) -> None:
    """Two enforcers never send the same alert: the older one is fenced by the broker and ends with a fault."""
    async with running(connection) as first:
        await first.apply()
        async with running(connection) as second:
            await meter.publish("acme", [_team_row(60)])
            await _alerts(connection, 1)
            await meter.publish("acme", [_team_row(110)])
            await _alerts(connection, 2)
            await until(lambda: _seen(second, 110 * USD), "the second reads on")
    found = await values(connection, ALERTS)
    assert len({alert["id"] for alert in found}) == len(found) == 2


@pytest.mark.slow
async def test_a_broker_that_comes_back_finds_the_enforcer_at_work(tmp_path: Path) -> None:
    """While the broker is away the API goes on answering from what it has; afterwards alerts and changes go on."""
    async with EmbeddedKafka(tmp_path) as kafka:
        connection = KafkaConnection(bootstrap=kafka.bootstrap, partitions=2)
        await topics.create(connection)
        async with running(connection) as enforcer:
            await enforcer.apply()
            async with fake_meter(connection) as meter:
                await meter.publish("acme", [_team_row(60)])
                await _alerts(connection, 1)
            await kafka.stop()
            assert await _seen(enforcer, 60 * USD)
            early = Enforcer(connection)
            starting = asyncio.create_task(early.start(), name="an enforcer that starts before its broker")
            await until(partial(_is_listening, early), "it answers, without a broker")
            assert not starting.done()
            assert await early.end(signal.SIGTERM) == 0
            with pytest.raises(AssertionError, match="ended with 0"):
                await starting
            await early.close()
            await kafka.start()
            async with fake_meter(connection) as meter:
                meter.fence = 1_000
                await meter.publish("acme", [_team_row(110)])
                found = await _alerts(connection, 2)
            assert [alert["data"]["threshold_percent"] for alert in found] == [50, 100]
            await enforcer.create_key()
            assert await enforcer.end(signal.SIGTERM) == 0


async def _is_listening(enforcer: Enforcer) -> bool:
    try:
        return (await enforcer.client.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_wrong_settings_end_with_two_and_name_every_fault() -> None:
    """`--check-config` prints all faults, without secrets, and exits with 2."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "TOLLWAY_ENFORCER_PORT": "none",
        "TOLLWAY_ENFORCER_ADMIN_TOKEN": "hush", "TOLLWAY_ENFORCER_KAFKA__PARTITIONS": "0",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enforcer", "--check-config", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    lines = errors.decode()
    assert all(name in lines for name in ("ENFORCER_PORT", "ENFORCER_ADMIN_TOKEN", "KAFKA__PARTITIONS"))
    assert "hush" not in lines
