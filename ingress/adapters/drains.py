"""Answers that are read to their end though their clients have hung up: how many, how long, and their end at a stop.

Bounded: each has a time (and, in the exchange, a size), and there are at most so many in a process. Knows neither what
is read nor what is charged.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Reader(Protocol):
    """Who reads on."""

    def drain_over(self) -> None:
        """Stop reading: the time is over."""


class Drains:
    """Everything of this process that is read on."""

    def __init__(self, most: int) -> None:
        """Start with nothing; `most` may read on at once."""
        self.most = most
        self._timers: dict[Reader, asyncio.TimerHandle] = {}
        self._emptied = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._timers)

    def enter(self, reader: Reader, most_ms: int) -> bool:
        """Let `reader` read on for at most `most_ms`; False if there are too many already, or the process stops."""
        if self._is_closed or len(self._timers) >= self.most:
            return False
        self._timers[reader] = asyncio.get_running_loop().call_later(most_ms / 1000, reader.drain_over)
        return True

    def leave(self, reader: Reader) -> None:
        """Take that `reader` has ended; a no-op for one that does not read on."""
        timer = self._timers.pop(reader, None)
        if timer is not None:
            timer.cancel()
            if not self._timers:
                self._emptied.set()

    async def close(self, deadline_s: float) -> None:
        """Let nobody begin any more, and those that read on end until the loop's time `deadline_s`; then end them."""
        loop = asyncio.get_running_loop()
        while self._timers and loop.time() < deadline_s:
            self._emptied.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._emptied.wait()
            except TimeoutError:
                break
        self._is_closed = True
        for reader in tuple(self._timers):
            reader.drain_over()
