"""Answers that end badly on real sockets, in every protocol, and other models that follow where a provider fails."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from schemas.codec import decode_attribution
from schemas.usage import UsageEvent
from tests.stream.ingress_lab import POLICY, Lab, RawClient, chat, client, post, running

PATHS = {
    "chat": ("/v1/chat/completions", "gpt-4o-mini", "messages"),
    "responses": ("/v1/responses", "gpt-4o-mini", "input"),
    "messages": ("/v1/messages", "claude-sonnet", "messages"),
}
"""Path, model, and where the prompt is."""


async def _ask(lab: Lab, api: str, wish: str, **fields: Any) -> tuple[int, bytes, UsageEvent]:
    path, model, where = PATHS[api]
    prompt = f"[[sim output=12 chunks=4 {wish}]] x"
    asked = prompt if where == "input" else [{"role": "user", "content": prompt}]
    body = {"model": model, where: asked, **({"max_tokens": 50} if api == "messages" else {}), **fields}
    before = len(lab.journal.events)
    raw = await RawClient.connect(lab)
    raw.send(post(msgspec.json.encode(body), path=path))
    status, _, answer = await raw.answer()
    await raw.close()
    return status, answer, (await lab.journal.until(before + 1))[-1]


def _flags(event: UsageEvent) -> tuple[str, ...]:
    return () if event.detail is None else event.detail.flags


@pytest.mark.parametrize("api", PATHS)
async def test_an_error_event_fails_the_stream(api: str) -> None:
    """The client gets it as the provider sent it; what was relayed before is charged by estimate."""
    async with running() as lab:
        status, answer, event = await _ask(lab, api, "fail=error_event", stream=True)
        assert (status, b'"error"' in answer) == (200, True)
        assert (event.status, event.error, event.http_status) == ("failed", "provider_error_event", 200)
        assert (event.usage_source, event.usage.output > 0) == ("estimated", True)
        assert lab.simulator.ledger.totals.requests == 0


@pytest.mark.parametrize("api", PATHS)
async def test_an_error_inside_a_200_fails_the_request(api: str) -> None:
    """A status that says otherwise does not make it an answer: nothing was used."""
    async with running() as lab:
        status, answer, event = await _ask(lab, api, "fail=error_inside")
        assert (status, b'"error"' in answer) == (200, True)
        assert (event.status, event.error) == ("failed", "provider_error_answer")
        assert (event.usage_source, event.charge_requests, event.charge_nanos) == ("none", 1, 0)


@pytest.mark.parametrize("api", PATHS)
async def test_a_stream_without_its_end_is_incomplete(api: str) -> None:
    """Properly framed, but neither usage nor terminator came: nobody knows what is missing."""
    async with running() as lab:
        status, _, event = await _ask(lab, api, "fail=no_end", stream=True)
        assert (status, event.status, event.error) == (200, "failed", "provider_incomplete")
        assert (event.usage_source, event.usage.output > 0) == ("estimated", True)


@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_a_stream_without_its_terminator_is_settled_by_its_usage(api: str) -> None:
    """The last word of the provider was there: it counts, and a flag says what was missing."""
    async with running() as lab:
        _, _, event = await _ask(lab, api, "fail=no_terminator", stream=True)
        assert (event.status, event.usage_source, event.usage.all_output) == ("settled", "provider", 12)
        assert _flags(event) == ("no_terminator",)


# -- other models ----------------------------------------------------------------------------------------------------

FALLBACK = POLICY.replace("gone-model: {provider: gone}", "gone-model: {provider: gone, fallback: {to: gpt-4o-mini}}")
ON_ERRORS = POLICY.replace(
    "gpt-4o-mini: {provider: oai}",
    "gpt-4o-mini: {provider: oai, fallback: {to: spare, after: [5xx, timeout]}}\n  spare: {provider: oai}",
)


async def test_another_model_serves_where_a_provider_cannot_be_reached() -> None:
    """One request, two attempts, two events; the client sees an answer."""
    async with running(FALLBACK) as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json={**chat("[[sim output=9]] x"), "model": "gone-model"})
        assert answer.status_code == 200
        assert answer.headers["x-tollway-model"] == "gpt-4o-mini"
        assert answer.headers["x-tollway-attempt"] == "2"
        first, second = await lab.journal.until(2)
        assert (first.attempt, first.status, first.error, first.charge_requests) == (1, "failed", "provider_connect", 0)
        assert (second.attempt, second.status, second.usage.output) == (2, "settled", 9)
        assert first.request_id == second.request_id == first.id
        assert answer.headers["x-tollway-request-id"].replace("-", "") == first.id.hex()
        assert answer.headers["x-tollway-event-id"].replace("-", "") == second.id.hex()
        served = decode_attribution(second.attribution)
        assert (served.provider, served.model, served.model_requested) == ("oai", "gpt-4o-mini", "gone-model")


@pytest.mark.parametrize(("wish", "error"), [("status=503", "provider_status_503"), ("fail=timeout", None)])
async def test_each_attempt_is_counted_by_itself(wish: str, error: str | None) -> None:
    """The spare model gets the same request, and fails as it does: both are events, and the client gets the last."""
    async with running(ON_ERRORS) as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json=chat(f"[[sim {wish}]] x"))
        assert answer.status_code in (503, 504)
        events = await lab.journal.until(2)
        assert [event.attempt for event in events] == [1, 2]
        assert {event.error for event in events} == {error or "provider_first_byte_timeout"}
        assert {_flags(event) for event in events} == {() if error else ("no_answer",)}
        assert lab.simulator.ledger.totals.received == 2


async def test_a_fallback_is_held_to_the_limits_of_the_model_that_serves() -> None:
    """No room there: the client gets the failure, and nothing was sent."""
    limited = FALLBACK + "limits: [{name: tight, match: {model: gpt-4o-mini}, per: [org], rpm: 1}]\n"
    async with running(limited) as lab, client(lab) as http:
        asked = {**chat(), "model": "gone-model"}
        assert (await http.post("/v1/chat/completions", json=asked)).status_code == 200
        assert (await http.post("/v1/chat/completions", json=asked)).status_code == 502
        events = await lab.journal.until(3)
        assert [(event.attempt, event.status) for event in events] == [(1, "failed"), (2, "settled"), (1, "failed")]
        assert lab.simulator.ledger.totals.received == 1


async def test_a_stale_connection_is_no_attempt() -> None:
    """The provider closes an idle connection in the very moment of a request: sent once more, and one event."""
    async with running() as lab, client(lab) as http:
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200
        lab.journal.held = []
        asked = asyncio.create_task(http.post("/v1/chat/completions", json=chat()))
        async with asyncio.timeout(10):
            while not lab.journal.held:
                await asyncio.sleep(0)
        (then,), lab.journal.held = lab.journal.held, None
        (connection,) = lab.simulator.connections
        connection.transport.abort()  # closes in the next turn of the loop, in which the request is sent after it
        asyncio.get_running_loop().call_soon(then)
        assert (await asked).status_code == 200
        assert (lab.pool.retried_total, lab.simulator.ledger.totals.received) == (1, 2)
        events = await lab.journal.until(2)
        assert [(event.status, event.attempt, event.charge_requests) for event in events] == [("settled", 1, 1)] * 2
