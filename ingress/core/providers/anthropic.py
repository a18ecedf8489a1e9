"""Anthropic's protocol: messages. Which fields matter, where the usage is, what its counts mean.

Usage: `input_tokens` leaves out what was read from or written to the cache, which are counted beside it;
`output_tokens` holds the thinking. In a stream `message_start` tells the input and `message_delta` repeats the counts
so far: the last word of each count holds, and counts are never summed. A stream ends with `message_stop`; one that is
cut off ends its open block, and stops for the reason `max_tokens`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.ask import MAX_ASKED_TOKENS, Ask, count_field, flag_field, text_field
from ingress.core.cutoff import CutOff
from ingress.core.reported import (
    ERROR_ANSWER,
    ERROR_EVENT,
    NOTHING_REPORTED,
    Count,
    Reported,
    UnbelievableUsage,
)
from ingress.core.sse import data_of, split_events
from ingress.core.strict_json import replace_text_member
from schemas.tokens import TokenUsage


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None
    model: str | None = None
    type: str | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    message: _Message | None = None
    usage: _Usage | None = None


class _Kind(msgspec.Struct):
    type: str | None = None


class _BlockEvent(msgspec.Struct):
    type: str | None = None
    index: int = 0


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_block_event = msgspec.json.Decoder(_BlockEvent).decode
_decode_answer = msgspec.json.Decoder(_Message).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def read_messages(fields: dict[str, Any]) -> Ask:
    """Understand the body of a message; `InputError` names the field that is wrong."""
    return Ask(
        text_field(fields, "model"),
        flag_field(fields, "stream"),
        count_field(fields, "max_tokens", MAX_ASKED_TOKENS),
    )


def prepare(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body for the provider: the upstream's model name."""
    return body if ask.model == upstream else replace_text_member(body, "model", ask.model, upstream)


def read_answer(body: bytes) -> Reported:
    """Return what a whole answer reports."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Reported(fault="unreadable_usage", is_final=False)
    reported = _reported(answer.model, answer.usage, True)
    return msgspec.structs.replace(reported, failed=ERROR_ANSWER) if answer.type == "error" else reported


class AnthropicStream:
    """Reads the events of one streamed message that may matter (see `sse.EventReader`)."""

    __slots__ = ("_counts", "_model", "failed", "is_complete", "reported")

    end_mark = b"message_stop"
    usage_mark = b'"usage"'
    text_mark = b'"text":"'

    def __init__(self) -> None:
        """Start reading."""
        self._counts = _Usage()
        self._model: str | None = None
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def may_have_usage(self, block: bytes) -> bool:
        """Tell whether a block that has the mark may hold usage."""
        return True

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream."""
        try:
            return _decode_event(data).type == "message_stop"
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False

    def take(self, data: bytes) -> bool:
        """Note the usage in the data of an event; nothing is ever hidden."""
        try:
            event = _decode_event(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.reported = Reported(self._model or "", fault="unreadable_usage", is_final=False)
            return False
        if event.type == "message_start" and event.message is not None:
            self._model = event.message.model
            self._note(event.message.usage, False)
        elif event.type == "message_delta":
            self._note(event.usage, True)
            self.is_complete = True
        return False

    def note_error(self, data: bytes) -> None:
        """Note an event of type `error`: the message has failed."""
        try:
            if _decode_kind(data).type == "error":
                self.failed = ERROR_EVENT
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return

    def finished(self, block: bytes) -> frozenset[int]:
        """Return the choices that end in a block: a message has only one, which ends with the stream."""
        return frozenset()

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return the events that end the stream: the end of an open block, reason and usage, the stop."""
        index = _open_block(last)
        ends: list[dict[str, Any]] = [] if index is None else [{"type": "content_block_stop", "index": index}]
        ends += [
            {
                "type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
                "usage": {"output_tokens": cut.usage.all_output}, "tollway": cut.notice,
            },
            {"type": "message_stop"},
        ]  # fmt: skip
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in ends
        )

    def _note(self, usage: _Usage | None, is_final: bool) -> None:
        if usage is None:
            return
        for name in _Usage.__struct_fields__:
            value = getattr(usage, name)
            if value is not None:
                setattr(self._counts, name, value)
        self.reported = _reported(self._model, self._counts, is_final)


def _open_block(last: bytes) -> int | None:
    """Return the index of the content block that is open after the last events of a stream."""
    index: int | None = None
    for event in split_events(last):
        try:
            found = _decode_block_event(data_of(event))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
        if found.type in ("content_block_start", "content_block_delta"):
            index = found.index
        elif found.type == "content_block_stop":
            index = None
    return index


def _reported(model: str | None, usage: _Usage | None, is_final: bool) -> Reported:
    name = (model or "")[:128]
    if usage is None:
        return Reported(name, is_final=False)
    try:
        return Reported(name, normalise(usage), is_final)
    except UnbelievableUsage:
        return Reported(name, fault="contradictory_usage", is_final=False)


def normalise(usage: _Usage) -> TokenUsage:
    """Return the disjoint classes of a usage object; `UnbelievableUsage` if it contradicts itself."""
    fresh, output = usage.input_tokens, usage.output_tokens
    if fresh is None or output is None:
        raise UnbelievableUsage("input_tokens or output_tokens is missing")
    if usage.cache_creation is None and usage.output_tokens_details is None:
        return TokenUsage(fresh, output, usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0)
    short, long = _split_written(usage)
    thinking = (usage.output_tokens_details.thinking_tokens if usage.output_tokens_details is not None else None) or 0
    if thinking > output:
        raise UnbelievableUsage("thinking_tokens is more than output_tokens")
    return TokenUsage(fresh, output - thinking, usage.cache_read_input_tokens or 0, short, long, thinking)


def _split_written(usage: _Usage) -> tuple[int, int]:
    """Return the tokens written to the cache for five minutes and for an hour."""
    creation = usage.cache_creation or _CacheCreation()
    short, long = creation.ephemeral_5m_input_tokens, creation.ephemeral_1h_input_tokens or 0
    total = usage.cache_creation_input_tokens
    if total is None:
        return short or 0, long
    if long > total or (short is not None and short + long != total):
        raise UnbelievableUsage("cache_creation does not add up to cache_creation_input_tokens")
    return total - long, long
