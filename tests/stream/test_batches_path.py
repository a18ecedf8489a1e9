"""Batches through a real ingress in front of the simulated provider: what is told, when, and what clients then have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from schemas.batches import LINES_PER_RECORD, LinesSeen, line_id
from schemas.codec import decode_attribution
from tests.stream.ingress_lab import Lab, RawClient, client, running

POLICY = """
orgs: {acme: {teams: [search]}}
providers:
  oai: {protocol: openai, base_url: simulated}
  ant: {protocol: anthropic, base_url: simulated}
models:
  gpt-4o-mini: {provider: oai}
  claude-haiku-4-5: {provider: ant}
  account: {provider: oai, operations: [files, batches]}
  claude-account: {provider: ant, operations: [messages.batches]}
max_body_bytes: 4194304
"""
ANTHROPIC = {"anthropic-version": "2023-06-01"}


def lines_of(count: int) -> bytes:
    """Return a file of requests."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    return b"".join(
        msgspec.json.encode({"custom_id": f"r-{at}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        + b"\n"
        for at in range(count)
    )


async def created(http: httpx.AsyncClient, count: int, sim: str = "") -> dict[str, Any]:
    """Create a batch of OpenAI's."""
    file = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines_of(count))})
    body = {
        "input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"sim": sim} if sim else {},
    }  # fmt: skip
    answer = await http.post("/v1/batches", json=body)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def messages(http: httpx.AsyncClient) -> dict[str, Any]:
    """Create a batch of Anthropic's with a request that fails."""
    params = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    bad = {**params, "messages": [{"role": "user", "content": "[[sim status=400]] x"}]}
    wanted = [
        {"custom_id": "a", "params": params},
        {"custom_id": "b", "params": bad},
        {"custom_id": "c", "params": params},
    ]
    answer = await http.post("/v1/messages/batches", json={"requests": wanted})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def used_by_lines(lab: Lab) -> int:
    """Return the tokens of all lines that were told, each once."""
    return sum(line.usage.total for line in {line.id: line for line in lab.batches.lines}.values() if line.usage)


def used_by_provider(lab: Lab) -> int:
    """Return the tokens of the provider's ledger."""
    return sum(entry.input + entry.output for entry in lab.simulator.ledger.entries)


async def test_a_batch_is_told_from_its_creation_to_its_lines() -> None:
    """Created, over with its total, each line of its results; both come to what the provider's ledger has."""
    async with running(POLICY) as lab, client(lab) as http:
        batch = await created(http, 3)
        (first,) = lab.batches.seen
        assert (first.batch_id, first.is_created, first.is_over, first.total) == (batch["id"], True, False, None)
        assert (first.provider, first.operation) == ("oai", "chat.completions")
        about = decode_attribution(first.attribution)
        assert (about.org, about.team, about.model) == ("acme", "search", "account")
        done = (await http.get(f"/v1/batches/{batch['id']}")).json()
        last = lab.batches.seen[-1]
        assert (last.is_created, last.is_over, last.requests, last.model) == (False, True, 3, "gpt-4o-mini")
        assert last.file_ids == (done["output_file_id"],)
        assert last.total is not None
        text = (await http.get(f"/v1/files/{done['output_file_id']}/content")).content
        assert len(text.splitlines()) == 3
        assert [line.id for line in lab.batches.lines] == [line_id(f"r-{at}") for at in range(3)]
        assert {line.service_tier for line in lab.batches.lines} == {"batch"}
        assert used_by_lines(lab) == last.total.total == used_by_provider(lab) > 0
        assert {event.charge_tokens for event in lab.journal.events} == {0}


async def test_batches_of_older_kinds_are_told() -> None:
    """Without usage or a model of its own a batch has no total; a list tells each."""
    async with running(POLICY) as lab, client(lab) as http:
        batch = await created(http, 2, "no_usage no_model")
        await http.get(f"/v1/batches/{batch['id']}")
        await created(http, 1)
        await http.get("/v1/batches?limit=10")
        assert {(each.batch_id == batch["id"], each.is_over) for each in lab.batches.seen[-2:]} == {
            (True, True), (False, False),
        }  # fmt: skip
        assert [each.total for each in lab.batches.seen if each.batch_id == batch["id"]] == [None] * 3


