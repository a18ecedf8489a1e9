"""Decisions: each can be listed, shown and recomputed from the log; one that was tampered with is found out."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import msgspec
import openai
import pytest
from aiokafka import AIOKafkaProducer

from deploy.explain import log, verdict
from schemas.codec import encode_decisions
from schemas.connection import KafkaConnection
from schemas.decisions import Decision
from schemas.ids import parse_id
from schemas.topics import DECISIONS, topic_name
from tests.e2e.stack import Stack, eventually, policy

LIMITS = """[
  {name: key-minute, per: [key], rpm: 12, ladder: {50%: warn, 100%: block}},
  {name: team-look, per: [team], rpm: 4, mode: shadow},
  {name: user-tokens, per: [user], tpm: 100000},
]"""
BUDGETS = "[{name: team-day, per: [team], amount: 0.004 USD, period: day}]"


def _ask(client: openai.OpenAI, output: int = 10) -> str:
    """Send a request; return the id of the decision that refused it, or nothing."""
    try:
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": f"[[sim output={output}]] Hello."}],
            max_tokens=output,
        )  # fmt: skip
    except openai.RateLimitError as error:
        return error.response.headers["x-tollway-decision-id"]
    return ""


@pytest.mark.slow
def test_decisions_of_two_replicas_follow_from_the_log_and_forged_ones_do_not(stack: Stack, org: str) -> None:
    """A refusal by requests and one by money agree; copies that say something else are found out, with exit code 1."""
    stack.apply(policy("[{name: key-minute, per: [key], rpm: 12}]", BUDGETS, org=org))
    secret = stack.key(org=org)["secret"]
    clients = [stack.openai(secret, replica) for replica in (0, 1)]
    refused = [found for number in range(20) if (found := _ask(clients[number % 2]))]
    other = stack.openai(stack.key(org=org, team="ml", user="bob")["secret"])
    spent = eventually(lambda: _ask(other, output=3_000), 30)
    connection = KafkaConnection.model_validate(json.loads((stack.state / "run.json").read_text())["kafka"])
    for explained in asyncio.run(_explained(connection, [refused[0], refused[-1], spent])):
        assert explained.verdict == "agrees", explained
        assert {check.name for check in explained.checks} >= {"right", "others", "own part", "room", "rule"}
    text = stack.run("explain", refused[0])
    assert "rule 'key-minute': requests of" in text
    assert "limit 12" in text
    assert text.rstrip().endswith("agrees")

    lies: list[dict[str, Any]] = [{"right": 1, "room": -2}, {"used": 40}, {"instance": "ingress-9"}, {"limit": 2}]
    forged = [asyncio.run(_forge(connection, refused[0], fields)) for fields in lies]
    assert [each.verdict for each in asyncio.run(_explained(connection, forged))] == ["differs"] * len(lies)
    assert "DIFFERS: right: recorded 1" in stack.run("explain", forged[0], code=1)


async def _explained(connection: KafkaConnection, ids: list[str]) -> list[verdict.Explained]:
    """Recompute decisions as the command does."""
    explained = []
    async with log.reading(connection) as reader:
        for decision_id in ids:
            found = await reader.decision(parse_id(decision_id))
            assert found is not None
            explained.append(await verdict.explain(reader, found, connection.partitions, lambda _: None))
    return explained


@pytest.mark.slow
def test_decisions_of_every_kind_are_listed_summed_and_explained(stack: Stack, org: str) -> None:
    """A warning and a shadow rule's finding are decisions like a refusal; what they would have saved is apart."""
    stack.apply(policy(LIMITS, BUDGETS, org=org))
    client = stack.openai(stack.key(org=org)["secret"])
    refused = [found for _ in range(20) if (found := _ask(client))]
    shadowed = eventually(lambda: _listed(stack, org, "team-look", action="shadow"))
    warned = eventually(lambda: _listed(stack, org, "key-minute", action="warn"))
    for decision_id in (refused[0], shadowed[0]["id"], warned[0]["id"]):
        explained = stack.json("explain", decision_id)
        assert explained["recomputed"]["verdict"] == "agrees", explained
    assert stack.json("decision", refused[0])["rule"] == "key-minute"
    rows = eventually(lambda: _avoided(stack, org, {"key-minute", "team-look"}))
    by_rule = {row["rule"]: row for row in rows}
    assert by_rule["key-minute"]["decisions"] >= len(refused)
    assert float(by_rule["key-minute"]["avoided_usd"]) > 0
    assert float(by_rule["team-look"]["avoided_usd"]) == 0 < float(by_rule["team-look"]["would_avoid_usd"])
    assert "no decision" in stack.run("explain", str(uuid.uuid4()), code=2)
    assert "not a decision id" in stack.run("explain", "nonsense", code=2)


def _listed(stack: Stack, org: str, rule: str, **wanted: str) -> list[dict[str, Any]]:
    options = [part for name, value in wanted.items() for part in (f"--{name}", value)]
    found = stack.json("decision", "list", "--org", org, "--rule", rule, *options)
    return list(found["decisions"])


def _avoided(stack: Stack, org: str, rules: set[str]) -> list[dict[str, Any]] | None:
    report = json.loads(stack.run("report", "avoided", "--by", "org,rule", "--format", "json"))
    rows = [row for row in report["rows"] if row["org"] == org]
    return rows if {row["rule"] for row in rows} >= rules else None


async def _forge(connection: KafkaConnection, decision_id: str, fields: dict[str, Any]) -> str:
    """Put a copy of a decision that says something else on its topic; return its id."""
    async with log.reading(connection) as reader:
        found = await reader.decision(parse_id(decision_id))
    assert found is not None
    made: Decision = msgspec.structs.replace(
        found.decision, id=found.decision.id[:8] + uuid.uuid4().bytes[8:], **fields
    )
    producer = AIOKafkaProducer(**connection.client_options())
    await producer.start()
    try:
        name = topic_name(DECISIONS, connection.topic_prefix)
        await producer.send_and_wait(name, encode_decisions([made]), partition=found.partition)
    finally:
        await producer.stop()
    return str(uuid.UUID(bytes=made.id))
