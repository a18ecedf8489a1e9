"""Anthropic's protocol: messages, and counting their tokens. Which fields matter, where the usage is.

In a stream `message_start` tells the input and `message_delta` repeats the counts so far: the last word of each count
holds, and counts are never summed. A stream ends with `message_stop`; one that is cut off ends its open block, and
stops for the reason `max_tokens`. What counts mean is in `anthropic_usage`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.ask import MAX_ASKED_TOKENS, Ask, count_field, flag_field, text_field
from ingress.core.counts import repaired, salvaged
from ingress.core.cutoff import CutOff
from ingress.core.providers.anthropic_usage import NO_USAGE, Usage, merge, report, usage_of
from ingress.core.reported import ERROR_ANSWER, ERROR_EVENT, NOTHING_REPORTED, Reported
from ingress.core.sse import data_of, split_events
from ingress.core.strict_json import replace_text_member
from schemas.flags import MALFORMED
from schemas.tokens import NO_TOKENS

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)


class _Message(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    model: Any = None
    type: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    message: _Message | None = None
    usage: msgspec.Raw = NO_USAGE


class _Kind(msgspec.Struct):
    type: Any = None


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


def read_counted(fields: dict[str, Any]) -> Ask:
    """Understand the body of a count of tokens, which costs nothing; `InputError` names the field that is wrong."""
    return Ask(text_field(fields, "model"), output_tokens=0, is_free=True)


def read_answer(body: bytes) -> Reported:
    """Return what a whole answer reports."""
    try:
        answer = _decode_answer(body)
    except _FAULTS:
        return _unreadable(body)
    odd: set[str] = set()
    usage = usage_of(bytes(answer.usage), odd)
    reported = report(answer.model, usage, odd, True)
    return msgspec.structs.replace(reported, failed=ERROR_ANSWER) if answer.type == "error" else reported


def read_count(body: bytes) -> Reported:
    """Return what a count of tokens reports: it counts tokens that nobody bills."""
    try:
        return Reported("", NO_TOKENS, failed=ERROR_ANSWER if _decode_kind(body).type == "error" else "")
    except _FAULTS:
        return Reported("", NO_TOKENS)


class AnthropicStream:
    """Reads the events of one streamed message that may matter (see `sse.EventReader`)."""

    __slots__ = ("_counts", "_model", "_odd", "failed", "is_complete", "reported")

    end_mark = b'"message_'
    usage_mark = b'"message_'
    piece_mark = b'"delta"'
    text_mark = b'"text":"'

    def __init__(self) -> None:
        """Start reading."""
        self._counts: Usage | None = None
        self._odd: set[str] = set()
        self._model: Any = None
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream."""
        try:
            return bool(_decode_kind(data).type == "message_stop")
        except _FAULTS:
            return False

    def take(self, data: bytes) -> bool:
        """Note the usage in the data of an event; nothing is ever hidden."""
        try:
            event = _decode_event(data)
        except _FAULTS:
            if b'"usage"' in data:
                self._note_unreadable(data)
            return False
        if event.type == "message_start" and event.message is not None:
            self._model = event.message.model
            self._note(bytes(event.message.usage), False)
        elif event.type == "message_delta":
            self._note(bytes(event.usage), True)
        return False

    def note_error(self, data: bytes) -> None:
        """Note an event of type `error`: the message has failed."""
        try:
            if _decode_kind(data).type == "error":
                self.failed = ERROR_EVENT
        except _FAULTS:
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

    def _note(self, raw: bytes, is_final: bool) -> None:
        """Take a usage object: each count that it tells replaces what was told before."""
        told = usage_of(raw, self._odd)
        if told is None and not self._odd:
            return
        self._counts = merge(self._counts, told)
        self.is_complete = self.is_complete or is_final
        self.reported = report(self._model, self._counts, self._odd, is_final)

    def _note_unreadable(self, data: bytes) -> None:
        """Take an event that the strict decoder refuses, with whatever it says of the usage."""
        found = salvaged(data)
        kind = found.get("type") if isinstance(found, dict) else None
        place = found.get("message") if kind == "message_start" else found
        usage = place.get("usage") if isinstance(place, dict) else None
        if usage is None or kind not in ("message_start", "message_delta"):
            self._odd.add(MALFORMED)
            self.reported = report(self._model, self._counts, self._odd, False)
            return
        if kind == "message_start":
            self._model = place.get("model")
        self._counts = merge(self._counts, repaired(usage, Usage, self._odd))
        self.is_complete = self.is_complete or kind == "message_delta"
        self.reported = report(self._model, self._counts, self._odd, kind == "message_delta")


def _unreadable(body: bytes) -> Reported:
    """Return the report of a whole answer that the strict decoder refuses, with whatever it says of its usage."""
    found = salvaged(body)
    usage = found.get("usage") if isinstance(found, dict) else None
    odd: set[str] = set()
    if usage is None:
        odd.add(MALFORMED)
        return report(None, None, odd, True)
    return report(found.get("model"), repaired(usage, Usage, odd), odd, True)


def _open_block(last: bytes) -> int | None:
    """Return the index of the content block that is open after the last events of a stream."""
    index: int | None = None
    for event in split_events(last):
        try:
            found = _decode_block_event(data_of(event))
        except _FAULTS:
            continue
        if found.type in ("content_block_start", "content_block_delta"):
            index = found.index
        elif found.type == "content_block_stop":
            index = None
    return index
