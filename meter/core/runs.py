"""Runs of replicas: an (instance, epoch) as the log tells of it, live or gone but not yet final."""

from __future__ import annotations

from meter.core.rows import Run
from meter.core.shares import Granted
from schemas.usage import Totals


class RunState:
    """What the fold keeps of a run until its final record.

    Attributes:
        hw: last `seq` that is in the state.
        ack: the highest fence that the run has installed.
        live: a member; False once it was evicted or replaced, though it may still send what it had logged.
        grants: the shares that it may be using (see `shares`).
        seen_ms: log time of its last record.
        totals: sums over its events; `told`: what it says it told its clients.
        hours_from: the ledger has its hours (counted from 1970) from this one on, as far as they are kept; None in a
            state that was begun before the ledger had hours.
    """

    __slots__ = ("ack", "cut_ms", "grants", "hours_from", "hw", "live", "run", "seen_ms", "told", "totals")

    def __init__(self, run: Run, fence: int) -> None:
        self.run = run
        self.hw = 0
        self.ack = 0
        self.cut_ms = 0
        self.live = True
        self.grants = [Granted(fence, None)]
        self.seen_ms = 0
        self.totals = Totals()
        self.told = Totals()
        self.hours_from: int | None = 0


class Runs:
    """The runs of a partition: members in join order, and those that are gone without a final record."""

    def __init__(self) -> None:
        self.open: dict[Run, RunState] = {}
        self.members: list[RunState] = []

    def add(self, state: RunState) -> None:
        """Take in a run; a live one becomes the last member."""
        self.open[state.run] = state
        if state.live:
            self.members.append(state)

    def drop_member(self, state: RunState) -> None:
        """End the membership of a live run."""
        state.live = False
        state.grants = [Granted(0, None)]
        self.members.remove(state)

    def replaced_by(self, run: Run) -> list[RunState]:
        """Return the members that `run`, of the same instance, replaces."""
        return [state for state in self.members if state.run[0] == run[0] and state.run[1] < run[1]]

    def has_newer(self, run: Run) -> bool:
        """Return whether a member of the same instance has a higher epoch than `run`."""
        return any(state.run[0] == run[0] and state.run[1] > run[1] for state in self.members)

    def forgotten(self, before_ms: int) -> list[RunState]:
        """Return the runs that are gone and have sent nothing since `before_ms` of log time."""
        return [state for state in self.open.values() if not state.live and state.seen_ms <= before_ms]
