"""Requests and answers of the operations beside chat, embeddings and messages: what is asked, held and billed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.ask import Ask
from ingress.core.learned import Learned
from ingress.core.protocols import (
    ANTHROPIC_COUNT_TOKENS,
    OPENAI_COMPLETIONS,
    OPENAI_INPUT_TOKENS,
    OPENAI_MODERATIONS,
    OPENAI_RESPONSES,
    OPERATIONS,
    Operation,
)
from ingress.core.providers.openai import MODERATION_MODEL
from ingress.core.reserving import UNKNOWN_TOKENS, Reservation
from ingress.core.strict_json import InputError
from ingress.routes import METERED
from schemas.operations import OPERATIONS as NAMES
from schemas.tokens import NO_TOKENS, TokenUsage
from tests.unit.ingress.playbook import PRICE, FakePlan, Stage

FREE = [OPENAI_MODERATIONS, OPENAI_INPUT_TOKENS, ANTHROPIC_COUNT_TOKENS]


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        (OPENAI_RESPONSES, {"model": "m", "input": "x"}, Ask("m")),
        (OPENAI_RESPONSES, {"model": "m", "stream": True, "max_output_tokens": 9}, Ask("m", True, 9)),
        (OPENAI_RESPONSES, {"model": "m", "background": False}, Ask("m")),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": "x"}, Ask("m")),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": "x", "n": 2, "best_of": 5, "max_tokens": 7},
         Ask("m", False, 7, 5)),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": ["x", "y"], "n": 2}, Ask("m", choices=4)),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": [1, 2, 3]}, Ask("m")),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": [[1, 2], [3]], "best_of": 3}, Ask("m", choices=6)),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": []}, Ask("m")),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": ["x", "y"], "stream": True},
         Ask("m", True, choices=2, usage_wanted=False)),
        (OPENAI_MODERATIONS, {"model": "m", "input": "x"}, Ask("m", output_tokens=0, is_free=True)),
        (OPENAI_MODERATIONS, {"input": "x"}, Ask(MODERATION_MODEL, output_tokens=0, is_free=True)),
        (ANTHROPIC_COUNT_TOKENS, {"model": "m", "messages": []}, Ask("m", output_tokens=0, is_free=True)),
        (OPENAI_INPUT_TOKENS, {"model": "m", "input": "x"}, Ask("m", output_tokens=0, is_free=True)),
    ],
)  # fmt: skip
def test_request_is_understood(operation: Operation, fields: dict[str, Any], expected: Ask) -> None:
    """Model, stream, the most output and how many answers are written."""
    assert operation.read(fields) == expected


@pytest.mark.parametrize(
    ("operation", "fields", "named"),
    [
        (OPENAI_RESPONSES, {"model": "m", "background": True}, "background"),
        (OPENAI_RESPONSES, {"model": "m", "max_output_tokens": -1}, "max_output_tokens"),
        (OPENAI_RESPONSES, {"input": "x"}, "model"),
        (OPENAI_COMPLETIONS, {"model": "m", "best_of": "3"}, "best_of"),
        (OPENAI_COMPLETIONS, {"model": "m", "prompt": ["x"] * 5_001, "n": 2}, "prompt, n, best_of"),
        (OPENAI_MODERATIONS, {"model": 3}, "model"),
        (ANTHROPIC_COUNT_TOKENS, {"messages": []}, "model"),
    ],
)
def test_wrong_field_is_named(operation: Operation, fields: dict[str, Any], named: str) -> None:
    """What cannot be metered is refused before it is sent."""
    with pytest.raises(InputError, match=f"^{named}:"):
        operation.read(fields)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"nick","input":"nick"}', b'{"model":"real","input":"nick"}'),
        (b'{"model":"real","input":1}', b'{"model":"real","input":1}'),
        (b'{"model":null,"input":1}', b'{"model":"real","input":1}'),
        (b'{"input":1}', b'{"input":1,"model":"real"}'),
        (b"{}", b"{}"),
    ],
)
def test_upstream_name_replaces_the_model(body: bytes, sent: bytes) -> None:
    """The provider gets the name that it knows, also where the client named none."""
    fields = msgspec.json.decode(body)
    assert OPENAI_MODERATIONS.prepare(body, fields, OPENAI_MODERATIONS.read(fields), "real") == sent


def test_response_asks_for_no_usage_option() -> None:
    """Its usage comes by itself, so a stream is sent as the client wrote it."""
    body = b'{"model":"m","stream":true,"input":"x"}'
    fields = msgspec.json.decode(body)
    assert OPENAI_RESPONSES.prepare(body, fields, OPENAI_RESPONSES.read(fields), "m") == body


def test_output_of_all_answers_is_held() -> None:
    """Every prompt times every answer that is written for it, told or not."""
    ask = OPENAI_COMPLETIONS.read({"model": "m", "prompt": ["x", "y"], "best_of": 4, "max_tokens": 100})
    held = Reservation(ask, FakePlan(), b"x" * 100, Learned().of("k", "m"), True)
    assert (held.output_tokens, held.input_tokens) == (800, 50)
    ask = OPENAI_COMPLETIONS.read({"model": "m", "prompt": ["x", "y"]})
    assert Reservation(ask, FakePlan(), b"", Learned().of("k", "m"), True).output_tokens == 2 * UNKNOWN_TOKENS


@pytest.mark.parametrize("operation", FREE, ids=lambda each: each.name)
@pytest.mark.parametrize("price", [PRICE, None])
def test_free_operation_holds_and_costs_nothing(operation: Operation, price: Any) -> None:
    """One request, no tokens, zero money: explicitly, whatever the price of the model is and where it has none."""
    plan = FakePlan(price)
    plan.reserve_price = PRICE
    stage = Stage(operation, plan=plan)
    stage.sent(input="x" * 4_000)
    assert plan.holds[0].reserved == (0, 0)
    stage.answered(b'{"input_tokens":2095,"results":[],"model":"m"}')
    stage.exchange.terminal_recorded()
    event = stage.terminal
    assert (event.usage, event.cost_nanos, event.usage_source) == (NO_TOKENS, 0, "provider")
    assert (event.charge_requests, event.charge_tokens, event.charge_nanos) == (1, 0, 0)
    assert event.detail is None


def test_units_and_tier_of_a_response_are_on_its_event() -> None:
    """Searches, service tier and the served model are kept; a unit without a price makes the cost unknown."""
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    answer = {"model": "r-1", "service_tier": "flex", "usage": usage, "output": [{"type": "file_search_call"}]}
    stage = Stage(OPENAI_RESPONSES)
    stage.sent(input="x")
    stage.answered(msgspec.json.encode(answer))
    stage.exchange.terminal_recorded()
    event = stage.terminal
    assert event.detail is not None
    assert (event.detail.units, event.detail.service_tier) == ({"file_search": 1}, "flex")
    assert (event.usage, event.cost_nanos, event.model_reported) == (TokenUsage(10, 5), None, "r-1")
    assert event.charge_nanos > 0


def test_odd_usage_of_a_stream_is_flagged() -> None:
    """The stream goes through as it is; what the provider cannot mean is estimated, and the event says so."""
    chunk = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":-3}}\n\n'
    text = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"w" * 400)
    stage = Stage()
    stage.sent(stream=True, stream_options={"include_usage": True})
    stage.streaming(text, chunk, b"data: [DONE]\n\n")
    stage.exchange.provider_end(0)
    stage.exchange.terminal_recorded()
    assert b"".join(effect[1] for effect in stage.effects if effect[0] in ("data", "end")) == text + chunk + (
        b"data: [DONE]\n\n"
    )
    event = stage.terminal
    assert event.detail is not None
    assert event.detail.flags == ("missing_output", "negative")
    assert (event.usage, event.usage_source) == (TokenUsage(7, 100), "estimated")


def test_every_operation_has_a_name_and_a_route() -> None:
    """What policies may name is what is served, at paths of its own."""
    names = {operation.name for operation in OPERATIONS}
    assert names <= {name for known in NAMES.values() for name in known}
    assert len({operation.path for operation in OPERATIONS}) == len(OPERATIONS)
    assert {operation.name for operation in METERED.values()} >= names
