"""The request path on real sockets: client, ingress, simulated provider."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from tests.stream.ingress_lab import POLICY, RawClient, chat, client, org_of, post, running


def _encoded(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)


async def test_answer_is_the_providers_byte_for_byte() -> None:
    """The body a client gets through Tollway is the one it gets from the provider."""
    async with running() as lab, client(lab) as http:
        body = chat("same [[not a wish]] nonce=1")
        through = await http.post("/v1/chat/completions", json=body)
        async with httpx.AsyncClient() as direct:
            straight = await direct.post(f"{lab.simulator.url}/v1/chat/completions", json=body)
        ours, theirs = through.json(), straight.json()
        assert (through.status_code, through.headers["content-type"]) == (200, straight.headers["content-type"])
        for answer in (ours, theirs):
            del answer["id"], answer["created"]
        assert ours == theirs
        assert float(through.headers["x-tollway-cost-usd"]) > 0
        assert through.headers["x-tollway-policy-version"] == "7"
        (event,) = lab.journal.events
        assert event.usage.total == ours["usage"]["total_tokens"]
        assert (event.status, org_of(event)) == ("settled", "acme")


async def test_streamed_answer_arrives_in_pieces_and_hides_only_what_we_asked_for() -> None:
    """Parts arrive as the provider sends them; the usage chunk does not unless the client asked."""
    async with running() as lab, client(lab) as http:
        for options, expected in ((None, 0), ({"include_usage": True}, 1)):
            body = chat("[[sim output=30 chunks=5 delay_ms=10]] story", stream=True)
            if options:
                body["stream_options"] = options
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                parts = [part async for part in answer.aiter_raw()]
            text = b"".join(parts)
            events = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: {")]
            assert len(parts) >= 5
            assert text.endswith(b"data: [DONE]\n\n")
            assert sum(bool(json.loads(event).get("usage")) for event in events) == expected
        assert [event.usage.output for event in lab.journal.events] == [30, 30]
        assert {event.usage_source for event in lab.journal.events} == {"provider"}


async def test_last_bytes_wait_for_the_log() -> None:
    """A client never sees the end of an answer whose usage is not on the log."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        lab.journal.held = []
        raw.send(post(_encoded(chat("[[sim output=3]] x", stream=True))))
        await _until(lambda: len(lab.journal.held or []) == 1)
        assert lab.simulator.ledger.totals.requests == 0  # the provider is not asked before the admission is written
        _release(lab)
        await _until(lambda: bool(lab.journal.events))
        seen = await raw.reader.readuntil(b"finish_reason")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reader.readuntil(b"[DONE]"), 0.05)
        _release(lab)
        lab.journal.held = None
        rest = await raw.reader.readuntil(b"0\r\n\r\n")
        assert b"[DONE]" in rest
        assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
        await raw.close()


