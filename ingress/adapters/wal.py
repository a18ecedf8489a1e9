"""Segments and frames of the write-ahead log: bytes on disk, in order, each with its own checksum.

A run (one start of this replica) has a sequence of segments `<run>-<number>.wal`. A frame is

    length u32 | crc32c u32 | kind u8 | partition u16 | payload            (little endian)

with length and checksum over everything after the checksum. A process that is killed leaves whole frames, because a
frame is there or not once `os.write` has returned; a machine that loses power may leave a torn one at the very end,
which is cut off. A broken frame with whole ones behind it is neither: it is corruption, and nothing is skipped.

Knows files and frames; what frames mean is in `journal` and `recovery`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from schemas.crash_points import crash_here
from schemas.errors import TollwayError

ADMITTED, EVENT, DECISION, CUT, CHECKPOINT, SKIP = range(1, 7)
"""Kinds of frames."""

SEGMENT_BYTES = 16 * 1024 * 1024
MAX_FRAME_BYTES = 64 * 1024 * 1024
_PREFIX = struct.Struct("<II")
_HEAD = struct.Struct("<BH")
PREFIX_BYTES = _PREFIX.size
_OVERHEAD = PREFIX_BYTES + _HEAD.size
_READ_BYTES = 1024 * 1024


class WalCorrupt(TollwayError):
    """A log that is broken in its middle, or that lacks a segment. Nothing is skipped: a person has to look."""


class Head:
    """The part of frames that is the same for all of one kind and partition."""

    __slots__ = ("_bytes", "_crc")

    def __init__(self, kind: int, partition: int) -> None:
        self._bytes = _HEAD.pack(kind, partition)
        self._crc = google_crc32c.value(self._bytes)

    def frame(self, payload: bytes) -> bytes:
        """Return everything of a frame but its payload, which follows."""
        length, crc = len(payload) + _HEAD.size, google_crc32c.extend(self._crc, payload)
        return _PREFIX.pack(length, crc) + self._bytes


class Frame(NamedTuple):
    """A frame as it was read."""

    kind: int
    partition: int
    payload: bytes
    start: int
    """Offset in the file."""
    end: int


class Segment:
    """One file of the log."""

    __slots__ = ("ends", "number", "path", "run", "size")

    def __init__(self, path: Path, run: int, number: int, size: int = 0) -> None:
        self.path = path
        self.run = run
        self.number = number
        self.size = size
        """Bytes that are written; what follows them in the file was only reserved."""
        self.ends: list[tuple[int, int]] = []
        """By partition: how many events and decisions had been written when it was closed."""

    def truncate(self, size: int) -> None:
        """Cut off what follows `size` bytes."""
        os.truncate(self.path, size)
        self.size = size


class Wal:
    """The segments of one run, the last of which is written to."""

    def __init__(self, directory: Path, run: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Prepare to write run number `run` in `directory`, which exists."""
        self.directory = directory
        self.run = run
        self.segments: list[Segment] = []
        self.segment_bytes = segment_bytes
        self.descriptor = -1
        """Of the last segment."""

    @property
    def size(self) -> int:
        """Bytes of this run on disk."""
        return sum(segment.size for segment in self.segments)

    @property
    def is_full(self) -> bool:
        """Whether the current segment has reached its size."""
        return self.segments[-1].size >= self.segment_bytes

    def begin_segment(self, first: bytes, reserved: Path | None = None) -> Segment:
        """Close the current segment and begin a new one with the bytes `first`.

        With `reserved`, that file becomes the segment: there is room in it, whatever else the disk has.
        """
        number = self.segments[-1].number + 1 if self.segments else 1
        path = self.directory / f"{self.run:020d}-{number:010d}.wal"
        flags = os.O_WRONLY
        if reserved is None:
            flags |= os.O_CREAT | os.O_EXCL
        else:
            reserved.rename(path)
        file = os.open(path, flags, 0o600)
        crash_here("ingress.segment_made")
        try:
            _write(file, first)
        except OSError:
            os.close(file)
            path.unlink()  # what it has replaced goes on
            raise
        self._close_file()
        self.descriptor = file
        segment = Segment(path, self.run, number, len(first))
        self.segments.append(segment)
        crash_here("ingress.segment_begun")
        return segment

    def append(self, data: bytes) -> int:
        """Write whole frames at the end and return where they begin; OSError if that fails, with nothing written."""
        segment = self.segments[-1]
        start = segment.size
        try:
            _write(self.descriptor, data)
        except OSError:
            os.ftruncate(self.descriptor, start)
            os.lseek(self.descriptor, start, os.SEEK_SET)
            raise
        segment.size += len(data)
        return start

    def drop_first(self) -> None:
        """Delete the oldest segment."""
        self.segments.pop(0).path.unlink()

    def replace_first(self, count: int, fresh: Path, size: int) -> tuple[Segment, list[Path]]:
        """Let the file `fresh` take the place of the first `count` segments, at once.

        Its first frame says that nothing before it counts: so it is one or the other, whenever a kill comes. Returns
        the segment, and the files that are to be deleted.
        """
        last = self.segments[count - 1]
        fresh.rename(last.path)
        last.size = size
        replaced = [segment.path for segment in self.segments[: count - 1]]
        self.segments[: count - 1] = []
        crash_here("ingress.fold_noted")
        return last, replaced

    def close(self, delete: bool = False) -> None:
        """Close the log; with `delete`, nothing in it is needed any more."""
        self._close_file()
        while delete and self.segments:  # newest first: what a kill leaves is then a whole prefix
            self.segments.pop().path.unlink()

    def _close_file(self) -> None:
        if self.descriptor >= 0:
            if self.segments:
                os.ftruncate(self.descriptor, self.segments[-1].size)  # what is left of a reserve
            os.close(self.descriptor)
            self.descriptor = -1


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def find_segments(directory: Path) -> dict[int, list[Segment]]:
    """Return the segments in `directory` by run, oldest first."""
    runs: dict[int, list[Segment]] = {}
    for path in sorted(directory.glob("*.wal")):
        run, _, number = path.stem.partition("-")
        runs.setdefault(int(run), []).append(Segment(path, int(run), int(number), path.stat().st_size))
    for segments in runs.values():
        numbers = [segment.number for segment in segments]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise WalCorrupt(f"{segments[0].path}: segments between {numbers[0]} and {numbers[-1]} are missing")
    return runs


