"""What OpenAI's operations on images and sound have in common: fields of forms, and streams that end with their usage.

A form has texts where JSON has numbers and truth values; both are understood alike, and `model` is replaced in place.
A stream is complete with the one event that has its usage; what follows it is passed on unread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingress.core.ask import Ask, count_field, flag_field
from ingress.core.cutoff import CutOff
from ingress.core.multipart import Form, replace_text
from ingress.core.providers import openai
from ingress.core.providers.openai_usage import NO_USAGE
from ingress.core.reported import ERROR_EVENT, NOTHING_REPORTED, Reported
from ingress.core.strict_json import InputError

FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)
ReadUsage = Callable[[bytes], Reported]


class _Event(msgspec.Struct):
    type: Any = None
    usage: msgspec.Raw = NO_USAGE


_decode_event = msgspec.json.Decoder(_Event).decode


def rename(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body for the provider, JSON or form: the upstream's model name, and nothing else changed."""
    if ask.model == upstream or not isinstance(fields, Form):
        return openai.rename(body, fields, ask, upstream)
    return replace_text(body, fields, "model", upstream)


def count_of(fields: dict[str, Any], name: str, most: int) -> int | None:
    """Return an optional whole number; `InputError` if it is anything else."""
    value = fields.get(name)
    if isinstance(fields, Form) and isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) <= most):
            raise InputError(f"{name}: must be a whole number from 0 to {most}")
        return int(value)
    return count_field(fields, name, most)


def flag_of(fields: dict[str, Any], name: str) -> bool:
    """Return an optional truth value; `InputError` if it is anything else."""
    value = fields.get(name)
    if isinstance(fields, Form) and isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise InputError(f"{name}: must be true or false")
        return value.lower() == "true"
    return flag_field(fields, name)


def text_of(fields: dict[str, Any], name: str) -> str:
    """Return an optional text; empty if there is none, or something else that the provider is to judge."""
    value = fields.get(name)
    return value if type(value) is str else ""


class MediaStream:
    """Reads the one event that matters (see `sse.EventReader`): it has the usage, and ends the stream."""

    __slots__ = ("_ends", "_read_usage", "end_mark", "failed", "is_complete", "reported")

    usage_mark = piece_mark = text_mark = b"\0"

    def __init__(self, ends: tuple[str, ...], read_usage: ReadUsage) -> None:
        """Start reading; `ends` are the types of the last event, `read_usage` takes its usage object."""
        self._ends = ends
        self._read_usage = read_usage
        self.end_mark = f'{ends[0][ends[0].rindex(".") :]}"'.encode()
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream, and note the usage in it."""
        try:
            event = _decode_event(data)
        except FAULTS:
            return False
        if event.type not in self._ends:
            return False
        if bytes(event.usage) != b"null":
            self.reported = self._read_usage(bytes(event.usage))
        self.is_complete = True
        return True

    def take(self, data: bytes) -> bool:
        """Let it pass: no other event has usage."""
        return False

    def note_error(self, data: bytes) -> None:
        """Note an event that says that the answer has failed."""
        if openai.is_failure(data):
            self.failed = ERROR_EVENT

    def finished(self, block: bytes) -> frozenset[int]:
        """Return none: there are no choices."""
        return frozenset()

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return nothing: such a stream is never cut off, all of it is reserved."""
        return b""
