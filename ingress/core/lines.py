"""Reads a file of results line by line while it streams by, whatever the pieces are that it comes in.

Memory is bounded: a line of more than `MAX_LINE_BYTES` is not kept, and is told of by its name alone. A file whose
first line is no line of results is not read: it is somebody's input, or no text at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from ingress.core.batches import UNREAD, ReadLine
from ingress.core.bytes_relay import BytesRelay
from schemas.batches import LINES_PER_RECORD, Line, line_id

MAX_LINE_BYTES = 8 * 1024 * 1024
_HEAD_BYTES = 4_096
"""What is looked at of a line that cannot be read."""
_NAME = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_RESULT = re.compile(
    rb'\s*\{\s*(?:"id"\s*:\s*"[^"\\]*"\s*,\s*)?"custom_id"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"(?:response|error|result)"\s*:'
)
"""How lines of results begin."""


class LineReader:
    """One file of results: bytes in, lines out by `on_lines`, at most `LINES_PER_RECORD` at a time."""

    __slots__ = (
        "_at",
        "_file",
        "_found",
        "_is_long",
        "_is_results",
        "_on_lines",
        "_parts",
        "_read",
        "_size",
        "is_over",
    )

    def __init__(self, read: ReadLine, file: str, on_lines: Callable[[list[Line]], None]) -> None:
        """Start before the first line; `file` stands for the file in ids of lines without a name."""
        self._read = read
        self._file = file
        self._on_lines = on_lines
        self._parts: list[bytes] = []
        """Of the line that has not ended."""
        self._size = 0
        self._is_long = self._is_results = False
        self._at = 0
        self._found: list[Line] = []
        self.is_over = False
        """Nothing is read any more."""

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        start = 0
        while not self.is_over and (end := data.find(b"\n", start)) >= 0:
            self._hold(data[start:end])
            self._end_line()
            start = end + 1
        if not self.is_over and start < len(data):
            self._hold(data[start:] if start else data)

    def finish(self) -> None:
        """Take that the file is complete: its last line may end without a line feed."""
        if self._size and not self.is_over:
            self._end_line()
        self.is_over = True

    def flush(self) -> None:
        """Tell what was found and not yet told."""
        if self._found:
            found, self._found = self._found, []
            self._on_lines(found)

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of a line, as far as it is of use."""
        if not self._size and not self._is_results and piece.lstrip()[:1] not in (b"", b"{"):
            self._give_up()
            return
        self._size += len(piece)
        if self._is_long:
            return
        self._parts.append(piece)
        if self._size > MAX_LINE_BYTES:
            self._is_long = True
            self._parts = [b"".join(self._parts)[:_HEAD_BYTES]]

    def _end_line(self) -> None:
        if self.is_over:
            return
        raw = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        is_long = self._is_long
        self._parts, self._size, self._is_long = [], 0, False
        self._at += 1
        if raw and not raw.isspace():
            self._take(raw, UNREAD if is_long else self._read(raw))

    def _take(self, raw: bytes, line: Line | None) -> None:
        """Take what a line says."""
        if line is UNREAD and not self._is_results and not _RESULT.match(raw, 0, _HEAD_BYTES):
            self._give_up()
            return
        self._is_results = True
        if line is None:
            return
        if not line.id:
            line = msgspec.structs.replace(line, id=self._id_of(raw))
        self._found.append(line)
        if len(self._found) >= LINES_PER_RECORD:
            self.flush()

    def _id_of(self, raw: bytes) -> bytes:
        """Return an id for a line that cannot be read, or that has no name."""
        match = _NAME.search(raw, 0, _HEAD_BYTES)
        try:
            if match is not None:
                return line_id(msgspec.json.decode(match[1], type=str))
        except (msgspec.MsgspecError, UnicodeError):
            pass
        return line_id(f"\0{self._file}\0{self._at}")

    def _give_up(self) -> None:
        self.is_over = True
        self._parts.clear()


class LinesRelay(BytesRelay):
    """Relays a file as it comes, and lets its lines be read on the way."""

    __slots__ = ("lines",)

    def __init__(self, lines: LineReader) -> None:
        """Start an answer."""
        super().__init__()
        self.lines = lines

    def feed(self, data: bytes) -> bytes:
        """Return what may go to the client now that `data` has arrived."""
        self.lines.feed(data)
        return super().feed(data)