async def test_message_batch_is_told_and_leads_here() -> None:
    """The address of its results is that of the gateway as the client calls it; only what succeeded is told."""
    async with running(POLICY) as lab, client(lab, **ANTHROPIC) as http:
        batch = await messages(http)
        done = (await http.get(f"/v1/messages/batches/{batch['id']}")).json()
        assert done["results_url"] == f"{lab.url}/v1/messages/batches/{batch['id']}/results"
        page = (await http.get("/v1/messages/batches", headers={"x-forwarded-proto": "https"})).json()
        assert page["data"][0]["results_url"] == done["results_url"].replace("http://", "https://")
        results = await http.get(done["results_url"])
        assert {json.loads(line)["custom_id"] for line in results.text.splitlines()} == {"a", "b", "c"}
        told = lab.batches.told[-1]
        assert isinstance(told, LinesSeen)
        assert (told.provider, told.batch_id, told.file_id) == ("ant", batch["id"], "")
        assert {line.id for line in told.lines} == {line_id("a"), line_id("c")}
        assert [(each.is_created, each.is_over, each.requests) for each in lab.batches.seen] == [
            (True, False, 0), (False, True, 2), (False, True, 2),
        ]  # fmt: skip
        assert used_by_lines(lab) == used_by_provider(lab) > 0
        gone = await http.delete(f"/v1/messages/batches/{batch['id']}")
        assert gone.json()["type"] == "message_batch_deleted"
        assert {event.operation for event in lab.journal.events} == {"messages.batches"}


async def test_answer_waits_for_the_log_of_batches() -> None:
    """While it hangs the client has nothing; where it gives up, an error that SDKs ask again after."""
    async with running(POLICY) as lab, client(lab) as http:
        lab.batches.held = []
        asked = asyncio.create_task(created(http, 1), name="creates")
        await lab.batches.until(1)
        assert [event.operation for event in lab.journal.events] == ["files"]
        assert not asked.done()
        lab.batches.release(True)
        path = f"/v1/batches/{(await asked)['id']}"
        lab.batches.is_lost = True
        answer = await http.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"]["code"] == "batch_not_recorded"
        lab.batches.is_lost = False
        assert (await http.get(path)).status_code == 200
        assert [event.error for event in lab.journal.events] == ["", "", "batch_not_recorded", ""]


async def test_last_piece_of_results_waits_for_the_log_of_batches() -> None:
    """Many lines go in several records; what is lost of them cuts the file off, and it is told all again."""
    count = 2 * LINES_PER_RECORD + 7
    async with running(POLICY) as lab, client(lab) as http:
        batch = await created(http, count)
        done = (await http.get(f"/v1/batches/{batch['id']}")).json()
        path = f"/v1/files/{done['output_file_id']}/content"
        lab.batches.is_lost = True
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(path)
        lab.batches.is_lost = False
        lab.batches.told.clear()
        whole = await http.get(path)
        assert len(whole.text.splitlines()) == count
        assert [len(each.lines) for each in lab.batches.told if isinstance(each, LinesSeen)] == [500, 500, 7]
        assert used_by_lines(lab) == used_by_provider(lab)
        assert {event.error for event in lab.journal.events} == {"", "batch_not_recorded"}


async def test_client_that_hangs_up_on_results_is_told_of() -> None:
    """What went by is on the log though nobody has all of the file."""
    async with running(POLICY) as lab, client(lab) as http:
        batch = await created(http, 3_000)
        done = (await http.get(f"/v1/batches/{batch['id']}")).json()
        raw = await RawClient.connect(lab)
        secret = http.headers["authorization"]
        raw.send(f"GET /v1/files/{done['output_file_id']}/content HTTP/1.1\r\nhost: x\r\n"
                 f"authorization: {secret}\r\n\r\n".encode())  # fmt: skip
        async with asyncio.timeout(10):
            await raw.reader.readexactly(100_000)
        await raw.close()
        events = len(lab.journal.events)
        await lab.journal.until(events + 1)
        assert len(lab.batches.lines) > 100


@pytest.mark.parametrize("operation", ["files", "batches", "messages.batches"])
async def test_nobody_has_batches_whom_the_policy_does_not_give_them(operation: str) -> None:
    """Each of the operations by itself, and a model that has others does not serve them."""
    policy = POLICY.replace(f"[{operation}]", "[messages]").replace(f", {operation}]", "]")
    policy = policy.replace(f"[{operation}, ", "[")
    async with running(policy) as lab, client(lab, **ANTHROPIC) as http:
        answer = await http.get(f"/v1/{operation.replace('.', '/')}")
        assert answer.status_code == 403
        assert lab.journal.events[-1].error == "wrong_operation"


async def test_creation_is_refused_when_the_budget_is_used_up() -> None:
    """Nothing may be begun that nobody can pay for; what is there may be looked at."""
    policy = POLICY + "budgets: [{name: day, per: [team], amount: 0.000001 USD, period: day}]\n"
    async with running(policy) as lab, client(lab, **ANTHROPIC) as http:
        batch = await created(http, 1)
        wish = [{"role": "user", "content": "[[sim output=9999]] x"}]  # much more than is asked for
        spend = {"model": "gpt-4o-mini", "messages": wish, "max_tokens": 9}
        assert (await http.post("/v1/chat/completions", json=spend)).status_code == 200
        body = {"input_file_id": batch["input_file_id"], "endpoint": "/v1/x", "completion_window": "24h"}
        for path, asked in (("/v1/batches", body), ("/v1/messages/batches", {"requests": []})):
            refused = await http.post(path, json=asked)
            assert refused.status_code == 429
        assert (await http.get(f"/v1/batches/{batch['id']}")).status_code == 200