async def test_other_model_name_and_other_routes() -> None:
    """An alias is served under its upstream's name, and embeddings and messages are metered as well."""
    async with running() as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json={**chat(), "model": "nick"})
        assert answer.json()["model"].startswith("gpt-4o-mini")
        answer = await http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": ["a b c", "d"]})
        assert len(answer.json()["data"]) == 2
        message = {"model": "claude-sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "a b"}]}
        answer = await http.post("/v1/messages?beta=true", json=message, headers={"anthropic-version": "2023-06-01"})
        assert answer.json()["type"] == "message"
        operations = [event.operation for event in lab.journal.events]
        assert operations == ["chat.completions", "embeddings", "messages"]
        assert [event.usage.output for event in lab.journal.events] == [16, 0, 9]


# -- refusals ----------------------------------------------------------------------------------------------------

GOOD = _encoded(chat())


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (post(b""), 400, "invalid_body"),
        (post(b"{"), 400, "invalid_body"),
        (post(b'{"model":"gpt-4o-mini","model":"nick"}'), 400, "invalid_body"),
        (post(b"\xff\xfe{}"), 400, "invalid_body"),
        (post(GOOD.replace(b"gpt-4o-mini", b"nope")), 404, "model_not_found"),
        (post(GOOD.replace(b"gpt-4o-mini", b"claude-sonnet")), 400, "unsupported_operation"),
        (post(GOOD.replace(b"gpt-4o-mini", b"dark-model")), 503, "provider_not_configured"),
        (post(GOOD, key="tw-wrong"), 401, "invalid_api_key"),
        (post(GOOD, key=""), 401, "invalid_api_key"),
        (post(GOOD).replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
        (post(GOOD, "content-encoding: gzip"), 415, "unsupported_media_type"),
        (post(_encoded(chat("x" * 70_000))), 413, "request_too_large"),
        (post(b"", "transfer-encoding: chunked") + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n", 413,
         "request_too_large"),
        (post(b"x" * 200_000, key="tw-wrong"), 401, "invalid_api_key"),
        (post(b"", "content-length: 99999999"), 413, "request_too_large"),
        (post(b"", "content-length: 50000", "expect: 100-continue", key="tw-wrong"), 401, "invalid_api_key"),
    ],
)  # fmt: skip
async def test_bad_request_is_told_and_recorded(request_bytes: bytes, status: int, code: str) -> None:
    """Each bad input gets a clear error in the provider's shape and one terminal event, and reserves nothing."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(request_bytes)
        told, headers, body = await raw.answer()
        error = msgspec.json.decode(body)["error"]
        assert (told, error["code"]) == (status, code)
        assert error["message"]
        assert headers["x-tollway-request-id"] == headers["x-request-id"]
        (event,) = await lab.journal.until(1)
        assert (event.status, event.http_status, event.charge_requests) == ("refused", status, 0)
        assert lab.simulator.ledger.totals.requests == 0
        await raw.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nbad header: x\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_get_400(data: bytes) -> None:
    """Garbage is answered and the connection closed."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(data)
        assert (await raw.answer())[0] == 400
        assert await raw.at_end()
        await raw.close()


async def test_endless_head_is_refused() -> None:
    """A head without end is not collected for ever."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nx: " + b"y" * 600_000)
        status, _, _ = await raw.answer()
        assert status == 431
        await raw.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/realtime", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1//chat/completions", 404),
        ("POST", "/v1/chat%2Fcompletions", 404),
        ("GET", "/v1/files/a/b", 404),
        ("GET", "/v1/files/a%2F..%2Fb", 404),
        ("POST", "/v1/files/a/content", 405),
        ("DELETE", "/v1/batches/a", 405),
        ("GET", "/v1/fine_tuning/jobs", 404),
        ("DELETE", "/v1/models/x", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/messages", 405),
        ("GET", "/docs", 404),
        ("GET", "/", 404),
    ],
)
async def test_unknown_route_is_refused_and_never_forwarded(method: str, path: str, status: int) -> None:
    """404 in the provider's shape; the provider sees nothing."""
    async with running() as lab, client(lab) as http:
        answer = await http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        answer = await http.request(method, path, headers={"anthropic-version": "2023-06-01"})
        assert answer.json()["type"] == "error"
        assert lab.simulator.ledger.totals.requests == 0


async def test_limit_refuses_with_what_to_know() -> None:
    """The third request of two a minute gets 429 with the rule, the headers and a decision."""
    policy = POLICY + "limits: [{name: team-minute, per: [team], rpm: 2}]\n"
    async with running(policy) as lab, client(lab) as http:
        answers = [await http.post("/v1/chat/completions", json=chat()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
        refused = answers[2]
        assert "team-minute" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        (decision,) = lab.journal.decisions
        assert refused.headers["x-tollway-decision-id"].replace("-", "") == decision.id.hex()
        assert (decision.rule, decision.limit, decision.used, decision.asked) == ("team-minute", 2, 2, 1)


async def test_closed_replica_says_503() -> None:
    """While not ready, metered routes refuse and readiness says why."""
    async with running() as lab, client(lab) as http:
        assert (await http.get("/readyz")).json() == {"ready": True, "waiting": []}
        lab.context.closed = "the policy is missing"
        lab.missing = ["policy"]
        answer = await http.post("/v1/chat/completions", json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["waiting"]) == (503, ["policy"])
        assert (await http.get("/healthz")).status_code == 200


# -- the provider fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ("fail=reset", 502, "provider_reset"),
        ("fail=garbage", 502, "provider_protocol"),
        ("fail=timeout", 504, "provider_first_byte_timeout"),
        ("fail=truncate", 502, "provider_truncated"),
        ("fail=reset_midway", 502, "provider_reset"),
        ("status=500", 500, None),
        ("status=429", 429, None),
    ],
)
async def test_provider_fault_is_told(wish: str, status: int, code: str | None) -> None:
    """The client learns that it was the provider, and how; its own errors pass unchanged."""
    async with running() as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json=chat(f"[[sim {wish}]] x"))
        assert answer.status_code == status
        if code is not None:
            assert answer.json()["error"]["code"] == code
        (event,) = await lab.journal.until(1)
        assert (event.status, event.http_status, event.charge_requests) == ("failed", status, 1)


