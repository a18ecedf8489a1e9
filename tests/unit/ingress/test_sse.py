"""Events are relayed as they come, and the few that matter are read."""

from __future__ import annotations

import pytest

from ingress.core.providers.anthropic import AnthropicStream
from ingress.core.providers.openai import OpenAIStream
from ingress.core.sse import MAX_EVENT_BYTES, EventRelay
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
