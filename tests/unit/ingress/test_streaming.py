"""What a stream's output is counted as, and when its reservation has to grow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ingress.core.ask import Ask
from ingress.core.learned import LEARN_AFTER, Learned, Profile
from ingress.core.providers.anthropic import AnthropicStream
from ingress.core.providers.openai import OpenAIStream
from ingress.core.reserving import CHUNK_TOKENS, Reservation
from ingress.core.sse import EventReader, EventRelay
from ingress.core.streaming import NEVER, Outflow
from schemas.money import Price, Rates
from schemas.tokens import TokenUsage

PRICE = Price("test", "1", (Rates(0, 150_000, 75_000, 187_500, 300_000, 600_000, 600_000, 150_000, 600_000),))
BODY = b"x" * 100


def openai(delta: dict[str, Any], **fields: Any) -> bytes:
    """Return one chunk of a chat completion."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": None, **fields}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def anthropic(delta: dict[str, Any], index: int = 0) -> bytes:
    """Return one delta of a message."""
    event = {"type": "content_block_delta", "index": index, "delta": delta}
    return b"event: content_block_delta\ndata: " + msgspec.json.encode(event) + b"\n\n"


def output_of(flow: Outflow) -> int:
    """Return the output of a stream, everything counted."""
    assert flow.text_bytes >= 0
    return flow.output


def flow_of(ask: Ask, reader: EventReader | None = None, profile: Profile | None = None) -> Outflow:
    """Return the outflow of a stream that was admitted with a body of 100 bytes: 50 tokens."""
    plan: Any = SimpleNamespace(max_output_tokens=16_384, reserve_price=PRICE, is_strict=False, cuts_off=False)
    reserved = Reservation(ask, plan, BODY, profile or Learned().of("k", "m"), True)
    return Outflow(ask, reserved, PRICE, reader or OpenAIStream(False))


