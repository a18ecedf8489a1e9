"""Which segments of a log can go: those that the broker has all of, and those whose events were folded.

An admission that goes on is carried over before its segment goes. Nothing goes while something is being folded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import msgspec

from ingress.adapters.compaction import Folded
from ingress.adapters.lane import Lane
from ingress.adapters.log import Log
from ingress.adapters.wal import ADMITTED, Head, Segment


class Open(msgspec.Struct, eq=False):
    """An admission whose request has not ended."""

    partition: int
    event: bytes
    segment: Segment


class Upkeep:
    """Deletes and replaces the segments of a journal."""

    def __init__(
        self, log: Log, lanes: list[Lane], admissions: dict[bytes, Open], on_dirty: Callable[[int], None]
    ) -> None:
        """Look after `log`; `on_dirty` is called with each partition that goes on after a fold."""
        self._log = log
        self._lanes = lanes
        self._open = admissions
        self._on_dirty = on_dirty
        self._is_kept = False
        """Whether no segment may be deleted: they are being folded, or others are being deleted."""

    def tidy(self) -> None:
        """Delete leading segments of which all is acknowledged; admissions that go on are carried over first."""
        if self._is_kept or self._log.is_rolling:
            return
        segments = self._log.wal.segments
        done = 0
        while done < len(segments) - 1 and self._is_sent(segments[done]):
            done += 1
        if not done:
            return
        parts = []
        for admission in self._open.values():
            if admission.segment in segments[:done]:
                admission.segment = segments[-1]
                parts += [Head(ADMITTED, admission.partition).frame(admission.event), admission.event]
        self._log.append(b"".join(parts))
        self._is_kept = True
        self._log.after_sync(functools.partial(self._drop, done))

    def _drop(self, count: int) -> None:
        self._is_kept = False
        for _ in range(count):
            self._log.wal.drop_first()

    # ------------------------------------------------------------------------------------------------------ folds

    def hold(self) -> list[Segment]:
        """Let what waits be folded: return the segments that are closed, and leave everything in them as it is."""
        if self._is_kept or self._log.is_rolling or len(self._log.wal.segments) < 2:
            return []
        self._is_kept = True
        for lane in self._lanes:
            lane.events.is_held = True
        return [Segment(each.path, each.run, each.number, each.size) for each in self._log.wal.segments[:-1]]

    def release(self) -> None:
        """Go on after a fold, or without one."""
        self._is_kept = False
        for lane in self._lanes:
            lane.events.is_held = False
            self._on_dirty(lane.partition)

    def take_folded(self, count: int, folded: Folded) -> list[Path]:
        """Let a folded segment take the place of the first `count`; return the files that are to be deleted."""
        segments = self._log.wal.segments
        gone = {id(segment) for segment in segments[:count]}
        fresh, replaced = self._log.wal.replace_first(count, folded.path, folded.size)
        for admission in self._open.values():
            if id(admission.segment) in gone:
                admission.segment = fresh
        for lane, became in zip(self._lanes, folded.lanes, strict=True):
            events, decisions = lane.events, lane.decisions
            if became.folded:
                events.folded(became.number, became.folded)
            if became.folded or events.is_reading:
                taken_later = max(0, events.taken - became.number)
                events.reread(segments, fresh.number, became.kept + taken_later)
            if decisions.dropped(became.decisions_start) or decisions.is_reading:
                decisions.reread(segments, fresh.number, decisions.taken - became.decisions_start)
        return replaced

    def _is_sent(self, segment: Segment) -> bool:
        return all(
            lane.events.sent >= events and lane.decisions.sent >= decisions
            for lane, (events, decisions) in zip(self._lanes, segment.ends, strict=True)
        )
