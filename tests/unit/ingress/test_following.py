"""Attempts after the first: who follows a provider that failed, what each is charged, what the client gets."""

from __future__ import annotations

from typing import Any

import pytest

from ingress.core.following import MAX_ATTEMPTS
from ingress.core.plan import Denied
from schemas.attempts import Drain, Fallback
from schemas.codec import decode_attribution, encode_attribution
from schemas.money import Price, Rates
from schemas.usage import Attribution, UsageEvent
from tests.unit.ingress.playbook import ANSWER, HEADERS, NOW, FakePlan, Stage

DEAR = Price("test", "v2", (Rates(0, 1_500_000, 0, 0, 0, 6_000_000, 6_000_000, 0, 0),))
COST = round((19 * 1_500_000 + 21 * 6_000_000) / 1_000_000)
DELTA = b'data: {"choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'


def _other(name: str, price: Price = DEAR, **fallback: Any) -> FakePlan:
    """Return a plan of another model at another provider."""
    plan = FakePlan(price)
    plan.provider, plan.model = f"p-{name}", name
    plan.attribution = encode_attribution(Attribution("acme", provider=plan.provider, model=name, price_version="v2"))
    plan.fallback = Fallback(**fallback) if fallback else None
    return plan


def _stage(*after: str, **plans: FakePlan) -> Stage:
    stage = Stage()
    stage.plan.fallback = Fallback(to="other", after=after) if after else Fallback(to="other")
    stage.plans.update({"other": _other("other"), **plans})
    return stage


def _ended(stage: Stage) -> list[UsageEvent]:
    return [event for event in stage.events if event.status != "unknown"]


def test_another_model_serves_after_an_error() -> None:
    """Two attempts of one request: own ids, own rows, own prices; the client sees the second one only."""
    stage = _stage()
    stage.sent(max_tokens=50)
    stage.answered(b'{"error":{"message":"overloaded"}}', 503)
    assert stage.names == ["admitted", "request", "attempt", "admitted"]
    stage.exchange.admitted_recorded()
    assert b'"model":"other"' in stage.effects[-1][2]
    assert b'"max_tokens":50' in stage.effects[-1][2]
    stage.answered(ANSWER)
    stage.exchange.terminal_recorded()
    first, second = _ended(stage)
    assert (first.attempt, first.status, first.error, first.http_status) == (1, "failed", "provider_status_503", 503)
    assert (first.charge_requests, first.charge_tokens, first.cost_nanos) == (1, 0, 0)
    assert (second.attempt, second.status, second.cost_nanos) == (2, "settled", COST)
    assert first.request_id == second.request_id == first.id != second.id
    assert [hold.settled for plan in (stage.plan, stage.plans["other"]) for hold in plan.holds] == [
        [(1, 0, 0)], [(1, 40, COST)],
    ]  # fmt: skip
    status, lines, _ = stage.told
    assert status == 200
    for line in (b"x-tollway-model: other\r\n", b"x-tollway-attempt: 2\r\n"):
        assert lines.count(line) == 1
    assert lines.count(b"x-tollway-request-id: 00000000-0000-0000-0000-000000000001\r\n") == 1
    assert lines.count(b"x-tollway-event-id: 00000000-0000-0000-0000-000000000002\r\n") == 1
    assert stage.context.stats.in_flight == 0


def test_each_attempt_says_what_was_asked_for_and_who_served() -> None:
    """Attribution is of the model that served; the name that the client sent stays."""
    stage = _stage()
    stage.sent()
    stage.answered(b"", 500)
    stage.exchange.admitted_recorded()
    stage.answered(ANSWER)
    served = [decode_attribution(event.attribution) for event in _ended(stage)]
    assert [(found.model, found.model_requested) for found in served] == [("gpt-x", ""), ("other", "gpt-x")]
    assert [found.price_version for found in served] == ["", "v2"]


def test_the_end_of_an_attempt_is_written_before_the_next_one_begins() -> None:
    """And the next one is admitted in the same step, so that no other request comes between."""
    stage = _stage()
    stage.sent()
    stage.exchange.provider_fault("connect", False, "", NOW)
    assert stage.names[2:] == ["attempt", "admitted"]
    assert [hold.settled for hold in stage.plan.holds] == [[(0, 0, 0)]]
    assert stage.events[-1].attempt == 2
    assert stage.events[-1].status == "unknown"
    assert stage.events[-1].charge_tokens == stage.plans["other"].holds[0].reserved[0]


