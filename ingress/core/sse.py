"""Relays server-sent events while it reads the few that matter: usage, and the one that ends the stream.

Whole events go on at once; an event whose end has not arrived waits for it, so that any split of the bytes gives the
same result. Most blocks are relayed after three searches for marks, unparsed. What ends the stream is held back until
`finish`: the client must not believe that it is done before its usage is on the log.

Bytes are never changed: what `feed` and `finish` return, joined, is what came in, without the events that are hidden.

A provider may also say in an event that its answer has failed. Nobody searches for that while text goes by: it counts
where it is the last event, or the one before the usage or the end. After any other one the answer has gone on.
"""

from __future__ import annotations

import re
from typing import Protocol

from ingress.core.cutoff import CutOff
from ingress.core.reported import Reported

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""A longer event is relayed unread, with all that follows it, and the usage is estimated."""

ERROR_MARK = b'"error"'
"""Bytes that every event with an error holds, in all protocols."""

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LF, _CR = 10, 13
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader(Protocol):
    """What a provider protocol knows about its events."""

    end_mark: bytes
    """Bytes that every event which ends the stream holds."""
    usage_mark: bytes
    """Bytes that every event with usage holds, and few others."""
    piece_mark: bytes
    """Bytes that every event with a piece of text holds, once a piece."""
    text_mark: bytes
    """What most pieces of text begin with, up to the quotation mark."""
    reported: Reported
    is_complete: bool
    """Whether the provider has told the usage of the whole answer: no text comes any more."""
    failed: str
    """Reason code of an error that the provider told in an event (`provider_error_event`); empty without one."""

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream, and note the usage in it."""

    def take(self, data: bytes) -> bool:
        """Note the usage in the data of an event; True if the client must not see the event."""

    def note_error(self, data: bytes) -> None:
        """Set `failed` if the data of an event that has the error mark say that the answer has failed."""

    def finished(self, block: bytes) -> frozenset[int]:
        """Return the choices that end in a block of events."""

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return the events that end a stream in which `last` were the last ones, by the rules of its protocol."""


class EventRelay:
    """One stream: bytes of the provider in, bytes for the client out."""

    __slots__ = (
        "_end_mark", "_held", "_last", "_more", "_more_bytes", "_tail", "_usage_mark", "is_ended", "is_unread",
        "reader",
    )  # fmt: skip

    def __init__(self, reader: EventReader) -> None:
        """Start a stream that `reader` understands."""
        self.reader = reader
        self._end_mark = reader.end_mark
        self._usage_mark = None if reader.usage_mark == reader.end_mark else reader.usage_mark
        self._tail = b""
        self._more: list[bytes] = []
        """What came after the tail without a line end: joined only once, however small the pieces of an event are."""
        self._more_bytes = 0
        self._held = b""
        self._last = b""
        """The last block of whole events that went on."""
        self.is_ended = False
        """The event that ends the stream has been seen."""
        self.is_unread = False
        """An event was too long to be read, and so is all that follows."""

    def feed(self, data: bytes) -> bytes:
        """Return what may go to the client now that `data` has arrived."""
        if self.is_unread:
            return data
        if self.is_ended:
            self._held += data
            return b""
        tail = self._tail
        if tail:
            if _LF not in data and _CR not in data and tail[-1] != _CR:
                return self._wait(data)
            tail = self._whole_tail()
            seen = len(tail) - 3
            data = tail + data
            self._tail = b""
        else:
            seen = 0
        if data[-2:] != b"\n\n":
            data = self._whole_events(data, max(seen, 0))
            if not data:
                return b""
        # `find`, because `in` takes longer: it tries to read the mark as a number first.
        mark = self._usage_mark
        if data.find(self._end_mark) >= 0 or (mark is not None and data.find(mark) >= 0):
            data, block = self._look(data), data
            self._last = block
            return data
        self._last = data
        return data

    @property
    def failed(self) -> str:
        """Reason code of an error that the provider told in an event, and after which no more of the answer came."""
        if not self.is_ended:
            self._note_error(self._whole_tail() or self._last)
        return self.reader.failed

    @property
    def held_bytes(self) -> int:
        """How much is held back: what ends the stream, and what has come after it."""
        return len(self._held)

    def finish(self) -> bytes:
        """Return what was held back, for the end of the stream; an event that the end cut short is read as well."""
        tail, self._tail = self._whole_tail(), b""
        rest = b""
        if tail:
            rest = self._look(tail)
            self._last = tail
        held, self._held = self._held, b""
        return rest + held

    def _wait(self, data: bytes) -> bytes:
        """Keep a piece of an event in which nothing ends."""
        self._more.append(data)
        self._more_bytes += len(data)
        if len(self._tail) + self._more_bytes <= MAX_EVENT_BYTES:
            return b""
        self.is_unread = True
        tail, self._tail = self._whole_tail(), b""
        return tail

    def _whole_tail(self) -> bytes:
        """Return all of the event that has not ended."""
        if self._more:
            self._tail += b"".join(self._more)
            self._more.clear()
            self._more_bytes = 0
        return self._tail

    def _whole_events(self, data: bytes, seen: int) -> bytes:
        """Return the part of `data` that ends with an event, and keep the rest; `seen` has no event's end."""
        cut = data.rfind(b"\n\n", seen) + 2
        if _CR in data:
            cut = 0
            for match in _BLANK_LINE.finditer(data, seen):
                cut = match.end()
        elif cut == 1:
            cut = 0
        self._tail = data[cut:]
        if len(self._tail) > MAX_EVENT_BYTES:
            self.is_unread = True
            self._tail = b""
            return data
        return data[:cut]

    def _look(self, block: bytes) -> bytes:
        """Read the events of a block that has marks; return what may go on."""
        if self.is_unread:
            return block
        kept: list[bytes] = []
        reader, before = self.reader, self._last
        for event in split_events(block):
            if self.is_ended:
                self._held += event
                continue
            data, known = data_of(event), reader.reported
            if reader.end_mark in event and reader.is_end(data):
                self._note_error(before)
                self.is_ended = True
                self._held = event
            elif reader.usage_mark in event and reader.take(data):
                kept.append(event[: len(event) - len(event.lstrip(b"\r\n"))])  # line ends after the event before it
            else:
                kept.append(event)
            if reader.reported is not known:
                self._note_error(before)
                self._note_error(event)
            before = event
        if self.is_ended:
            self._held += self._tail
            self._tail = b""
        return b"".join(kept)

    def _note_error(self, block: bytes) -> None:
        """Look whether the last event of a block is an error."""
        if ERROR_MARK in block:
            event = split_events(block)[-1]
            if ERROR_MARK in event:
                self.reader.note_error(data_of(event))


def split_events(block: bytes) -> list[bytes]:
    """Return the events of a block, each with the blank line that ends it."""
    events: list[bytes] = []
    start = 0
    if _CR not in block:
        while (end := block.find(b"\n\n", start)) >= 0:
            events.append(block[start : end + 2])
            start = end + 2
        if start < len(block):
            events.append(block[start:])
        return events
    for match in _BLANK_LINE.finditer(block):
        events.append(block[start : match.end()])
        start = match.end()
    if start < len(block):
        events.append(block[start:])
    return events


def data_of(event: bytes) -> bytes:
    """Return the data of an event: its `data:` lines, joined by line feeds."""
    parts = _LINE_END.split(event) if _CR in event else event.split(b"\n")
    lines = [line[5:].removeprefix(b" ") for line in parts if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