def read_frames(path: Path, start: int = 0, until: int = 1 << 62) -> Iterator[Frame]:
    """Yield the whole frames of a file from offset `start`, which must be where one begins, up to offset `until`.

    Stops at a torn end. WalCorrupt if a broken frame has a whole one behind it.
    """
    with path.open("rb") as file:
        file.seek(start)
        data, at, base = b"", 0, start
        while True:
            frame = _frame(data, at, base)
            while frame is None:
                more = file.read(min(_READ_BYTES, max(0, until - base - len(data))))
                if not more:
                    _check_torn(path, data[at:], base + at)
                    return
                data, at, base = data[at:] + more, 0, base + at
                frame = _frame(data, at, base)
            at = frame.end - base
            yield frame


def _frame(data: bytes, at: int, base: int) -> Frame | None:
    """Return the frame at `at`, or None if it is not there as a whole."""
    if len(data) - at < _OVERHEAD:
        return None
    length, crc = _PREFIX.unpack_from(data, at)
    end = at + PREFIX_BYTES + length
    if length < _HEAD.size or length > MAX_FRAME_BYTES or end > len(data):
        return None
    body = data[at + PREFIX_BYTES : end]
    if google_crc32c.value(body) != crc:
        return None
    kind, partition = _HEAD.unpack_from(body)
    return Frame(kind, partition, body[_HEAD.size :], base + at, base + end)


def _check_torn(path: Path, rest: bytes, at: int) -> None:
    """Raise WalCorrupt if `rest`, which begins with a broken frame, goes on with a whole one."""
    if len(rest) < _OVERHEAD:
        return
    length, _ = _PREFIX.unpack_from(rest)
    if _HEAD.size <= length <= MAX_FRAME_BYTES and _frame(rest, PREFIX_BYTES + length, 0) is not None:
        raise WalCorrupt(
            f"{path}: the frame at byte {at} is broken and whole ones follow it; keep the file for analysis and move "
            "it away to start without what it still held"
        )
