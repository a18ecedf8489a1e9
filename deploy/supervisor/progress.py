"""What `tollway up` says on standard error: lines that stay, and while it waits, what it is waiting for."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.status import Status

REPEAT_S = 1.0


class Progress(Protocol):
    """Where a start reports to."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def waiting(self, what: str) -> None:
        """Show what is being waited for; nothing if `what` is empty."""


class Lines:
    """Plain lines with the time of day, for pipes, logs and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last, self._last_s = "", 0.0

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(f"{_clock()} {line}", markup=False, highlight=False, soft_wrap=True)

    def waiting(self, what: str) -> None:
        """Print what is being waited for, if that has changed, and not all the time."""
        now_s = time.monotonic()
        if what and what != self._last and now_s - self._last_s >= REPEAT_S:
            self.say(f"waiting for {what}")
            self._last, self._last_s = what, now_s


class Spinner:
    """A spinner for terminals, below the lines that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def say(self, line: str) -> None:
        """Print a line above the spinner."""
        self._console.print(f"{_clock()} {line}", markup=False, highlight=False, soft_wrap=True)

    def waiting(self, what: str) -> None:
        """Show the spinner with `what`, or take it away."""
        if not what:
            if self._status is not None:
                self._status.stop()
            self._status = None
        elif self._status is None:
            self._status = self._console.status(f"waiting for {escape(what)}")
            self._status.start()
        else:
            self._status.update(f"waiting for {escape(what)}")


def progress() -> Progress:
    """Return what fits standard error: a spinner on a terminal, else plain lines."""
    console = Console(stderr=True)
    return Spinner(console) if console.is_terminal else Lines(console)


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