async def test_unreachable_provider_is_told() -> None:
    """Nothing listens there: 502, and no request is charged."""
    async with running() as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json={**chat(), "model": "gone-model"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_connect")
        (event,) = await lab.journal.until(1)
        assert (event.status, event.charge_requests) == ("failed", 0)


@pytest.mark.parametrize("wish", ["fail=truncate", "fail=reset_midway"])
async def test_broken_stream_looks_broken(wish: str) -> None:
    """The client's library sees that the body is incomplete; what was delivered is charged by estimate."""
    async with running() as lab, client(lab) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/v1/chat/completions", json=chat(f"[[sim output=50 chunks=10 {wish}]] x", stream=True))
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source) == ("failed", "estimated")
        assert event.usage.output > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_estimated_and_marked(stream: bool) -> None:
    """An answer without usage is passed on whole."""
    async with running() as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json=chat("[[sim fail=no_usage output=20]] x", stream=stream))
        assert answer.status_code == 200
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source) == ("settled", "estimated")


async def test_answer_that_is_no_json_passes() -> None:
    """What the provider sends is the client's to judge; the event is flagged."""
    async with running() as lab, client(lab) as http:
        answer = await http.post("/v1/chat/completions", json=chat("[[sim fail=bad_json]] x"))
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"Expecting|Extra|Invalid|Unterminated"):
            answer.json()
        (event,) = await lab.journal.until(1)
        assert (event.usage_source, event.error) == ("estimated", "unreadable_usage")


# -- the client hangs up -----------------------------------------------------------------------------------------


async def test_client_that_hangs_up_inside_its_body() -> None:
    """Half a request is cancelled, and recorded as such."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(GOOD, "content-length: 5000"))
        await _until(lambda: lab.stats.in_flight == 1)
        await raw.close()
        (event,) = await lab.journal.until(1)
        assert (event.status, event.charge_requests) == ("cancelled", 0)


# -- the connection ----------------------------------------------------------------------------------------------


async def test_requests_follow_each_other_on_a_connection() -> None:
    """Keep-alive across metered and other routes, in any order."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        for _ in range(3):
            raw.send(post(GOOD))
            assert (await raw.answer())[0] == 200
            raw.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await raw.answer())[0] == 200
            raw.send(post(b"{"))
            assert (await raw.answer())[0] == 400
        await raw.close()
        assert lab.pool.opened_total == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent without waiting get their answers in the order they were sent."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        slow = post(_encoded(chat("[[sim output=3 delay_ms=50]] x")))
        stream = post(_encoded(chat("[[sim output=4]] x", stream=True)))
        health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        raw.send(slow + health + stream + post(b"{") + health + slow)
        bodies = [await raw.answer() for _ in range(6)]
        assert [status for status, _, _ in bodies] == [200, 200, 200, 400, 200, 200]
        assert [b"chat.completion" in bodies[0][2], b"[DONE]" in bodies[2][2], bodies[4][2]] == [
            True, True, b'{"status":"ok"}',
        ]  # fmt: skip
        await raw.close()


async def test_hang_up_ends_every_pipelined_request() -> None:
    """Requests that wait for their turn are cancelled with the one that runs."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(_encoded(chat("[[sim delay_ms=5000]] x"))) * 3)
        await _until(lambda: lab.stats.in_flight == 3 and bool(lab.simulator.connections))
        await raw.close()
        events = await lab.journal.until(3)
        assert {event.status for event in events} == {"cancelled"}
        assert sorted(event.charge_requests for event in events) == [0, 0, 1]


async def test_body_in_pieces_and_in_chunks_is_one_body() -> None:
    """However a body arrives, it is sent on whole."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        whole = post(GOOD)
        for at in range(0, len(whole), 7):
            raw.send(whole[at : at + 7])
            await asyncio.sleep(0)
        assert (await raw.answer())[0] == 200
        raw.send(post(b"", "transfer-encoding: chunked"))
        for at in range(0, len(GOOD), 9):
            piece = GOOD[at : at + 9]
            raw.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        raw.send(b"0\r\n\r\n")
        assert (await raw.answer())[0] == 200
        await raw.close()


