"""OpenAI's protocol: requests, answers and streams."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.ask import Ask
from ingress.core.providers.openai import OpenAIStream, prepare, read_answer, read_chat, read_embeddings
from ingress.core.strict_json import InputError
from schemas.tokens import TokenUsage


def _answer(**usage: Any) -> bytes:
    return msgspec.json.encode({"model": "m-1", "choices": [{"message": {"content": "hi"}}], "usage": usage})


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, TokenUsage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5}, TokenUsage(10, 5)),
        ({"prompt_tokens": 10, "total_tokens": 10}, TokenUsage(10)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, TokenUsage()),
        (
            {
                "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10, "cache_write_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 8},
            },
            TokenUsage(25, 22, 60, 5, 0, 20, 10, 8),
        ),
        # audio that was cached is counted as cached
        (
            {"prompt_tokens": 10, "completion_tokens": 1,
             "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 6}},
            TokenUsage(0, 1, 8, audio_input=2),
        ),
        # providers that count reasoning beside the completion
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35,
             "completion_tokens_details": {"reasoning_tokens": 20}},
            TokenUsage(10, 5, reasoning=20),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}, TokenUsage(10, 5, reasoning=20)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None,
             "completion_tokens_details": {"reasoning_tokens": None}},
            TokenUsage(10, 5),
        ),
    ],
)  # fmt: skip
def test_usage_becomes_disjoint_classes(usage: dict[str, Any], expected: TokenUsage) -> None:
    """No token is in two classes, and their sum is what the provider counted."""
    reported = read_answer(_answer(**usage))
    assert (reported.usage, reported.model, reported.fault, reported.is_final) == (expected, "m-1", "", True)
    assert expected.total == usage.get("total_tokens", usage["prompt_tokens"] + usage.get("completion_tokens", 0))


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"usage":3}', b"\x1f\x8b", b"[" * 100_000])
def test_unreadable_answer_reports_a_fault(body: bytes) -> None:
    """An answer that is not what it should be has no usage."""
    assert read_answer(body).fault == "unreadable_usage"


def test_answer_without_usage_reports_none() -> None:
    """Missing usage is missing, not zero."""
    assert (read_answer(b'{"model":"m"}').usage, read_answer(b'{"model":"m","usage":null}').usage) == (None, None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "m"}, Ask("m")),
        ({"model": "m", "max_tokens": 7}, Ask("m", output_tokens=7)),
        ({"model": "m", "max_tokens": 7, "max_completion_tokens": 9, "n": 3}, Ask("m", False, 9, 3)),
        ({"model": "m", "stream": True}, Ask("m", True, usage_wanted=False)),
        ({"model": "m", "stream": True, "stream_options": {"include_usage": True}}, Ask("m", True)),
        ({"model": "m", "stream": True, "stream_options": {}}, Ask("m", True, usage_wanted=False)),
        ({"model": "m", "stream": None, "n": None, "max_tokens": None}, Ask("m")),
    ],
)  # fmt: skip
def test_chat_request_is_understood(fields: dict[str, Any], expected: Ask) -> None:
    """Model, stream, output and choices are taken; what is left out has the provider's defaults."""
    assert read_chat(fields) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "model"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m", "stream": "yes"}, "stream"),
        ({"model": "m", "max_tokens": -1}, "max_tokens"),
        ({"model": "m", "max_tokens": True}, "max_tokens"),
        ({"model": "m", "max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"model": "m", "n": "2"}, "n"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    """What admission needs must be what it says."""
    with pytest.raises(InputError, match=f"^{named}:"):
        read_chat(fields)


def test_embeddings_have_no_output() -> None:
    """An embeddings request asks for no output tokens."""
    assert read_embeddings({"model": "m", "input": "x"}) == Ask("m", output_tokens=0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m","stream":true}', b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options":null,"model":"m","stream":true}',
            b'{"stream_options":{"include_usage":true},"model":"m","stream":true}',
        ),
        (
            b'{"model":"m","stream_options":{"x":1,"include_usage":false},"stream":true}',
            b'{"model":"m","stream_options":{"x":1,"include_usage":true},"stream":true}',
        ),
        (b'{"model":"m","stream_options":7,"stream":true}', b'{"model":"m","stream_options":7,"stream":true}'),
        (b'{"model":"m"}', b'{"model":"m"}'),
    ],
)
def test_usage_of_a_stream_is_asked_for(body: bytes, expected: bytes) -> None:
    """Where the client did not ask for the usage of a stream, we do; nothing else changes."""
    fields = msgspec.json.decode(body)
    assert prepare(body, fields, read_chat(fields), "m") == expected


def test_upstream_name_replaces_the_model() -> None:
    """The provider gets the name that it knows."""
    body = b'{"model":"nick","messages":[]}'
    fields = msgspec.json.decode(body)
    assert prepare(body, fields, read_chat(fields), "real") == b'{"model":"real","messages":[]}'


def test_stream_hides_only_the_chunk_that_we_asked_for() -> None:
    """A usage chunk without choices is hidden if the client did not ask; one with choices never is."""
    extra = b'{"model":"m-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    with_choice = b'{"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":9}}'
    hiding, showing = OpenAIStream(True), OpenAIStream(False)
    assert (hiding.take(extra), showing.take(extra), hiding.take(with_choice)) == (True, False, False)
    assert hiding.reported.usage == TokenUsage(3, 9)
    assert showing.reported.usage == TokenUsage(3, 4)
    assert showing.reported.model == "m-1"
