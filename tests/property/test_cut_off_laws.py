"""Laws of streams under a budget: wherever the bytes are cut and whenever the budget ends, it is not exceeded."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.protocols import (
    ANTHROPIC_MESSAGES,
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    OPENAI_RESPONSES,
    Operation,
)
from ingress.core.reserving import CHUNK_TOKENS
from schemas.money import cost_nanos
from tests.unit.ingress.playbook import NOW, PRICE, SHORT, FakePlan, Stage
from tests.unit.ingress.test_streaming import anthropic, openai

TEXTS = st.lists(st.one_of(st.integers(0, 50), st.integers(500, 8_000)), min_size=4, max_size=20)
CUTS = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=20)
ROOM = st.one_of(st.just(0), st.integers(0, CHUNK_TOKENS))
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"c","usage":'
    b'{"input_tokens":30,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"text":""}}\n\n'
)
STOP = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":'
    b'{"output_tokens":%d}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)


STREAMED = [OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_RESPONSES, ANTHROPIC_MESSAGES]


def _response(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def _completion(words: str) -> bytes:
    chunk = {"id": "c", "object": "text_completion", "choices": [{"text": words, "index": 0}], "usage": None}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _stream(operation: Operation, texts: list[int]) -> bytes:
    """Return a whole stream in which each text has that many bytes, two of them a token."""
    tokens = sum(-(-size // 2) for size in texts)
    if operation is OPENAI_RESPONSES:
        told = {"input_tokens": 30, "output_tokens": tokens, "total_tokens": 30 + tokens}
        begun = {"id": "r", "object": "response", "status": "in_progress", "usage": None}
        deltas = b"".join(_response("response.output_text.delta", delta="w" * size) for size in texts)
        end = _response("response.completed", response={**begun, "status": "completed", "usage": told})
        return _response("response.created", response=begun) + deltas + end
    if operation in (OPENAI_CHAT, OPENAI_COMPLETIONS):
        usage = {"prompt_tokens": 30, "completion_tokens": tokens, "total_tokens": 30 + tokens}
        last = b"data: " + msgspec.json.encode({"model": "m", "choices": [], "usage": usage}) + b"\n\n"
        if operation is OPENAI_COMPLETIONS:
            return b"".join(_completion("w" * size) for size in texts) + last + b"data: [DONE]\n\n"
        return b"".join(openai({"content": "w" * size}) for size in texts) + last + b"data: [DONE]\n\n"
    deltas = b"".join(anthropic({"type": "text_delta", "text": "w" * size}) for size in texts)
    return START + deltas + STOP % tokens


def _play(operation: Operation, stream: bytes, cuts: list[float], room: int) -> Stage:
    plan = FakePlan()
    plan.room = room
    plan.refusal = msgspec.structs.replace(SHORT, final_unit="terminate")
    stage = Stage(operation, plan=plan)
    stage.sent(stream=True, max_tokens=64_000, max_output_tokens=64_000)
    at = sorted(int(cut * len(stream)) for cut in cuts)
    stage.streaming(*(stream[a:b] for a, b in itertools.pairwise([0, *at, len(stream)]) if a < b))
    stage.exchange.provider_end(NOW)
    stage.exchange.terminal_recorded()
    return stage


def _events(stage: Stage) -> list[Any]:
    out = b"".join(effect[1] for effect in stage.effects if effect[0] in ("data", "end"))
    lines = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert out.endswith(b"\n\n")
    return ["[DONE]" if line == b"[DONE]" else msgspec.json.decode(line) for line in lines]


def _text(events: list[Any]) -> int:
    choices = [choice for event in events if "choices" in event for choice in event["choices"]]
    chats = [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
    deltas = [event["delta"] for event in events if "delta" in event]
    others = [delta if isinstance(delta, str) else delta.get("text", "") for delta in deltas]
    return sum(map(len, chats + others))


def _is_end(operation: Operation, last: Any, is_cut: bool) -> bool:
    """Tell whether an event is the end of a stream by the rules of its protocol."""
    if operation is OPENAI_RESPONSES:
        return bool(last["type"] == ("response.incomplete" if is_cut else "response.completed"))
    return bool(last == ({"type": "message_stop"} if operation is ANTHROPIC_MESSAGES else "[DONE]"))


@settings(max_examples=100)
@given(st.sampled_from(STREAMED), TEXTS, CUTS, ROOM)
def test_cut_stream_ends_cleanly_within_what_it_held(
    operation: Operation, texts: list[int], cuts: list[float], room: int
) -> None:
    """One terminal event, charged no more than was held and no less than was delivered; the protocol's own end."""
    stage = _play(operation, _stream(operation, texts), cuts, room)
    event, hold = stage.terminal, stage.hold
    events = _events(stage)
    delivered = _text([each for each in events if isinstance(each, dict)])
    assert stage.names.count("terminal") == 1
    assert hold.settled == [(1, event.charge_tokens, event.charge_nanos)]
    assert event.charge_nanos == cost_nanos(PRICE, event.usage)
    assert _is_end(operation, events[-1], event.error == "cut_off")
    if event.error == "cut_off":
        assert event.usage.output >= -(-delivered // 2)
        assert event.charge_tokens <= hold.held[0]
        assert event.charge_nanos <= hold.held[1]
        assert hold.held[0] <= hold.reserved[0] + room
        assert stage.names.index("cancel") < stage.names.index("terminal")
        starts = sum(isinstance(each, dict) and each.get("type") == "content_block_start" for each in events)
        stops = sum(isinstance(each, dict) and each.get("type") == "content_block_stop" for each in events)
        assert starts == stops
    else:
        assert delivered == sum(texts)
        assert event.usage_source == "provider"


@settings(max_examples=40)
@given(st.sampled_from(STREAMED), TEXTS, CUTS)
def test_stream_with_room_is_never_touched(operation: Operation, texts: list[int], cuts: list[float]) -> None:
    """As long as extensions are granted, what the client gets is what the provider sent, and what is used is held."""
    stream = _stream(operation, texts)
    stage = _play(operation, stream, cuts, 10**9)
    out = b"".join(effect[1] for effect in stage.effects if effect[0] in ("data", "end"))
    hidden = len(stream) - len(out)
    assert hidden == (len(_usage_chunk(stream)) if operation in (OPENAI_CHAT, OPENAI_COMPLETIONS) else 0)
    assert (stage.terminal.error, stage.terminal.usage_source) == ("", "provider")


def _usage_chunk(stream: bytes) -> bytes:
    """Return the chunk that only Tollway asked for."""
    return next(event + b"\n\n" for event in stream.split(b"\n\n") if b'"choices":[]' in event)
