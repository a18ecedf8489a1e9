"""Reads the payloads of one kind and partition back from the segments of a run, in order."""

from __future__ import annotations

from collections.abc import Iterator

from ingress.adapters.marks import MAX_RECORD_BYTES
from ingress.adapters.wal import Segment, read_frames


class Reader:
    """A place in a run's segments, which may grow and change behind it."""

    def __init__(self, segments: list[Segment], number: int, start: int, kind: int, partition: int) -> None:
        """Read from offset `start` of segment `number`."""
        self._segments = segments
        self._number = number
        self._start = start
        self._wanted = (kind, partition)

    def take(self, count: int, max_bytes: int = MAX_RECORD_BYTES) -> list[bytes]:
        """Return the payloads of further frames: up to `count`, up to the one that reaches `max_bytes`, or the end."""
        found: list[bytes] = []
        size = 0
        if count > 0 and max_bytes > 0:
            for payload in self._payloads():
                found.append(payload)
                size += len(payload)
                if len(found) == count or size >= max_bytes:
                    break
        return found

    def skip(self, count: int) -> None:
        """Pass over `count` frames."""
        if count > 0:
            for _ in self._payloads():
                count -= 1
                if not count:
                    break

    def _payloads(self) -> Iterator[bytes]:
        while True:
            segment = next((segment for segment in self._segments if segment.number >= self._number), None)
            if segment is None:
                return
            if segment.number > self._number:  # all of those before was read and sent, and they are deleted
                self._number, self._start = segment.number, 0
            for frame in read_frames(segment.path, self._start, segment.size):
                self._start = frame.end
                if frame[:2] == self._wanted:
                    yield frame.payload
            if segment is self._segments[-1]:
                return
            self._number, self._start = segment.number + 1, 0