@pytest.mark.parametrize(
    ("fault", "sent", "word"),
    [
        ("connect", False, "connect"), ("connect_timeout", False, "connect"), ("pool_exhausted", False, "connect"),
        ("first_byte_timeout", True, "timeout"), ("total_timeout", True, "timeout"), ("reset", True, "broken"),
        ("protocol", True, "broken"), (429, True, "429"), (500, True, "5xx"), (529, True, "5xx"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_named", [True, False])
def test_only_what_the_policy_names_is_followed(fault: str | int, sent: bool, word: str, is_named: bool) -> None:
    """Each failure by its word; one that is not named goes to the client."""
    words = {"connect", "timeout", "429", "5xx", "broken"}
    stage = _stage(*({word} if is_named else words - {word}))
    stage.sent()
    if isinstance(fault, int):
        stage.answered(b"{}", fault)
    else:
        stage.exchange.provider_fault(fault, sent, "", NOW)
    assert ("attempt" in stage.names) == is_named
    assert len(stage.plans["other"].holds) == is_named


@pytest.mark.parametrize("status", [200, 400, 401, 404])
def test_an_answer_is_an_answer(status: int) -> None:
    """What another provider would say too is told at once."""
    stage = _stage()
    stage.sent()
    stage.answered(ANSWER, status)
    stage.exchange.terminal_recorded()
    assert stage.told[0] == status
    assert stage.plans["other"].holds == []


def test_a_stream_that_has_begun_is_not_followed() -> None:
    """The client has its head: it sees that the answer is broken."""
    stage = _stage()
    stage.sent(stream=True)
    stage.streaming()
    stage.exchange.provider_fault("reset", True, "", NOW)
    stage.exchange.terminal_recorded()
    assert stage.names[-1] == "cut"
    assert stage.plans["other"].holds == []


def test_a_stream_is_served_by_another_model() -> None:
    """Before its head nothing has gone to the client."""
    stage = _stage()
    stage.sent(stream=True)
    stage.answered(b"{}", 500)
    stage.exchange.admitted_recorded()
    assert b'"include_usage":true' in stage.effects[-1][2]
    stage.streaming(DELTA)
    assert stage.names[-2:] == ["head", "data"]


def test_where_the_other_model_has_no_room_the_failure_is_told() -> None:
    """No waiting, no refusal: the client gets what the provider said, and the first reservation has ended."""
    stage = _stage()
    stage.plans["other"].denied = Denied("tpm", rule="r", measure="tokens", scope="s", limit=1, used=1, asked=1)
    stage.sent()
    stage.answered(b'{"error":{"message":"no"}}', 500)
    stage.exchange.terminal_recorded()
    assert stage.told[0] == 500
    assert stage.told[2] == {"error": {"message": "no"}}
    (event,) = _ended(stage)
    assert (event.attempt, event.http_status) == (1, 500)
    assert stage.decisions == []


@pytest.mark.parametrize("problem", ["unknown", "credential", "same"])
def test_a_model_that_cannot_serve_does_not_follow(problem: str) -> None:
    """Not allowed to the key, without its credential, or the very same one."""
    stage = _stage()
    if problem == "unknown":
        del stage.plans["other"]
    elif problem == "credential":
        stage.plans["other"].problem = "none"
    else:
        stage.plans["other"].provider, stage.plans["other"].model = stage.plan.provider, stage.plan.model
    stage.sent()
    stage.exchange.provider_fault("connect", False, "", NOW)
    stage.exchange.terminal_recorded()
    assert stage.told[0] == 502
    assert len(_ended(stage)) == 1


def test_the_same_model_at_another_provider_follows() -> None:
    """Which is what a fallback is mostly for."""
    stage = _stage()
    stage.plans["other"].model = stage.plan.model
    stage.sent()
    stage.exchange.provider_fault("connect", False, "", NOW)
    assert "attempt" in stage.names


def test_attempts_come_to_an_end() -> None:
    """A chain is followed so far and no further; each attempt is one event."""
    chain = {f"m{step}": _other(f"m{step}", to=f"m{step + 1}") for step in range(6)}
    stage = _stage(other=_other("other", to="m0"), **chain)
    stage.sent()
    for _ in range(MAX_ATTEMPTS):
        stage.answered(b"{}", 500)
        stage.exchange.admitted_recorded()
    stage.exchange.terminal_recorded()
    assert stage.told[0] == 500
    ended = _ended(stage)
    assert [event.attempt for event in ended] == list(range(1, MAX_ATTEMPTS + 1))
    assert len({event.id for event in ended}) == MAX_ATTEMPTS


def test_a_circle_of_overlapping_policies_ends() -> None:
    """A model that has been tried is not tried again."""
    stage = _stage(other=_other("other", to="gpt-x"))
    stage.sent()
    for _ in range(2):
        stage.answered(b"{}", 500)
        stage.exchange.admitted_recorded()
    stage.exchange.terminal_recorded()
    assert len(_ended(stage)) == 2


def test_a_client_that_hangs_up_between_attempts() -> None:
    """The second attempt was reserved and not sent: it is released; the first one stays as it was."""
    stage = _stage()
    stage.sent()
    stage.answered(b"{}", 500)
    stage.exchange.client_gone(NOW)
    stage.exchange.terminal_recorded()
    first, second = _ended(stage)
    assert (first.status, second.status, second.charge_requests, second.attempt) == ("failed", "cancelled", 0, 2)
    assert stage.names.count("request") == 1


def test_nobody_serves_a_client_that_is_gone() -> None:
    """An error that is read on is not followed."""
    stage = _stage()
    stage.plan.drain = Drain()
    stage.sent()
    stage.exchange.client_gone(NOW)
    stage.answered(b"{}", 500)
    assert stage.plans["other"].holds == []
    assert len(_ended(stage)) == 1


def test_a_request_that_has_no_fallback_keeps_nothing_for_one() -> None:
    """The fields of its body may be large: they are kept only where they may be needed again."""
    stages = [Stage(), _stage()]
    for stage in stages:
        stage.ask(b'{"model":"gpt-x","messages":[]}', HEADERS)
    assert [bool(stage.exchange._fields) for stage in stages] == [False, True]
