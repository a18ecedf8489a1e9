"""Keeps the log within its bound: an alarm, then sums instead of single events, then no new requests.

From `ALARM` of the bound on it says so. From `FOLD` on, or when the disk itself is full, the closed segments are
folded (`compaction`), in a thread. At the bound, or while the reserve is in use, it has a `problem`: nothing new is
admitted until there is room again, and what was admitted ends in the room that is left. No event is ever dropped.

Knows no requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from ingress.adapters.compaction import Aborted, Folded, Task, fold
from ingress.adapters.journal import Journal
from ingress.adapters.marks import checkpoints, encode
from ingress.adapters.reserve import FOLD as FOR_FOLDS
from ingress.adapters.reserve import Reserve
from schemas.crash_points import crash_here
from schemas.errors import TollwayError

ALARM, FOLD, FULL = 0.8, 0.9, 1.0
"""Parts of the bound."""
AGAIN = 0.05
"""What has to be added to folded segments, as a part of the bound, before they are folded again."""
_log = structlog.get_logger("ingress.spool")


class Bound(NamedTuple):
    """How much a replica may keep that the broker does not have."""

    max_bytes: int
    max_age_s: int
    """Older events are an alarm, and nothing else."""


class Spool:
    """Watches over the log of one replica. Call `look` when a segment has ended, and some times a second."""

    def __init__(
        self, journal: Journal, bound: Bound, reserve: Reserve, *, backlog_bytes: Callable[[], int],
        backlog_since_ms: Callable[[], int], now_ms: Callable[[], int],
        on_fault: Callable[[BaseException], None] = lambda error: None,
    ) -> None:  # fmt: skip
        """Begin to watch.

        Args:
            journal: tells when a segment has ended or a reserve was taken.
            bound: of all that is kept.
            reserve: is filled.
            backlog_bytes: what earlier runs have left.
            backlog_since_ms: since when that waits; 0 if there is nothing.
            now_ms: the wall clock.
            on_fault: called when a folded segment cannot be taken: the process has to stop.
        """
        self._journal = journal
        self._on_fault = on_fault
        self._bound = bound
        self._reserve = reserve
        self._backlog_bytes, self._backlog_since_ms = backlog_bytes, backlog_since_ms
        self._now_ms = now_ms
        self._since_ms = 0
        self._folding: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._folded_size = 0
        """Of what folding cannot make smaller, as far as that is known."""
        self._is_over = False
        self.alarm = ""
        """What somebody should look at; empty if nothing."""
        self.problem = ""
        """Why nothing new may be admitted; empty if it may."""
        self.on_problem: Callable[[], None] = nothing
        """Called when there is a problem, and when it is over."""
        self.folds = 0
        self.folded_events = 0
        """Events that are told as sums only."""
        self.dropped_decisions = 0
        journal.on_roll = journal.log.on_no_room = self.look
        reserve.fill()

    @property
    def size(self) -> int:
        """Bytes on disk, those of earlier runs included."""
        return self._journal.wal.size + self._backlog_bytes()

    @property
    def max_bytes(self) -> int:
        """The bound."""
        return self._bound.max_bytes

    @property
    def oldest_ms(self) -> int:
        """How long the oldest event that the broker does not have may have been waiting; 0 without one."""
        since = [at for at in (self._since_ms, self._backlog_since_ms()) if at]
        return max(0, self._now_ms() - min(since)) if since else 0

    def look(self) -> None:
        """Do what is due."""
        if self._is_stopping:
            return
        if not self._journal.unsent_events:
            self._since_ms = 0
        elif not self._since_ms:
            self._since_ms = self._now_ms()
        size, most = self.size, self._bound.max_bytes
        has_room = self._reserve.is_whole or self._reserve.fill()
        grown = size - self._folded_size
        if self._folding is None and (
            (size >= FOLD * most and grown >= AGAIN * most)
            or (not has_room and grown >= self._journal.wal.segment_bytes)
        ):
            self._folding = asyncio.get_running_loop().create_task(self._fold(), name="spool-fold")
        self._is_over = size >= FULL * most or (self._is_over and size >= FOLD * most)
        self._judge(size, has_room)

    def _judge(self, size: int, has_room: bool) -> None:
        held = f"{size / 2**20:,.0f} MiB of events wait for the broker"
        if not has_room:
            problem = f"its disk is full, and {held}"
        else:
            problem = f"{held}, which is all that it may keep" if self._is_over else ""
        alarm = problem
        if not alarm and size >= ALARM * self._bound.max_bytes:
            alarm = f"{held}, of {self._bound.max_bytes / 2**20:,.0f} MiB that may"
        if not alarm and self.oldest_ms > self._bound.max_age_s * 1000:
            alarm = f"events wait for the broker for more than {self._bound.max_age_s:,} s"
        is_other = bool(problem) != bool(self.problem)
        if is_other:
            _log.error("spool_full" if problem else "spool_has_room", why=problem, bytes=size)
        elif bool(alarm) != bool(self.alarm):
            _log.warning("spool_alarm" if alarm else "spool_alarm_over", why=alarm, bytes=size)
        self.problem, self.alarm = problem, alarm
        if is_other:
            self.on_problem()

    async def _fold(self) -> None:
        """Fold all closed segments."""
        journal = self._journal
        try:
            segments = journal.upkeep.hold()
            if segments:
                try:
                    state = checkpoints.decode(encode(journal.checkpoint()))  # a copy: the loop goes on
                    room = int(self._bound.max_bytes * (FOLD - AGAIN)) - journal.wal.segments[-1].size
                    await self._replace(Task(segments, state, room, self._reserve.lend(FOR_FOLDS), self._is_wanted))
                finally:
                    journal.upkeep.release()
                self._folded_size = journal.wal.size
        except Exception as error:
            self._on_fault(error)
            raise
        finally:
            self._folding = None

    def _is_wanted(self) -> bool:
        return not self._is_stopping

    async def _replace(self, task: Task) -> None:
        before = sum(segment.size for segment in task.segments)
        try:
            folded = await asyncio.to_thread(fold, task)
        except Aborted:
            return
        except (OSError, TollwayError) as error:
            _log.error("spool_not_folded", fault=f"{type(error).__name__}: {error}")
            return
        finally:
            self._reserve.check(FOR_FOLDS)
        replaced = self._journal.upkeep.take_folded(len(task.segments), folded)
        self._count(folded, before)
        syncer = self._journal.log.syncer
        if syncer is not None:
            syncer.began_segment()  # the new name before the old ones go
            await syncer.wait()
        delete(replaced)

    def _count(self, folded: Folded, before: int) -> None:
        events = sum(lane.stood_for - lane.folded for lane in folded.lanes)
        self.folds += 1
        self.folded_events += events
        self.dropped_decisions += folded.dropped_decisions
        _log.warning(
            "spool_folded", bytes_before=before, bytes=folded.size, events_fewer=events,
            decisions_dropped=folded.dropped_decisions,
        )  # fmt: skip

    async def stop(self) -> None:
        """Leave off folding."""
        self._is_stopping = True
        if self._folding is not None:
            await asyncio.gather(self._folding, return_exceptions=True)

    def close(self) -> None:
        """Give back the reserve: nothing is written any more."""
        self._reserve.give_up()


def nothing() -> None:
    """Do nothing."""


def delete(replaced: list[Path]) -> None:
    """Delete segments that do not count any more."""
    for path in replaced:
        path.unlink()
        crash_here("ingress.fold_deleting")