async def test_expect_continue_is_answered() -> None:
    """A client that asks whether to send its body is told to go on."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(b"", f"content-length: {len(GOOD)}", "expect: 100-continue"))
        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.send(GOOD)
        assert (await raw.answer())[0] == 200
        await raw.close()


async def test_http_1_0_client_gets_a_closed_connection() -> None:
    """A client without chunks gets its stream until the connection closes."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(_encoded(chat("[[sim output=2]] x", stream=True))).replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, headers, body = await raw.answer()
        assert (status, headers["connection"], "transfer-encoding" in headers) == (200, "close", False)
        assert body.endswith(b"data: [DONE]\n\n")
        await raw.close()


async def test_connection_close_is_obeyed() -> None:
    """A client that wants no keep-alive gets none."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(GOOD, "connection: close"))
        status, headers, _ = await raw.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await raw.at_end()
        await raw.close()


async def test_idle_connection_is_closed() -> None:
    """After the keep-alive time without a request the connection goes, however many requests it had."""
    async with running(keep_alive_s=1) as lab:
        raw = await RawClient.connect(lab)
        for _ in range(2):
            raw.send(post(GOOD))
            assert (await raw.answer())[0] == 200
        assert await raw.at_end()
        await raw.close()


async def test_slow_client_slows_the_provider_down() -> None:
    """What a client does not read is not piled up here."""
    async with running() as lab:
        raw = await RawClient.connect(lab)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        raw.send(post(_encoded(chat("[[sim output=2000000 chunks=2000]] x", stream=True))))
        await _until(lambda: any(c.attempt is not None and c.attempt.is_paused for c in lab.pool.connections))
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        _, _, body = await raw.answer()
        assert body.endswith(b"data: [DONE]\n\n")
        assert lab.journal.events[0].usage.output == 2_000_000
        await raw.close()


async def test_stop_lets_running_requests_end() -> None:
    """A stopping ingress takes no new connection and finishes what runs."""
    async with running(drain_s=10) as lab:
        busy, idle = await RawClient.connect(lab), await RawClient.connect(lab)
        busy.send(post(_encoded(chat("[[sim output=20 chunks=20 delay_ms=10]] x", stream=True))))
        await busy.reader.readuntil(b"content")
        stopping = asyncio.create_task(lab.server.stop())
        assert await idle.at_end()
        assert b"[DONE]" in await busy.reader.readuntil(b"0\r\n\r\n")
        await stopping
        with pytest.raises(OSError, match=r"refused|Connect"):
            await RawClient.connect(lab)
        assert lab.journal.events[0].status == "settled"
        await busy.close()
        await idle.close()


async def test_stop_cuts_what_outlasts_the_drain() -> None:
    """At the end of the drain what still runs is cancelled, and recorded."""
    async with running(drain_s=0) as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(_encoded(chat("[[sim delay_ms=60000]] x"))))
        await _until(lambda: bool(lab.simulator.connections))
        await lab.server.stop()
        (event,) = lab.journal.events
        assert event.status == "cancelled"
        await raw.close()


async def test_bug_is_500_for_that_client_only(caplog: pytest.LogCaptureFixture) -> None:
    """A bug releases the reservation, is counted and logged, and the process goes on."""

    class Broken:
        def __call__(self, plan: Any) -> Any:
            raise ZeroDivisionError("made up")

    async with running() as lab, client(lab) as http:
        working, lab.context.target_of = lab.context.target_of, Broken()
        answer = await http.post("/v1/chat/completions", json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        lab.context.target_of = working
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200
        assert [event.error for event in lab.journal.events] == ["internal", ""]
        assert lab.stats.bugs == 1


# -- helpers -----------------------------------------------------------------------------------------------------


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def _release(lab: Any) -> None:
    held, lab.journal.held = lab.journal.held, []
    for then in held:
        then()
