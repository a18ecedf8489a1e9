"""The log that a journal appends to: one file after another, in a reserve if the disk is full, synced by policy.

With a `Syncer`, a segment is synced before the next one exists, so that a log never lacks something in its middle;
what comes meanwhile waits. Knows no exchanges: what a new segment begins with, it asks for.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ingress.adapters.syncer import Syncer, sync
from ingress.adapters.wal import Wal

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a write says of a disk that is full, or of a quota that is."""


class Log:
    """Appends to a `Wal`; it and the syncer may be used beside this."""

    def __init__(
        self, wal: Wal, syncer: Syncer | None, take_reserve: Callable[[], Path | None], first: Callable[[], bytes],
        ends: Callable[[], list[tuple[int, int]]], on_fault: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        """Prepare to append; call `begin`.

        Args:
            wal: without segments yet.
            syncer: brings it onto the medium; without one, that is left to the system.
            take_reserve: returns a file with room in it; None if there is none.
            first: returns what a segment begins with, at the moment.
            ends: returns by partition the numbers of the last event and decision, at the moment.
            on_fault: called when the log cannot be written: the process has to stop.
        """
        self.wal = wal
        self.syncer = syncer
        self.on_no_room: Callable[[], None] = _nothing
        """Called when the disk was full and a reserve was taken."""
        self.fault = ""
        """Why nothing can be written any more."""
        self.is_rolling = False
        """Whether nothing may be appended, because a segment is being closed."""
        self._take_reserve = take_reserve
        self._first, self._ends = first, ends
        self._on_fault = on_fault
        self._rolled: asyncio.Event | None = None

    def append(self, data: bytes, *, is_said: bool = False) -> int:
        """Write frames; return where they begin in the last segment.

        `is_said`: what a segment begins with says the same now, so they are not needed behind that.
        """
        try:
            start = self.wal.append(data)
        except OSError as error:
            if error.errno not in NO_ROOM or not self._use_reserve():
                self._fail(f"{self.wal.segments[-1].path} cannot be written: {error}", error)
            start = 0 if is_said else self.append(data)
            self.on_no_room()
        else:
            if self.syncer is not None:
                self.syncer.wrote(len(data))
        return start

    def begin(self) -> None:
        """Begin a segment; OSError if that fails."""
        if self.wal.segments:
            self.wal.segments[-1].ends = self._ends()
        first = self._first()
        try:
            self.wal.begin_segment(first)
        except OSError as error:
            reserve = self._take_reserve() if error.errno in NO_ROOM else None
            if reserve is None:
                raise
            self.wal.begin_segment(first, reserve)
            self.on_no_room()
        self._begun(len(first))

    def _use_reserve(self) -> bool:
        """Go on in a reserve, whatever room the current segment would have; False if there is none."""
        reserve = self._take_reserve()
        if reserve is None:
            return False
        if self.syncer is not None:
            sync(os.dup(self.wal.descriptor))
        self.wal.segments[-1].ends = self._ends()
        first = self._first()
        self.wal.begin_segment(first, reserve)
        self._begun(len(first))
        return True

    def _begun(self, size: int) -> None:
        if self.syncer is not None:
            self.syncer.began_segment()
            self.syncer.wrote(size)

    def roll(self, then: Callable[[], None]) -> None:
        """Close the segment and begin another, at once or after a sync; then call `then`."""
        if self.syncer is None:
            self._roll(then)
        elif not self.is_rolling:
            self.is_rolling = True
            self.syncer.after(lambda: self._roll(then))

    def _roll(self, then: Callable[[], None]) -> None:
        self.is_rolling = False
        try:
            self.begin()
        except OSError as error:
            self._fail(f"{self.wal.directory}: no new segment: {error}", error)
        if self._rolled is not None:
            self._rolled.set()
            self._rolled = None
        then()

    async def until_rolled(self) -> None:
        """Return once something may be appended."""
        while self.is_rolling:
            if self._rolled is None:
                self._rolled = asyncio.Event()
            await self._rolled.wait()

    def after_sync(self, then: Callable[[], None]) -> None:
        """Call `then` once all that is written is as safe as the policy makes it."""
        if self.syncer is None:
            then()
        else:
            self.syncer.after(then)

    def _fail(self, why: str, error: OSError) -> NoReturn:
        self.fault = why
        self._on_fault(error)
        raise error

    def close(self, delete: bool) -> None:
        """Close the log; with `delete`, nothing in it is needed any more."""
        if self.syncer is not None:
            self.syncer.close()
        self.wal.close(delete)


def _nothing() -> None:
    """Do nothing."""
