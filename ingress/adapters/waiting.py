"""Runs the waiting room: looks at it when room may have come and when somebody's time is up, and at no other time.

One look per iteration of the loop, however much has stirred in it, and one timer. Decides nothing about requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ingress.core.plan import Hold
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket, WaitingRoom


class Guest(Protocol):
    """Who waits."""

    def served(self, outcome: Hold | Denied) -> None:
        """Take what has come of waiting."""

    def drain(self) -> None:
        """Take that there will be no more waiting here."""


class Waiting:
    """The waiting room of a process; used on one event loop."""

    def __init__(self, room: WaitingRoom, now_ms: Callable[[], int]) -> None:
        """Look after `room`; `now_ms` is the clock that its tickets' times are of."""
        self._room = room
        self._now_ms = now_ms
        self._guests: dict[Ticket, Guest] = {}
        self._look: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._is_draining = False
        room.on_stir = self.stir

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._guests)

    def enter(self, ticket: Ticket, denied: Denied, guest: Guest) -> int:
        """Let `guest` wait for what `denied` says it is short of; return its place, or 0 if there is none for it."""
        if self._is_draining or not self._room.add(ticket, denied):
            return 0
        self._guests[ticket] = guest
        self._set_timer(ticket.until_ms)
        return self._room.position(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Let nobody wait with `ticket` any more."""
        if self._guests.pop(ticket, None) is not None:
            self._room.cancel(ticket)

    def stir(self) -> None:
        """Look at the room at the end of this iteration of the loop."""
        if self._look is None and self._guests:
            self._look = asyncio.get_running_loop().call_soon(self._serve)

    def drain(self) -> None:
        """Send everybody away, and let nobody in any more."""
        self._is_draining = True
        for ticket, guest in list(self._guests.items()):
            self.leave(ticket)
            guest.drain()
        self._stop_timer()

    def _serve(self) -> None:
        self._look = None
        for ticket, outcome in self._room.serve(self._now_ms()):
            guest = self._guests.pop(ticket, None)
            if guest is not None:
                guest.served(outcome)
            elif isinstance(outcome, Hold):
                outcome.settle(0, 0, 0)
        due_ms = self._room.next_deadline_ms
        if due_ms is None:
            self._stop_timer()
        else:
            self._set_timer(due_ms)

    def _due(self) -> None:
        self._timer = None
        self._serve()

    def _set_timer(self, at_ms: int) -> None:
        """Look at `at_ms` at the latest."""
        if self._timer is not None:
            if self._timer_ms <= at_ms:
                return
            self._timer.cancel()
        self._timer_ms = at_ms
        delay_s = max(1, at_ms - self._now_ms()) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
