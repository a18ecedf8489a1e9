"""Events are relayed as they come, and the few that matter are read."""

from __future__ import annotations

import copy
import time

import pytest

from ingress.core.providers.anthropic import AnthropicStream
from ingress.core.providers.openai import OpenAIStream
from ingress.core.sse import MAX_EVENT_BYTES, EventReader, EventRelay
from schemas.tokens import TokenUsage

DELTA = b'data: {"id":"1","model":"m","choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
USAGE = b'data: {"id":"1","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_whole_events_go_on_at_once() -> None:
    """A block of whole events is relayed by the call that brings it."""
    relay = EventRelay(OpenAIStream(False))
    assert relay.feed(DELTA) == DELTA
    assert relay.feed(DELTA + DELTA) == DELTA + DELTA


def test_event_waits_for_its_end() -> None:
    """What is before an unfinished event goes on, the unfinished one when it is whole."""
    relay = EventRelay(OpenAIStream(False))
    assert relay.feed(DELTA + DELTA[:9]) == DELTA
    assert relay.feed(DELTA[9:-1]) == b""
    assert relay.feed(b"\n") == DELTA


def test_end_of_stream_is_held_back() -> None:
    """The client does not get to see the end before `finish`."""
    relay = EventRelay(OpenAIStream(False))
    assert relay.feed(DELTA + USAGE + DONE) == DELTA + USAGE
    assert relay.is_ended
    assert relay.feed(b": bye\n\n") == b""
    assert relay.finish() == DONE + b": bye\n\n"
    assert relay.reader.reported.usage == TokenUsage(3, 4)


def test_long_event_in_small_pieces_is_put_together_once() -> None:
    """A hundred thousand pieces of one event cost what they weigh, and nothing of it is lost."""
    relay = EventRelay(OpenAIStream(False))
    event = b'data: {"model":"m","choices":[{"delta":{"content":"' + b"w" * 1_000_000 + b'"}}]}\n\n'
    began = time.process_time()
    out = [relay.feed(event[at : at + 10]) for at in range(0, len(event), 10)]
    assert time.process_time() - began < 5, "it was joined again and again"
    assert b"".join(out) + relay.finish() == event
    assert out[-1] == event


def test_endless_event_in_small_pieces_is_relayed_unread() -> None:
    """What is larger than any event goes on, and the stream is not read any more."""
    relay = EventRelay(OpenAIStream(False))
    piece, sent = b"w" * 65_536, 0
    while not relay.is_unread:
        sent += len(relay.feed(piece))
    assert MAX_EVENT_BYTES < sent <= MAX_EVENT_BYTES + len(piece)
    assert relay.feed(USAGE) == USAGE
    assert relay.finish() == b""


def test_what_begins_behind_the_end_keeps_its_place() -> None:
    """An event after the end that comes in two pieces is put together again, in order."""
    relay = EventRelay(OpenAIStream(False))
    assert relay.feed(DONE + b"data: more") == b""
    assert relay.feed(b" words\n\n") == b""
    assert relay.finish() == DONE + b"data: more words\n\n"


def test_usage_that_was_not_asked_for_is_hidden() -> None:
    """The chunk that only Tollway asked for does not reach the client; everything else does."""
    relay = EventRelay(OpenAIStream(True))
    assert relay.feed(DELTA + USAGE + DONE) + relay.finish() == DELTA + DONE
    assert relay.reader.reported.usage == TokenUsage(3, 4)


def test_text_that_looks_like_marks_changes_nothing() -> None:
    """Marks in the model's own words are not taken for events."""
    text = b'data: {"choices":[{"delta":{"content":"\\"usage\\":{} [DONE]"}}],"x":"usage","usage":null}\n\n'
    relay = EventRelay(OpenAIStream(True))
    assert relay.feed(text) == text
    assert not relay.is_ended
    assert relay.reader.reported.usage is None


def test_unfinished_last_event_is_read() -> None:
    """A stream whose last event lacks its blank line loses neither bytes nor usage."""
    relay = EventRelay(OpenAIStream(False))
    assert relay.feed(DELTA + USAGE.rstrip()) == DELTA
    assert relay.finish() == USAGE.rstrip()
    assert relay.reader.reported.usage == TokenUsage(3, 4)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_are_understood(end: bytes) -> None:
    """The standard allows three kinds of line end."""
    stream = (DELTA + USAGE + DONE).replace(b"\n", end)
    relay = EventRelay(OpenAIStream(True))
    assert relay.feed(stream) + relay.finish() == (DELTA + DONE).replace(b"\n", end)
    assert relay.reader.reported.usage == TokenUsage(3, 4)


def test_event_of_several_data_lines_is_joined() -> None:
    """Data split over lines is one text."""
    event = b'data: {"type":"message_delta",\ndata: "usage":{"output_tokens":2,"input_tokens":1}}\n\n'
    relay = EventRelay(AnthropicStream())
    assert relay.feed(event) == event
    assert relay.reader.reported.usage == TokenUsage(1, 2)


def test_endless_event_is_relayed_unread() -> None:
    """An event beyond the limit is not kept: it goes on, and the usage stays unknown."""
    relay = EventRelay(OpenAIStream(True))
    big = b"data: " + b"x" * MAX_EVENT_BYTES
    assert relay.feed(big) == big
    assert relay.feed(b"\n\n" + USAGE + DONE) == b"\n\n" + USAGE + DONE
    assert relay.finish() == b""
    assert relay.reader.reported.usage is None


ERROR = b'data: {"error":{"message":"The server had an error","type":"server_error"}}\n\n'
ANTHROPIC_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
START = b'data: {"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'


@pytest.mark.parametrize(
    ("reader", "stream", "failed"),
    [
        (OpenAIStream(False), DELTA + ERROR, "provider_error_event"),
        (OpenAIStream(False), DELTA + ERROR[:-2], "provider_error_event"),
        (OpenAIStream(False), ERROR + DONE, "provider_error_event"),
        (OpenAIStream(True), DELTA + ERROR + USAGE + DONE, "provider_error_event"),
        (OpenAIStream(False), b'data: {"object":"error","message":"no"}\n\n' + DONE, "provider_error_event"),
        (OpenAIStream(False), b'data: {"error":{"code":502},"usage":{"prompt_tokens":1}}\n\n', "provider_error_event"),
        (OpenAIStream(False), DELTA + ERROR + DELTA + DONE, ""),
        (OpenAIStream(False), b'data: {"error":null,"choices":[]}\n\n' + DONE, ""),
        (OpenAIStream(False), b'data: {"choices":[{"delta":{"content":"error"}}]}\n\n' + DONE, ""),
        (OpenAIStream(False), b'data: "error"\n\n' + DONE, ""),
        (OpenAIStream(False), DELTA + USAGE + DONE, ""),
        (AnthropicStream(), START + ANTHROPIC_ERROR, "provider_error_event"),
        (AnthropicStream(), START + b'data: {"type":"ping","error":"error"}\n\n', ""),
        (AnthropicStream(), START, ""),
    ],
)
def test_error_in_an_event_is_told(reader: EventReader, stream: bytes, failed: str) -> None:
    """In whatever pieces it comes: an error that ends the answer is one, an error after which it goes on is none."""
    for size in (1, 7, len(stream)):
        relay = EventRelay(copy.copy(reader))
        out = b"".join(relay.feed(stream[at : at + size]) for at in range(0, len(stream), size))
        assert relay.failed == failed
        out += relay.finish()
        assert relay.failed == relay.reader.failed == failed
        assert out in (stream, stream.replace(USAGE, b""))
