"""The timeline: requests come in the order of the history, and end when theirs ended; each counts from then to then.

A request that is admitted holds what it used until the end of its duration, and is settled with it then. One that the
candidate paces or lets wait comes again later, and is in flight that much later. Time is that of the events; nothing
here reads a clock. Memory holds what is in flight, what waits, and sums.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from deploy.backtest.events import Averages, PastEvent, Use
from deploy.backtest.tally import Hit, Outcome, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

WAITING_TICK_MS = 50
"""How often those who wait in line are looked at while time passes."""


class Try:
    """One request on its way through the candidate."""

    __slots__ = ("arrived_ms", "cost_nanos", "event", "hits", "is_counted", "models", "passed", "plan", "use")

    def __init__(self, event: PastEvent, use: Use, cost_nanos: int | None, is_counted: bool) -> None:
        self.event = event
        self.use = use
        """What it takes: as before, or as with the cheaper model that it was sent to."""
        self.cost_nanos = cost_nanos
        """What it cost before; None if that is not known."""
        self.is_counted = is_counted
        """False before the reported time."""
        self.arrived_ms = event.occurred_ms
        self.hits: tuple[Hit, ...] = ()
        self.passed: frozenset[str] = frozenset()
        """Rungs that are behind it."""
        self.plan: object = None
        """The replica's own."""
        self.models: tuple[str, ...] = ()
        """That it was sent away from."""


class Held(Protocol):
    """What an admitted request holds."""

    def settle(self, requests: int, tokens: int, nanos: int) -> None:
        """End it with what was used."""


class Replica(Protocol):
    """What admits: the rules of the candidate over rows that nobody else uses."""

    def price(self, event: PastEvent, use: Use) -> tuple[Use, int | None]:
        """Return what a served request takes and cost: as it was charged, or by the candidate's prices."""

    def admit(self, trial: Try, now_ms: int) -> Held | Refusal | Delay | None:
        """Admit, refuse or delay a request; None lets it wait in line. Notes what rules said in `trial.hits`."""

    def served(self, now_ms: int) -> Iterable[tuple[Try, Held | Refusal | Delay]]:
        """Return those who wait in line no longer."""

    @property
    def waits(self) -> int:
        """How many wait in line."""

    def tidy(self, now_ms: int) -> None:
        """Forget what time has made useless; called once a minute of the timeline."""


class Refusal:
    """A refusal: its last hit says by what."""

    __slots__ = ()


class Delay:
    """A request that comes again at `until_ms`."""

    __slots__ = ("until_ms",)

    def __init__(self, until_ms: int) -> None:
        self.until_ms = until_ms


REFUSAL = Refusal()


class Timeline:
    """A replay in progress.

    Args:
        replica: admits by the candidate.
        tally: is told what became of each request.
        since_ms: where the reported time begins; events before it only fill windows.
    """

    def __init__(self, replica: Replica, tally: Tally, since_ms: int = 0) -> None:
        self._replica = replica
        self._tally = tally
        self._since_ms = since_ms
        self._averages = Averages()
        self._due: list[tuple[int, int, Held | None, Try]] = []
        """Ends of holds, and comings back: (unix ms, number, hold or None, request)."""
        self._number = 0
        self._tidy_ms = 0
        self.now_ms = 0
        self.in_flight_most = 0

    def take(self, event: PastEvent) -> None:
        """Take the next event of the history."""
        now_ms = event.occurred_ms
        is_counted = now_ms >= self._since_ms
        if not event.is_ruled:
            if is_counted:
                self._tally.leave_out(_why_left_out(event))
            return
        found = self._use(event)
        if found is None:
            if is_counted:
                self._tally.leave_out("refused then, and nothing is known of what they would have used")
            return
        if now_ms > self.now_ms or (self._due and self._due[0][0] <= now_ms):
            self._pass(max(now_ms, self.now_ms))
        if not is_counted:
            self._tally.warm += 1
        self._try(Try(event, *found, is_counted), self.now_ms)

    def finish(self) -> None:
        """Let everything that is delayed, waits or is in flight come to its end."""
        while self._due or self._replica.waits:
            if not self._replica.waits:
                self._pass(self._due[0][0])
            else:
                self._pass(self.now_ms + WAITING_TICK_MS)

    def _use(self, event: PastEvent) -> tuple[Use, int | None] | None:
        """Return what a request takes and what it cost; None if neither is known nor can be guessed."""
        if event.was_refused:
            guess = self._averages.guess(event)
            return None if guess is None else (guess, guess.nanos)
        use = Use(event.charge_requests, event.charge_tokens, event.charge_nanos, event.duration_ms)
        use, cost_nanos = self._replica.price(event, use)
        self._averages.add(event, use)
        return use, cost_nanos

    def _try(self, trial: Try, now_ms: int) -> None:
        outcome = self._replica.admit(trial, now_ms)
        if outcome is not None:
            self._go_on(trial, outcome, now_ms)

    def _go_on(self, trial: Try, outcome: Held | Refusal | Delay, now_ms: int) -> None:
        if isinstance(outcome, Delay):
            self._push(outcome.until_ms, None, trial)
        else:
            self._end(trial, outcome, now_ms)

    def _end(self, trial: Try, outcome: Held | Refusal, now_ms: int) -> None:
        """Note what became of a request; an admitted one is in flight from now on."""
        is_admitted = not isinstance(outcome, Refusal)
        if not isinstance(outcome, Refusal):
            self._push(now_ms + trial.use.duration_ms, outcome, trial)
        if trial.is_counted:
            use = trial.use
            paid = use.nanos if any(hit.kind == "downgrade" for hit in trial.hits) and is_admitted else None
            told = Outcome(is_admitted, trial.hits, now_ms - trial.arrived_ms, paid)
            self._tally.count(trial.event, use, trial.cost_nanos, told)

    def _push(self, at_ms: int, hold: Held | None, trial: Try) -> None:
        self._number += 1
        heappush(self._due, (at_ms, self._number, hold, trial))
        if len(self._due) > self.in_flight_most:
            self.in_flight_most = len(self._due)

    def _pass(self, now_ms: int) -> None:
        """Let time pass up to `now_ms`: what is due happens in its order, and those who wait are looked at."""
        replica, due = self._replica, self._due
        while replica.waits:
            tick_ms = min(now_ms, (self.now_ms // WAITING_TICK_MS + 1) * WAITING_TICK_MS)
            self._settle(tick_ms)
            self.now_ms = tick_ms
            for trial, outcome in replica.served(tick_ms):
                self._go_on(trial, outcome, tick_ms)
            if tick_ms >= now_ms:
                break
        if due and due[0][0] <= now_ms:
            self._settle(now_ms)
        self.now_ms = now_ms
        if now_ms >= self._tidy_ms:
            replica.tidy(now_ms)
            self._tidy_ms = now_ms + 60_000

    def _settle(self, now_ms: int) -> None:
        due = self._due
        while due and due[0][0] <= now_ms:
            at_ms, _, hold, trial = heappop(due)
            if hold is None:
                self._try(trial, at_ms)
            else:
                use = trial.use
                hold.settle(use.requests, use.tokens, use.nanos)


def _why_left_out(event: PastEvent) -> str:
    if event.error in ("", "policy"):
        return "without organisation or model"
    return f"refused whatever the policy is ({event.error})"
