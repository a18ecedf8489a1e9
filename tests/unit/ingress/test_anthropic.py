"""Anthropic's protocol: requests, answers and streams."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.ask import Ask
from ingress.core.providers.anthropic import AnthropicStream, prepare, read_answer, read_messages
from schemas.tokens import TokenUsage


def _answer(**usage: Any) -> bytes:
    return msgspec.json.encode({"type": "message", "model": "c-1", "content": [], "usage": usage})


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, TokenUsage(10, 5)),
        (
            {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7},
            TokenUsage(10, 5, 100, 7),
        ),
        (
            {"input_tokens": 10, "output_tokens": 50, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7,
             "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
             "output_tokens_details": {"thinking_tokens": 40}},
            TokenUsage(10, 10, 100, 3, 4, 40),
        ),
        ({"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": None}, TokenUsage()),
    ],
)  # fmt: skip
def test_usage_becomes_disjoint_classes(usage: dict[str, Any], expected: TokenUsage) -> None:
    """Cache reads and writes are beside the input, thinking is part of the output."""
    reported = read_answer(_answer(**usage))
    assert (reported.usage, reported.model, reported.fault) == (expected, "c-1", "")


def test_last_word_of_each_count_holds_in_a_stream() -> None:
    """Counts of a stream are so far, never sums: `message_delta` replaces what `message_start` said."""
    stream = AnthropicStream()
    stream.take(
        b'{"type":"message_start","message":{"model":"c-1","usage":{"input_tokens":10,"output_tokens":1,'
        b'"cache_read_input_tokens":5}}}'
    )
    opening = stream.reported
    stream.take(b'{"type":"message_delta","usage":{"output_tokens":20}}')
    stream.take(b'{"type":"message_delta","usage":{"input_tokens":12,"output_tokens":30}}')
    assert (opening.is_final, stream.reported.is_final) == (False, True)
    assert stream.reported.usage == TokenUsage(12, 30, 5)
    assert stream.reported.model == "c-1"


def test_only_message_stop_ends_a_stream() -> None:
    """The word in a text does not."""
    stream = AnthropicStream()
    assert stream.is_end(b'{"type":"message_stop"}')
    assert not stream.is_end(b'{"type":"content_block_delta","delta":{"text":"message_stop"}}')
    assert not stream.is_end(b"message_stop")


def test_message_request_is_understood() -> None:
    """Model, stream and the most output are taken."""
    assert read_messages({"model": "c", "max_tokens": 9, "stream": True}) == Ask("c", True, 9)


def test_upstream_name_replaces_the_model() -> None:
    """The provider gets the name that it knows, and streams need no option."""
    body = b'{"model":"nick","stream":true,"max_tokens":1}'
    fields = msgspec.json.decode(body)
    assert prepare(body, fields, read_messages(fields), "real") == b'{"model":"real","stream":true,"max_tokens":1}'
    assert prepare(body, fields, read_messages(fields), "nick") is body
