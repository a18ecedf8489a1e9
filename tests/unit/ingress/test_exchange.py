"""Playbooks of one request: facts in, effects out, and what the log is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.errors import FAULTS
from ingress.core.estimate import likely_input
from ingress.core.plan import Denied
from ingress.core.protocols import ANTHROPIC_MESSAGES, OPENAI_EMBEDDINGS
from schemas.tokens import NO_TOKENS, TokenUsage
from tests.unit.ingress.playbook import ANSWER, HEADERS, LIMITS, NOW, PRICE, FakePlan, Stage, rows

DELTA = b'data: {"model":"gpt-x-1","choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
LAST = b'data: {"model":"gpt-x-1","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":21}}\n\n'
DONE = b"data: [DONE]\n\n"
COST = round((19 * 150_000 + 21 * 600_000) / 1_000_000)


def test_answered_request_is_reserved_sent_settled_and_told_in_this_order() -> None:
    """The log knows of the admission before the provider does, and of the end before the client does."""
    stage = Stage()
    stage.sent()
    assert stage.names == ["admitted", "request"]
    stage.answered(ANSWER)
    assert stage.names == ["admitted", "request", "terminal"]
    stage.exchange.terminal_recorded()
    assert stage.names == ["admitted", "request", "terminal", "whole"]
    assert stage.effects[0] == ("admitted", 3)
    assert stage.effects[-1][3] == ANSWER
    assert stage.context.stats.in_flight == 0


def test_nothing_is_sent_before_the_admission_is_on_the_log() -> None:
    """Between the reservation and its record the provider is not asked."""
    stage = Stage()
    stage.ask({"model": "gpt-x", "messages": []})
    assert stage.names == ["admitted"]


def test_admission_on_the_log_is_charged_as_reserved() -> None:
    """If the process dies, what was reserved counts: requests, tokens, money, rows."""
    stage = Stage()
    stage.ask({"model": "gpt-x", "messages": [], "max_tokens": 100})
    (event,) = stage.events
    tokens, nanos = stage.plan.holds[0].reserved
    assert (event.status, event.usage_source, event.cost_nanos) == ("unknown", "unknown", None)
    assert (event.charge_requests, event.charge_tokens, event.charge_nanos) == (1, tokens, nanos)
    assert tokens > 100
    assert rows(event) == ["r/tokens/org=acme/minute@0+60"]


def test_terminal_event_says_what_the_provider_said() -> None:
    """Usage, cost, model, times and status of a settled request."""
    stage = Stage()
    stage.sent()
    stage.answered(ANSWER)
    event = stage.terminal
    assert (event.status, event.usage_source, event.usage) == ("settled", "provider", TokenUsage(19, 21))
    assert event.cost_nanos == event.charge_nanos == COST
    assert (event.charge_requests, event.charge_tokens, event.http_status) == (1, 40, 200)
    assert (event.occurred_ms, event.ttft_ms, event.duration_ms) == (NOW, 20, 30)
    assert (event.model_reported, event.error, event.streamed, event.attempt) == ("gpt-x-1", "", False, 1)
    assert event.id == stage.events[0].id == event.request_id
    assert stage.hold.settled == [(1, 40, COST)]


def test_answer_has_our_headers_and_the_providers() -> None:
    """Ids, policy version, cost and limits are added; the framing of the other hop is not passed on."""
    stage = Stage()
    stage.sent()
    headers = [
        (b"Content-Type", b"application/json"), (b"X-Request-Id", b"r"), (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"keep-alive"), (b"Content-Length", b"3"), (b"x-ratelimit-limit-requests", b"99"),
        (b"x-tollway-event-id", b"forged"),
    ]  # fmt: skip
    stage.exchange.provider_head(201, headers, NOW)
    stage.exchange.provider_data(ANSWER[:9], NOW)
    stage.exchange.provider_data(ANSWER[9:], NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.terminal_recorded()
    status, lines, _ = stage.told
    assert status == 201
    assert lines.startswith(b"Content-Type: application/json\r\nX-Request-Id: r\r\nx-tollway-request-id: ")
    for added in (b"x-tollway-event-id: 0000", b"x-tollway-policy-version: 7\r\n", LIMITS,
                  b"x-tollway-cost-usd: 0.%09d\r\n" % COST):  # fmt: skip
        assert lines.count(added) == 1
    for dropped in (b"chunked", b"keep-alive", b"ontent-Length", b": 99", b"forged"):
        assert dropped not in lines
    assert stage.effects[-1][3] == ANSWER


def test_providers_limits_pass_where_we_have_none() -> None:
    """Without limits of our own the provider's headers stay."""
    plan = FakePlan()
    plan.limits = b""
    stage = Stage(plan=plan)
    stage.sent()
    stage.exchange.provider_head(200, [(b"x-ratelimit-limit-requests", b"99")], NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.terminal_recorded()
    assert b"x-ratelimit-limit-requests: 99\r\n" in stage.effects[-1][2]


def test_request_reaches_the_provider_byte_for_byte_with_allowed_headers() -> None:
    """The body is the client's; credentials, cookies and framing of the client's hop are not passed on."""
    stage = Stage(query=b"beta=true")
    body = b'{ "model":"gpt-x" , "messages":[],"odd":[1.0e5,"\\u00e9"]}'
    secret = [
        (b"cookie", b"c"), (b"openai-organization", b"o"), (b"user-agent", b"ua"), (b"x-forwarded-for", b"1.2.3.4"),
        (b"accept-encoding", b"gzip"), (b"anthropic-beta", b"x"), (b"host", b"h"), (b"content-length", b"9"),
    ]  # fmt: skip
    stage.ask(body, HEADERS + secret)
    stage.exchange.admitted_recorded()
    _, origin, request = stage.effects[-1]
    head, _, sent = request.partition(b"\r\n\r\n")
    assert origin == "origin"
    assert sent == body
    assert head.split(b"\r\n") == [
        b"POST /v1/chat/completions?beta=true HTTP/1.1", b"host: up", b"content-type: application/json",
        b"user-agent: ua", b"anthropic-beta: x", b"content-length: %d" % len(body),
    ]  # fmt: skip


def test_other_name_of_a_model_is_replaced() -> None:
    """The provider gets the served model's name."""
    stage = Stage()
    stage.ask(b'{"model":"nick","messages":[]}')
    stage.exchange.admitted_recorded()
    assert stage.effects[-1][2].endswith(b'\r\n\r\n{"model":"gpt-x","messages":[]}')


def test_stream_is_relayed_as_it_comes_and_its_end_after_the_log() -> None:
    """Every part goes on at once; the end, and the chunk we asked for ourselves, do not."""
    stage = Stage()
    stage.sent(stream=True)
    assert b'"stream_options":{"include_usage":true}' in stage.effects[-1][2]
    stage.streaming(DELTA, DELTA)
    assert stage.names[2:] == ["head", "data", "data"]
    stage.exchange.provider_data(LAST + DONE, NOW)
    stage.exchange.provider_end(NOW + 50)
    assert stage.names[5:] == ["terminal"]
    stage.exchange.terminal_recorded()
    assert stage.effects[-1] == ("end", DONE)
    event = stage.terminal
    assert (event.streamed, event.usage, event.usage_source) == (True, TokenUsage(19, 21), "provider")
    assert (event.model_reported, event.duration_ms) == ("gpt-x-1", 50)
    assert stage.hold.settled == [(1, 40, COST)]


def test_client_that_asked_for_the_usage_gets_it() -> None:
    """Nothing is hidden from a client that asked, and nothing is asked for twice."""
    stage = Stage()
    stage.sent(stream=True, stream_options={"include_usage": True})
    assert stage.effects[-1][2].count(b"include_usage") == 1
    stage.streaming(DELTA, LAST + DONE)
    stage.exchange.provider_end(NOW)
    stage.exchange.terminal_recorded()
    assert b"".join(effect[1] for effect in stage.effects if effect[0] in ("data", "end")) == DELTA + LAST + DONE


def test_stream_without_usage_is_estimated() -> None:
    """What the provider does not say is estimated from what arrived, and marked."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA, DELTA, DONE)
    stage.exchange.provider_end(NOW)
    event = stage.terminal
    assert (event.status, event.usage_source) == ("settled", "estimated")
    assert event.usage.output >= 2
    assert event.usage.input > 0
    assert event.cost_nanos == event.charge_nanos > 0
    assert stage.hold.settled == [(1, event.usage.total, event.charge_nanos)]


def test_whole_answer_without_usage_is_estimated() -> None:
    """An answer that lacks usage is passed on and charged by its bytes."""
    stage = Stage()
    stage.sent()
    stage.answered(b'{"model":"gpt-x-1","choices":[]}')
    stage.exchange.terminal_recorded()
    assert stage.told[0] == 200
    assert (stage.terminal.status, stage.terminal.usage_source) == ("settled", "estimated")


@pytest.mark.parametrize(
    ("body", "error", "flags"),
    [
        (b"<html>", "unreadable_usage", ("malformed",)),
        (b'{"usage":[1]}', "unreadable_usage", ("malformed",)),
        (b'{"usage":{"prompt_tokens":-1}}', "", ("missing_input", "missing_output", "negative")),
        (b'{"usage":{"prompt_tokens":9}}', "", ("missing_output",)),
    ],
)
def test_bad_usage_is_flagged_and_passed_on(body: bytes, error: str, flags: tuple[str, ...]) -> None:
    """Garbage in an answer never breaks it; the event says what was odd, and that what was not known is estimated."""
    stage = Stage()
    stage.sent(max_tokens=5)
    stage.answered(body)
    stage.exchange.terminal_recorded()
    assert stage.effects[-1][3] == body
    event = stage.terminal
    assert (event.status, event.usage_source, event.error) == ("settled", "estimated", error)
    assert event.detail is not None
    assert event.detail.flags == flags
    asked = msgspec.json.encode({"model": "gpt-x", "messages": [], "max_tokens": 5})
    assert event.usage.input == (9 if b"9" in body else likely_input(asked))
    assert event.usage.output <= 5


def test_unpriced_model_is_charged_at_the_reserve() -> None:
    """An unknown price is unknown in the event, and the reserve in the money rows."""
    plan = FakePlan(None)
    plan.reserve_price = PRICE
    stage = Stage(plan=plan)
    stage.sent()
    stage.answered(ANSWER)
    stage.exchange.terminal_recorded()
    assert (stage.terminal.cost_nanos, stage.terminal.charge_nanos) == (None, COST)
    assert b"x-tollway-cost-usd" not in stage.told[1]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_error_of_the_provider_passes_unchanged(status: int) -> None:
    """The client sees the provider's own error; the request counts, tokens do not."""
    stage = Stage()
    stage.sent()
    stage.answered(b'{"error":{"message":"no"}}', status)
    stage.exchange.terminal_recorded()
    assert (stage.told[0], stage.told[2]) == (status, {"error": {"message": "no"}})
    event = stage.terminal
    assert (event.status, event.usage_source, event.error) == ("failed", "none", f"provider_status_{status}")
    assert stage.hold.settled == [(1, 0, 0)]
    assert (event.usage, event.cost_nanos) == (NO_TOKENS, 0)


@pytest.mark.parametrize("kind", sorted(FAULTS))
@pytest.mark.parametrize("sent", [True, False])
def test_fault_before_the_answer_is_told_with_its_cause(kind: str, sent: bool) -> None:
    """502 or 504, naming provider and fault; what was sent is charged by estimate, what never was is not."""
    stage = Stage()
    stage.sent()
    stage.exchange.provider_fault(kind, sent, "why", NOW + 5)
    stage.exchange.terminal_recorded()
    status, _, body = stage.told
    assert status == FAULTS[kind][0]
    assert body["error"]["code"] == f"provider_{kind}"
    assert "'sim'" in body["error"]["message"]
    event = stage.terminal
    assert (event.status, event.error, event.http_status) == ("failed", f"provider_{kind}", status)
    assert (event.usage_source, event.usage.input > 0, event.usage.output) == ("estimated" if sent else "none", sent, 0)
    assert stage.hold.settled == [(int(sent), event.usage.input, event.charge_nanos)]
    assert (event.detail is not None and event.detail.flags) == (sent and ("no_answer",))


def test_fault_inside_a_whole_answer_is_told_too() -> None:
    """Nothing has gone to the client yet, so it gets an error and not half an answer; what was generated counts."""
    stage = Stage()
    stage.sent()
    stage.exchange.provider_head(200, [(b"content-type", b"application/json")], NOW)
    stage.exchange.provider_data(ANSWER[:30], NOW)
    stage.exchange.provider_fault("truncated", True, "", NOW)
    stage.exchange.terminal_recorded()
    assert stage.told[0] == 502
    assert (stage.terminal.status, stage.terminal.usage_source) == ("failed", "estimated")


def test_fault_inside_a_stream_cuts_it() -> None:
    """A broken stream looks broken to the client, and what was delivered is charged."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA)
    stage.exchange.provider_fault("reset", True, "", NOW)
    assert stage.names[-1] == "terminal"
    stage.exchange.terminal_recorded()
    assert stage.names[-1] == "cut"
    event = stage.terminal
    assert (event.status, event.error, event.usage_source) == ("failed", "provider_reset", "estimated")
    assert stage.hold.settled == [(1, event.usage.total, event.charge_nanos)]


def test_fault_after_the_end_of_a_stream_is_none() -> None:
    """A provider that hangs up after its last event has answered."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA, LAST + DONE)
    stage.exchange.provider_fault("idle_timeout", True, "", NOW)
    stage.exchange.terminal_recorded()
    assert stage.effects[-1] == ("end", DONE)
    assert (stage.terminal.status, stage.terminal.usage) == ("settled", TokenUsage(19, 21))


def test_a_provider_that_does_not_stop_after_the_end_is_left() -> None:
    """What comes after the last event is not kept for ever: the stream has ended, as it said."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA, LAST + DONE)
    for _ in range(40):
        stage.exchange.provider_data(b": ping" * 2_000, NOW)
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert (stage.terminal.status, stage.terminal.usage_source) == ("settled", "provider")
    stage.exchange.terminal_recorded()
    assert stage.effects[-1][0] == "end"
    assert len(stage.effects[-1][1]) < 300_000


def test_anthropic_stream_that_breaks_keeps_the_input_it_told() -> None:
    """The opening snapshot holds for the input only: output is estimated from what was delivered."""
    stage = Stage(ANTHROPIC_MESSAGES)
    stage.sent(stream=True, max_tokens=500)
    start = b'data: {"type":"message_start","message":{"model":"c","usage":{"input_tokens":77,"output_tokens":1}}}\n\n'
    delta = b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"%b"}}\n\n'
    stage.streaming(b"event: message_start\n" + start, delta % b"", delta % (b"word " * 80))
    stage.exchange.provider_fault("reset", True, "", NOW)
    event = stage.terminal
    assert event.usage_source == "estimated"
    assert event.usage.input == 77
    assert 50 <= event.usage.output <= 500


def test_embeddings_reserve_no_output() -> None:
    """An embeddings answer is settled by its input alone."""
    stage = Stage(OPENAI_EMBEDDINGS)
    stage.ask(b'{"model":"gpt-x","input":"hello there"}')
    assert stage.plan.holds[0].reserved[0] == (len(b'{"model":"gpt-x","input":"hello there"}') + 1) // 2
    stage.exchange.admitted_recorded()
    assert stage.effects[-1][2].startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    stage.answered(b'{"model":"e","data":[],"usage":{"prompt_tokens":2,"total_tokens":2}}')
    assert stage.terminal.usage == TokenUsage(2)


# -- refusals ----------------------------------------------------------------------------------------------------


def _refusal(stage: Stage, status: int, reason: str) -> Any:
    """Check what every refusal has in common; return the body."""
    assert stage.names == ["terminal"]
    stage.exchange.terminal_recorded()
    told_status, lines, body = stage.told
    assert told_status == status
    assert b"x-tollway-request-id: " in lines
    assert b"content-type: application/json\r\n" in lines
    event = stage.terminal
    assert (event.status, event.error, event.http_status) == ("refused", reason, status)
    assert (event.charge_requests, event.charge_tokens, event.charge_nanos, event.cost_nanos) == (0, 0, 0, 0)
    assert rows(event) == []
    assert stage.context.stats.in_flight == 0
    return body


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ([], 401, "missing_key"),
        ([(b"authorization", b"Basic x")], 401, "missing_key"),
        ([(b"authorization", b"Bearer tw-bad")], 401, "unknown_key"),
        ([(b"x-api-key", b"tw-bad")], 401, "unknown_key"),
        ([(b"x-api-key", b"tw-good")], 415, "content_type"),
        ([(b"x-api-key", b"tw-good"), (b"content-type", b"text/plain")], 415, "content_type"),
        ([*HEADERS, (b"content-encoding", b"gzip")], 415, "content_type"),
    ],
)
def test_head_that_cannot_be_served_is_refused(headers: list[tuple[bytes, bytes]], status: int, reason: str) -> None:
    """No key, an unknown key, or a body that is not plain JSON: refused, and the body not read."""
    stage = Stage()
    assert not stage.exchange.begin(headers, NOW)
    stage.exchange.complete(b"", NOW)
    _refusal(stage, status, reason)


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON; charset=utf-8", b"application/x+json"]
)
@pytest.mark.parametrize("key", [(b"authorization", b"bearer tw-good"), (b"x-api-key", b"tw-good")])
def test_head_that_can_be_served_is_taken(key: tuple[bytes, bytes], content_type: bytes) -> None:
    """Either header carries the key, and JSON may have parameters."""
    assert Stage().exchange.begin([key, (b"content-type", content_type)], NOW)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "array"),
        (b'{"model":"gpt-x","model":"gpt-x"}', "'model' is given twice"),
        (b'{"model":"gpt-x","messages":[{"a":1,"a":2}]}', "'a' is given twice"),
        (b'{"messages":[]}', "model: missing"),
        (b'{"model":7}', "model:"),
        (b'{"model":"gpt-x","stream":"yes"}', "stream:"),
        (b'{"model":"gpt-x","max_tokens":-5}', "max_tokens:"),
        (b'{"model":"gpt-x","n":1e3}', "n:"),
    ],
)
def test_bad_body_is_told_what_is_wrong(body: bytes, told: str) -> None:
    """400 that names the fault, and nothing reserved."""
    stage = Stage()
    stage.ask(body)
    assert told in _refusal(stage, 400, "bad_request")["error"]["message"]
    assert stage.plan.holds == []
    assert stage.decisions == []


def test_too_large_body_is_refused() -> None:
    """413 names the limit."""
    stage = Stage()
    stage.exchange.begin(HEADERS, NOW)
    stage.exchange.refuse_size(1_000, NOW)
    assert "1,000 bytes" in _refusal(stage, 413, "body_too_large")["error"]["message"]


def test_unknown_model_has_a_decision() -> None:
    """A refusal by policy is recorded with whom it met."""
    stage = Stage()
    stage.ask({"model": "other"})
    body = _refusal(stage, 404, "unknown_model")
    assert body["error"]["code"] == "model_not_found"
    (decision,) = stage.decisions
    assert (decision.reason, decision.attribution.org, decision.attribution.key_id) == ("unknown_model", "acme", "k-1")
    assert decision.attribution.model_requested == "other"
    assert decision.id == stage.terminal.decision_id
    assert b"x-tollway-decision-id: 00000000-0000-0000-0000-000000000002\r\n" in stage.told[1]


def test_unattributed_refusal_belongs_to_nobody() -> None:
    """Without a key there is no organisation, and the partition is the one of none."""
    stage = Stage()
    stage.ask(b"{}", [(b"x-api-key", b"tw-bad")])
    _refusal(stage, 401, "unknown_key")
    (decision,) = stage.decisions
    assert decision.attribution.org == ""
    assert stage.effects[0] == ("terminal", 0)


@pytest.mark.parametrize("reason", ["not_ready", "detached"])
def test_closed_replica_refuses_everything(reason: str) -> None:
    """503 that says why."""
    stage = Stage()
    stage.context.closed, stage.context.closed_reason = "the broker is away", reason
    stage.exchange.begin(HEADERS, NOW)
    stage.exchange.complete(b"", NOW)
    assert "the broker is away" in _refusal(stage, 503, reason)["error"]["message"]


def test_missing_credential_is_told() -> None:
    """A provider that cannot be asked is no provider fault and reserves nothing."""
    plan = FakePlan()
    plan.problem = "credential env:X is not set"
    stage = Stage(plan=plan)
    stage.ask({"model": "gpt-x"})
    assert "env:X" in _refusal(stage, 503, "no_credential")["error"]["message"]
    assert plan.holds == []


def _denied(**changes: Any) -> Denied:
    fields: dict[str, Any] = {
        "reason": "tpm", "rule": "team-minute", "measure": "tokens", "scope": "org=acme,team=search", "row": "row",
        "limit": 4_000, "used": 3_900, "asked": 1_100, "room": 100, "fence": 17, "staleness_ms": 9,
        "resets_at_s": 1_800_000_060, "retry_after_s": 12, "overshoot_bound": 0,
    }  # fmt: skip
    known = set(Denied.__struct_fields__)
    return Denied(**{name: value for name, value in {**fields, **changes}.items() if name in known})


def test_denial_tells_rule_limit_use_reset_and_bound() -> None:
    """Everything somebody needs to understand a 429 is in it, and the decision holds the same figures."""
    plan = FakePlan()
    plan.denied = _denied()
    stage = Stage(plan=plan)
    stage.ask({"model": "gpt-x"})
    body = _refusal(stage, 429, "tpm")
    message = body["error"]["message"]
    figures = ("4,000 tokens", "3,900 tokens", "1,100 tokens", "0 tokens", "2027-01-15T08:01:00Z", "12 s", "150 ms")
    for part in ("team-minute", "org=acme,team=search", "00000000-0000-0000-0000-000000000002", *figures):
        assert part in message
    assert body["error"]["code"] == "rate_limit_exceeded"
    lines = stage.told[1]
    assert b"retry-after: 12\r\n" in lines
    assert b"x-should-retry" not in lines
    assert LIMITS in lines
    (decision,) = stage.decisions
    assert (decision.rule, decision.limit, decision.used, decision.asked) == ("team-minute", 4_000, 3_900, 1_100)
    assert (decision.fence, decision.attribution.model, decision.instance) == (17, "gpt-x", "ingress-1")


def test_detached_replica_is_no_limit() -> None:
    """A replica that may not admit says 503 and soon, and writes no decision."""
    plan = FakePlan()
    plan.denied = Denied("detached", status=503)
    stage = Stage(plan=plan)
    stage.ask({"model": "gpt-x"})
    _refusal(stage, 503, "detached")
    assert b"retry-after: 1\r\n" in stage.told[1]
    assert stage.decisions == []


@pytest.mark.parametrize(
    "changes",
    [
        {"retry_after_s": 61},
        {"retry_after_s": 86_400, "reason": "budget", "measure": "cost"},
        {"asked": 4_001},
    ],
)
def test_sdk_is_told_not_to_wait_for_what_is_far_away(changes: dict[str, Any]) -> None:
    """SDKs sleep for as long as they are told: beyond a minute, or for ever, they are told not to."""
    plan = FakePlan()
    plan.denied = _denied(**changes)
    stage = Stage(plan=plan)
    stage.ask({"model": "gpt-x"})
    stage.exchange.terminal_recorded()
    assert b"x-should-retry: false\r\n" in stage.told[1]


def test_anthropic_denial_has_its_shape() -> None:
    """The Anthropic SDK gets what it would get from Anthropic."""
    plan = FakePlan()
    plan.denied = _denied(reason="budget", measure="cost", limit=2_000_000_000, used=1_990_000_000)
    stage = Stage(ANTHROPIC_MESSAGES, plan=plan)
    stage.ask({"model": "gpt-x", "max_tokens": 5})
    body = _refusal(stage, 429, "budget")
    assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
    assert "2.00 USD" in body["error"]["message"]
    assert body["request_id"] == "00000000-0000-0000-0000-000000000001"


# -- the client hangs up -----------------------------------------------------------------------------------------


def test_client_gone_before_its_request_was_whole() -> None:
    """Nothing was reserved; the event says that it was cancelled."""
    stage = Stage()
    stage.exchange.begin(HEADERS, NOW)
    stage.exchange.client_gone(NOW + 3)
    assert stage.names == ["terminal"]
    stage.exchange.terminal_recorded()
    event = stage.terminal
    assert (event.status, event.error, event.charge_requests, event.http_status) == ("cancelled", "client_gone", 0, 0)
    assert stage.names == ["terminal"]


def test_client_gone_before_the_admission_was_recorded() -> None:
    """The reservation is released and the provider never asked."""
    stage = Stage()
    stage.ask({"model": "gpt-x"})
    stage.exchange.client_gone(NOW)
    stage.exchange.admitted_recorded()
    stage.exchange.terminal_recorded()
    assert stage.names == ["admitted", "terminal"]
    assert stage.hold.settled == [(0, 0, 0)]
    assert (stage.terminal.status, stage.terminal.charge_requests) == ("cancelled", 0)


def test_client_gone_while_the_provider_works() -> None:
    """The provider is hung up on, and what it has read is charged."""
    stage = Stage()
    stage.sent()
    stage.exchange.client_gone(NOW + 9)
    stage.exchange.terminal_recorded()
    assert stage.names[2:] == ["cancel", "terminal"]
    event = stage.terminal
    assert (event.status, event.usage_source, event.http_status, event.duration_ms) == ("cancelled", "estimated", 0, 9)
    assert event.usage.output == 0
    assert stage.hold.settled == [(1, event.usage.input, event.charge_nanos)]


def test_client_gone_inside_a_stream() -> None:
    """What was delivered is charged, by estimate."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA, DELTA)
    stage.exchange.client_gone(NOW)
    stage.exchange.terminal_recorded()
    assert stage.names[-2:] == ["cancel", "terminal"]
    event = stage.terminal
    assert (event.status, event.usage_source, event.http_status) == ("cancelled", "estimated", 200)
    assert event.usage.output >= 2


def test_client_gone_after_the_usage_came() -> None:
    """What the provider has told counts, even if the client left before the end."""
    stage = Stage()
    stage.sent(stream=True)
    stage.streaming(DELTA, LAST)
    stage.exchange.client_gone(NOW)
    assert (stage.terminal.status, stage.terminal.usage_source) == ("cancelled", "provider")
    assert stage.hold.settled == [(1, 40, COST)]


def test_client_gone_while_the_end_is_recorded() -> None:
    """A settled exchange stays settled."""
    stage = Stage()
    stage.sent()
    stage.answered(ANSWER)
    stage.exchange.client_gone(NOW)
    assert stage.terminal.status == "settled"


def test_late_facts_change_nothing() -> None:
    """After the end neither provider nor client nor log can add an effect."""
    stage = Stage()
    stage.sent()
    stage.answered(ANSWER)
    stage.exchange.terminal_recorded()
    before = list(stage.effects)
    stage.exchange.provider_head(200, [], NOW)
    stage.exchange.provider_data(b"x", NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.provider_fault("reset", True, "", NOW)
    stage.exchange.client_gone(NOW)
    stage.exchange.admitted_recorded()
    assert stage.effects == before
    assert stage.hold.settled == [(1, 40, COST)]


# -- bugs of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage_of_life", ["reading", "admitted", "sent", "relaying"])
def test_bug_ends_the_exchange_and_its_reservation(stage_of_life: str) -> None:
    """500 if nothing was sent yet, else a cut; one terminal event; the reservation ends once."""
    stage = Stage()
    stage.exchange.begin(HEADERS, NOW)
    if stage_of_life != "reading":
        stage.exchange.complete(msgspec.json.encode({"model": "gpt-x", "stream": True}), NOW)
    if stage_of_life in ("sent", "relaying"):
        stage.exchange.admitted_recorded()
    if stage_of_life == "relaying":
        stage.streaming(DELTA)
    stage.exchange.crash(NOW)
    stage.exchange.terminal_recorded()
    assert stage.names[-1] == ("cut" if stage_of_life == "relaying" else "whole")
    assert (stage.terminal.status, stage.terminal.error) == ("failed", "internal")
    if stage_of_life != "reading":
        assert len(stage.hold.settled) == 1
    if stage_of_life != "relaying":
        assert stage.told[0] == 500


def test_odd_usage_is_counted_and_told_once_an_hour() -> None:
    """Every answer counts in the metric; a decision for each flag says it the first time; the event points to it."""
    stage = Stage()
    stage.sent()
    stage.answered(b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}')
    assert {found.action for found in stage.decisions} == {"odd"}
    assert [found.reason for found in stage.decisions] == ["missing_input", "negative"]
    assert stage.terminal.decision_id == stage.decisions[0].id
    assert stage.context.stats.odd == {"missing_input": 1, "negative": 1}
    assert stage.exchange.record.odd(("negative", "drained"), NOW + 1) == ()
    assert stage.context.stats.odd == {"missing_input": 1, "negative": 2}
    assert len(stage.exchange.record.odd(("negative",), NOW + 3_700_000)) == 1