@pytest.mark.parametrize(
    ("reader", "block", "pieces", "text"),
    [
        (OpenAIStream(False), openai({"content": "four"}), 1, 4),
        (OpenAIStream(False), openai({"content": "four"}) * 3, 3, 12),
        (OpenAIStream(False), openai({"role": "assistant", "content": "", "refusal": None}), 0, 0),
        (OpenAIStream(False), openai({"role": "assistant", "content": ""}) + openai({"content": "ab"}), 1, 2),
        (OpenAIStream(False), openai({}), 0, 0),
        (OpenAIStream(False), openai({"content": 'a "b" \\ c'}), 1, 12),
        (OpenAIStream(False), openai({"content": "\n"}) + openai({"content": "x"}), 2, 3),
        (OpenAIStream(False), openai({"content": '"delta"'}), 1, 9),
        (OpenAIStream(False), openai({"content": None, "reasoning_content": "think"}), 1, 5),
        (OpenAIStream(False), openai({"content": "", "reasoning": "think"}), 1, 5),
        (OpenAIStream(False), openai({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}), 1, 6),
        (OpenAIStream(False), openai({"content": "hi"}) + openai({"tool_calls": [{"arguments": "ab"}]}), 2, 4),
        (OpenAIStream(False), openai({"content": "hi"}).replace(b'"content":"', b'"content": "'), 1, 2),
        (AnthropicStream(), anthropic({"type": "text_delta", "text": " hello"}), 1, 6),
        (AnthropicStream(), anthropic({"type": "thinking_delta", "thinking": "why"}), 1, 3),
        (AnthropicStream(), anthropic({"type": "input_json_delta", "partial_json": '{"k":'}), 1, 7),
        (AnthropicStream(), anthropic({"type": "signature_delta", "signature": "A" * 400}), 0, 0),
        (AnthropicStream(), b'event: ping\ndata: {"type":"ping"}\n\n', 0, 0),
        (AnthropicStream(), b'data: {"type":"content_block_start","index":0,"content_block":{"text":""}}\n\n', 0, 0),
    ],
)  # fmt: skip
def test_text_is_counted_where_it_stands(reader: EventReader, block: bytes, pieces: int, text: int) -> None:
    """Every kind of text of both protocols; what is around it does not count, nor what only looks like text."""
    flow = flow_of(Ask("m", True), reader)
    flow.count(block)
    assert flow.text_bytes == text
    assert flow.output == max(pieces, -(-text // 2))
    if b'"delta"' in block:
        assert flow.likely == max(pieces, -(-text // 4))


def test_pieces_are_a_token_each_at_least() -> None:
    """A hundred pieces of one letter are a hundred tokens, whatever texts usually have."""
    flow = flow_of(Ask("m", True))
    for _ in range(100):
        flow.count(openai({"content": "a"}))
    assert flow.likely == flow.output == 100


def test_text_counts_by_what_was_learned() -> None:
    """A model whose texts have four bytes a token at least is counted so, with an eighth on top."""
    profile = Learned().of("k", "m")
    for _ in range(LEARN_AFTER):
        profile.note(TokenUsage(10, 100), 110, 1, 0, 400)
    flow = flow_of(Ask("m", True), profile=profile)
    flow.count(openai({"content": "x" * 4_000}))
    assert 1_000 < output_of(flow) <= 1_127


def test_counts_of_the_provider_replace_ours() -> None:
    """Usage on the way sets the count right, and what comes after it is counted on top."""
    relay = EventRelay(OpenAIStream(False))
    flow = flow_of(Ask("m", True), relay.reader)
    flow.count(relay.feed(openai({"content": "x" * 400})))
    assert output_of(flow) == 200
    told = {"prompt_tokens": 20, "completion_tokens": 90, "total_tokens": 110}
    flow.count(relay.feed(openai({"content": "abcd"}, usage=told)))
    assert output_of(flow) == flow.likely == 90
    assert flow.input == TokenUsage(20)
    assert not flow.is_complete
    flow.count(relay.feed(openai({"content": "abcd"})))
    assert output_of(flow) == 92
    assert flow.text_bytes == 408


def test_opening_of_a_message_tells_the_input_only() -> None:
    """What the input is below its reservation is there for the output, as far as the money reaches too."""
    relay = EventRelay(AnthropicStream())
    flow = flow_of(Ask("m", True, 50_000), relay.reader)
    assert flow.covered == CHUNK_TOKENS
    usage = {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 1}
    start = {"type": "message_start", "message": {"model": "c", "usage": usage}}
    flow.count(relay.feed(b"data: " + msgspec.json.encode(start) + b"\n\n"))
    assert (output_of(flow), flow.covered) == (0, CHUNK_TOKENS + 9)
    flow.count(relay.feed(anthropic({"type": "text_delta", "text": "abcd"})))
    assert output_of(flow) == 2
    assert flow.usage == TokenUsage(10, 2, cache_read=20)


def test_input_above_its_reservation_is_taken_from_the_output() -> None:
    """Tokens and money are both looked at: what is covered is what is left of the scarcer."""
    relay = EventRelay(AnthropicStream())
    flow = flow_of(Ask("m", True, 50_000), relay.reader)
    usage = {"input_tokens": 50, "cache_creation_input_tokens": 50, "output_tokens": 1}
    start = {"type": "message_start", "message": {"model": "c", "usage": usage}}
    flow.count(relay.feed(b"data: " + msgspec.json.encode(start) + b"\n\n"))
    assert flow.covered == CHUNK_TOKENS - 50
    tokens, nanos = flow.wanted(0)
    assert (tokens, nanos) == (0, 0)


def test_another_chunk_is_due_at_four_fifths() -> None:
    """It is asked for before anything is beyond the reservation, and again when that is used up to four fifths."""
    flow = flow_of(Ask("m", True, 50_000))
    assert (flow.covered, flow.ask_at) == (CHUNK_TOKENS, CHUNK_TOKENS - CHUNK_TOKENS // 5)
    flow.count(openai({"content": "x" * (2 * flow.ask_at + 2)}))
    assert flow.output == flow.ask_at + 1 < flow.covered
    tokens, nanos = flow.wanted(CHUNK_TOKENS)
    assert tokens == flow.output
    assert nanos in (tokens * 600_000 // 10**6, tokens * 600_000 // 10**6 + 1)
    flow.extended(tokens, nanos)
    assert flow.covered == flow.output + CHUNK_TOKENS
    assert flow.ask_at == flow.covered - CHUNK_TOKENS // 5


def test_no_more_is_wanted_than_the_answer_may_have() -> None:
    """The maximum that the client asked for is never exceeded by a reservation, and once it is held nothing is due."""
    flow = flow_of(Ask("m", True, CHUNK_TOKENS + 100))
    flow.count(openai({"content": "x" * 2 * CHUNK_TOKENS}))
    assert flow.wanted(CHUNK_TOKENS)[0] == 100
    flow.extended(*flow.wanted(CHUNK_TOKENS))
    assert flow.ask_at == NEVER
    flow.count(openai({"content": "x" * 40_000}))
    assert output_of(flow) == CHUNK_TOKENS + 100
    assert flow_of(Ask("m", True, 100)).ask_at == NEVER


def test_refused_extension_is_put_off() -> None:
    """While something is left, until a part or the rest of it is used; beyond it, for as much as is said."""
    flow = flow_of(Ask("m", True, 50_000))
    flow.count(openai({"content": "x" * 8_000}))
    flow.put_off(50)
    assert flow.ask_at == 4_050
    flow.put_off(5_000)
    assert flow.ask_at == flow.covered
    flow.count(openai({"content": "x" * 8_000}))
    flow.put_off(1_000)
    assert flow.ask_at == 9_000


def test_block_that_does_not_fit_goes_in_part() -> None:
    """Of the events that came together those go on that are covered; only they are charged."""
    flow = flow_of(Ask("m", True, 50_000))
    flow.count(openai({"content": "x" * 8_000}))
    events = [openai({"content": "y" * 80}) for _ in range(5)]
    block = b"".join(events)
    flow.count(block)
    assert flow.output > flow.covered
    assert flow.fitting(block) == b"".join(events[:2])
    assert flow.usage == TokenUsage(50, 4_080)
    assert flow.last == events[1]


def test_stream_of_another_kind_is_charged_by_its_bytes() -> None:
    """Events without anything that looks like a delta are still an answer."""
    flow = flow_of(Ask("m", True, 50_000))
    flow.count(b"data: " + b"z" * 392 + b"\n\n")
    assert (flow.likely, flow.output) == (100, 0)


def test_blocks_wait_only_while_they_cannot_matter() -> None:
    """However a stream comes in blocks, more is asked for at the same event."""
    flow, at_once = flow_of(Ask("m", True, 50_000)), flow_of(Ask("m", True, 50_000))
    for _ in range(1_000):
        block = openai({"content": "a b c d "})
        flow.count(block)
        at_once.count(block)
        output_of(at_once)
        assert (flow.output > flow.ask_at) is (at_once.output > at_once.ask_at)
    assert flow.output > flow.ask_at
