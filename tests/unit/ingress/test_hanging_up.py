"""Clients that hang up: what an exchange reads on, how it ends, and what it holds meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.exchange import MAX_DRAINING_BYTES
from ingress.core.protocols import ANTHROPIC_MESSAGES
from schemas.attempts import Drain
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import UsageEvent
from tests.unit.ingress.playbook import ANSWER, NOW, SHORT, FakePlan, Stage

DELTA = b'data: {"model":"gpt-x-1","choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
LAST = b'data: {"model":"gpt-x-1","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":21}}\n\n'
DONE = b"data: [DONE]\n\n"
COST = round((19 * 150_000 + 21 * 600_000) / 1_000_000)


def _stage(most_bytes: int = 8 << 20, **fields: Any) -> Stage:
    plan = FakePlan()
    plan.drain = Drain(most_bytes=most_bytes)
    stage = Stage(plan=plan)
    stage.sent(**fields)
    return stage


def _flags(event: UsageEvent) -> tuple[str, ...]:
    return () if event.detail is None else event.detail.flags


def test_an_answer_is_read_on_for_the_time_of_the_policy() -> None:
    """Nothing ends at the hang-up: the reservation is held, and the provider is not hung up on."""
    stage = _stage(stream=True)
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    assert stage.names[-2:] == ["data", "read_on"]
    assert stage.effects[-1] == ("read_on", 30_000)
    assert stage.plan.holds[0].settled == []
    assert stage.context.stats.draining == stage.context.stats.in_flight == 1


def test_a_drained_stream_is_charged_as_reported() -> None:
    """The usage of the full answer, under the status of a hang-up; nothing more goes to the client."""
    stage = _stage(stream=True)
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    before = len(stage.effects)
    stage.exchange.provider_data(DELTA, NOW)
    stage.exchange.provider_data(LAST + DONE, NOW)
    stage.exchange.provider_end(NOW + 40)
    stage.exchange.terminal_recorded()
    assert stage.names[before:] == ["terminal"]
    event = stage.terminal
    assert (event.status, event.error, event.usage_source) == ("cancelled", "client_gone", "provider")
    assert (event.usage, event.cost_nanos, event.http_status, event.duration_ms) == (TokenUsage(19, 21), COST, 200, 40)
    assert _flags(event) == ("drained",)
    assert stage.hold.settled == [(1, 40, COST)]
    assert (stage.context.stats.draining, stage.context.stats.drains) == (0, {"whole": 1})


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_drained_whole_answer_is_charged_as_reported(is_begun: bool) -> None:
    """Before its head and inside it; the client was told nothing."""
    stage = _stage()
    if is_begun:
        stage.exchange.provider_head(200, [(b"content-type", b"application/json")], NOW)
        stage.exchange.provider_data(ANSWER[:9], NOW)
    stage.exchange.client_gone(NOW)
    if not is_begun:
        stage.exchange.provider_head(200, [(b"content-type", b"application/json")], NOW + 20)
        stage.exchange.provider_data(ANSWER[:9], NOW)
    stage.exchange.provider_data(ANSWER[9:], NOW)
    stage.exchange.provider_end(NOW + 30)
    stage.exchange.terminal_recorded()
    event = stage.terminal
    assert (event.status, event.usage, event.usage_source) == ("cancelled", TokenUsage(19, 21), "provider")
    assert (event.http_status, event.ttft_ms >= 0, _flags(event)) == (0, True, ("drained",))
    assert "whole" not in stage.names
    assert stage.context.stats.draining_bytes == 0


def test_a_stream_that_begins_after_the_hang_up_is_drained_too() -> None:
    """The head comes late, and goes to nobody."""
    stage = _stage(stream=True)
    stage.exchange.client_gone(NOW)
    stage.streaming(DELTA, LAST, DONE)
    stage.exchange.provider_end(NOW)
    assert "head" not in stage.names
    assert (stage.terminal.usage_source, stage.terminal.http_status) == ("provider", 0)


def test_an_error_that_is_drained_is_charged_as_an_error() -> None:
    """The provider refused: a request, no tokens."""
    stage = _stage()
    stage.exchange.client_gone(NOW)
    stage.answered(b'{"error":{"message":"overloaded, come back another time"}}', 529)
    event = stage.terminal
    assert (event.status, event.usage, event.usage_source, event.cost_nanos) == ("cancelled", NO_TOKENS, "none", 0)
    assert stage.hold.settled == [(1, 0, 0)]


def test_a_drain_ends_when_its_time_is_over() -> None:
    """The provider is hung up on, and what came, before and after the hang-up, is the estimate."""
    stage = _stage(stream=True)
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    stage.exchange.provider_data(DELTA * 9, NOW)
    stage.exchange.drain_over(NOW + 30_000)
    stage.exchange.drain_over(NOW + 30_001)
    assert stage.names[-2:] == ["cancel", "terminal"]
    event = stage.terminal
    assert (event.status, event.usage_source, _flags(event)) == ("cancelled", "estimated", ("drain_cut",))
    assert event.usage.output >= 10
    assert stage.context.stats.drains == {"cut": 1}


def test_a_drain_ends_with_its_bytes() -> None:
    """Counted from the hang-up, whatever came before."""
    stage = _stage(most_bytes=1024, stream=True)
    stage.streaming(*[DELTA] * 50)
    stage.exchange.client_gone(NOW)
    for _ in range(1024 // len(DELTA)):
        stage.exchange.provider_data(DELTA, NOW)
    assert "cancel" not in stage.names
    stage.exchange.provider_data(DELTA, NOW)
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert _flags(stage.terminal) == ("drain_cut",)


def test_whole_answers_are_read_on_within_the_memory_for_all_of_them() -> None:
    """What is kept counts over the process, and is given back at each end."""
    stage = _stage()
    stats = stage.context.stats
    stats.draining_bytes = others = MAX_DRAINING_BYTES - 2_000
    stage.exchange.provider_head(200, [(b"content-type", b"application/json")], NOW)
    stage.exchange.provider_data(bytes(500), NOW)
    stage.exchange.client_gone(NOW)
    stage.exchange.provider_data(bytes(1_500), NOW)
    assert stats.draining_bytes == MAX_DRAINING_BYTES
    assert "cancel" not in stage.names
    stage.exchange.provider_data(bytes(1), NOW)
    assert (stage.names[-2:], stats.drains) == (["cancel", "terminal"], {"cut": 1})
    assert stats.draining_bytes == others


def test_what_comes_after_a_drain_is_over_changes_nothing() -> None:
    """No second end, whatever the provider still says."""
    stage = _stage(most_bytes=1024, stream=True)
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    stage.exchange.provider_data(DELTA * 20, NOW)
    stage.exchange.provider_data(LAST + DONE, NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.provider_fault("reset", True, "", NOW)
    stage.exchange.terminal_recorded()
    assert stage.terminal.usage_source == "estimated"
    assert len(stage.hold.settled) == 1


def test_a_drain_stays_within_its_budget() -> None:
    """A stream that a budget would have cut off is read on no further."""
    stage = _stage(stream=True)
    stage.plan.holds[0].refusal = msgspec.structs.replace(SHORT, final_unit="terminate")
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    for _ in range(1200):
        stage.exchange.provider_data(DELTA, NOW)
    assert "cancel" in stage.names
    event = stage.terminal
    assert (event.usage_source, _flags(event)) == ("estimated", ("drain_cut",))
    assert event.charge_tokens <= stage.hold.held[0] + 1


def test_a_drained_stream_goes_on_reserving() -> None:
    """Where there is room, a long answer is held as if its client were there: a crash would charge it."""
    stage = _stage(stream=True)
    stage.plan.holds[0].room = 10**9
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    for _ in range(1200):
        stage.exchange.provider_data(DELTA, NOW)
    assert stage.plan.holds[0].asked
    assert stage.names.count("admitted") >= 2
    stage.exchange.provider_data(LAST + DONE, NOW)
    stage.exchange.provider_end(NOW)
    assert _flags(stage.terminal) == ("drained",)


def test_a_fault_ends_a_drain() -> None:
    """What came is charged by estimate, and never less than the provider has told."""
    stage = Stage(ANTHROPIC_MESSAGES)
    stage.plan.drain = Drain()
    stage.sent(stream=True, max_tokens=500)
    start = {"type": "message_start", "message": {"model": "c", "usage": {"input_tokens": 77, "output_tokens": 9}}}
    stage.streaming(b"data: " + msgspec.json.encode(start) + b"\n\n")
    stage.exchange.client_gone(NOW)
    stage.exchange.provider_fault("reset", True, "", NOW)
    event = stage.terminal
    assert (event.status, event.error, event.usage_source) == ("cancelled", "client_gone", "estimated")
    assert (event.usage.input, event.usage.output >= 9) == (77, True)
    assert stage.context.stats.drains == {"failed": 1}


def test_a_request_that_was_not_sent_after_all_is_not_charged() -> None:
    """A stale connection, and no other to be had: the provider never had it."""
    stage = _stage()
    stage.exchange.client_gone(NOW)
    stage.exchange.provider_fault("connect", False, "", NOW)
    assert stage.hold.settled == [(0, 0, 0)]
    assert (stage.terminal.status, stage.terminal.usage_source) == ("cancelled", "none")


def test_a_request_that_waits_for_a_connection_is_released() -> None:
    """Nothing was sent, so there is nothing to read on or to charge."""
    stage = _stage()
    stage.is_on_its_way = False
    stage.exchange.client_gone(NOW)
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert stage.hold.settled == [(0, 0, 0)]
    assert (stage.terminal.status, stage.terminal.usage_source) == ("cancelled", "none")


def test_no_more_than_so_many_are_read_on() -> None:
    """Where the process reads on enough already, the provider is hung up on."""
    stage = _stage(stream=True)
    stage.may_read_on = False
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert (stage.terminal.usage_source, _flags(stage.terminal)) == ("estimated", ())
    assert (stage.context.stats.draining, stage.context.stats.drains) == (0, {"refused": 1})


@pytest.mark.parametrize("parts", [[DELTA, LAST], [DELTA, LAST + DONE]])
def test_what_is_told_in_full_is_not_read_on(parts: list[bytes]) -> None:
    """The usage is there: it is settled at once."""
    stage = _stage(stream=True)
    stage.streaming(*parts)
    stage.exchange.client_gone(NOW)
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert (stage.terminal.usage_source, stage.terminal.usage) == ("provider", TokenUsage(19, 21))


def test_a_bug_while_reading_on_ends_it() -> None:
    """Nobody is there to be told; the reservation ends, and the provider is hung up on."""
    stage = _stage(stream=True)
    stage.streaming(DELTA)
    stage.exchange.client_gone(NOW)
    stage.exchange.crash(NOW)
    stage.exchange.terminal_recorded()
    assert stage.names[-2:] == ["cancel", "terminal"]
    assert (stage.terminal.status, stage.terminal.error, stage.terminal.http_status) == ("failed", "internal", 200)
    assert stage.context.stats.draining == 0
    assert len(stage.hold.settled) == 1
