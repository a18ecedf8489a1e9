"""Decides how long to wait before a process that died is started again. Pure: the caller has the clock."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.2
FACTOR = 2.0
LONGEST_S = 30.0
STEADY_S = 30.0
"""A process that ran this long counts as having worked: its next death is a first one."""


@dataclass
class Backoff:
    """Growing pauses for a process that keeps dying."""

    deaths: int = 0
    """In a row, without a steady run between them."""

    def after(self, ran_s: float) -> float:
        """Return the pause in seconds after a death of a process that had run for `ran_s` seconds."""
        self.deaths = 1 if ran_s >= STEADY_S else self.deaths + 1
        return min(LONGEST_S, FIRST_S * FACTOR ** min(self.deaths - 1, 32))
