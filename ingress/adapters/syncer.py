"""Gets the log from the system's memory onto the medium, in a thread: at intervals, or before anybody is told.

What is written survives a kill of the process at once; it survives a loss of power once it is synced. One sync is
under way at a time, and what is asked for meanwhile shares the next one. Knows no frames.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ingress.core.stats import Syncs


class Syncer:
    """Syncs the segment that is written to."""

    def __init__(
        self, directory: Path, descriptor: Callable[[], int], on_fault: Callable[[BaseException], None],
        interval_ms: int, *, always: bool,
    ) -> None:  # fmt: skip
        """Prepare to sync.

        Args:
            directory: of the log.
            descriptor: returns that of the segment that is written to.
            on_fault: called when a sync fails: nobody knows then what is on the medium.
            interval_ms: how long something may wait for its sync.
            always: sync what is written at once.
        """
        self.is_always = always
        self.unsynced_bytes = 0
        self.latencies = Syncs()
        self._directory = directory
        self._descriptor = descriptor
        self._on_fault = on_fault
        self._interval_s = interval_ms / 1000
        self._pool = ThreadPoolExecutor(1, "fsync")
        self._waiting: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_busy = self._is_closed = False
        self._is_new = True

    def wrote(self, size: int) -> None:
        """Take that `size` bytes were written."""
        self.unsynced_bytes += size
        if self.is_always:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._begin)

    def began_segment(self) -> None:
        """Take that there is a new file: its name has to be synced too."""
        self._is_new = True

    def after(self, then: Callable[[], None]) -> None:
        """Call `then` once all that is written by now is on the medium."""
        self._waiting.append(then)
        self._begin()

    async def wait(self) -> None:
        """Return once all that is written by now is on the medium."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not done.done():
                done.set_result(None)

        self.after(end)
        await done

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_busy or self._is_closed:
            return
        self._is_busy = True
        waiting, self._waiting = self._waiting, []
        size = self.unsynced_bytes
        loop = asyncio.get_running_loop()
        directory = self._directory if self._is_new else None
        self._is_new = False
        began = time.perf_counter()

        def done(future: Future[None]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, future, waiting, size, began)

        self._pool.submit(sync, os.dup(self._descriptor()), directory).add_done_callback(done)

    def _ended(self, future: Future[None], waiting: list[Callable[[], None]], size: int, began: float) -> None:
        self._is_busy = False
        if (error := future.exception()) is not None:
            self._is_closed = True
            self._on_fault(error)
            return
        self.latencies.add((time.perf_counter() - began) * 1000)
        self.unsynced_bytes -= size
        for then in waiting:
            then()
        if self._waiting or (self.is_always and self.unsynced_bytes):
            self._begin()
        elif self.unsynced_bytes and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._begin)

    def close(self) -> None:
        """Sync what is left, and end."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown()
        sync(os.dup(self._descriptor()), self._directory)
        self.unsynced_bytes = 0


def sync(descriptor: int, directory: Path | None = None) -> None:
    """Sync and close a file, and the names in its directory."""
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    if directory is not None:
        names = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)
