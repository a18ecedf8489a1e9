"""One request's way up the ladder at the cap: paced, waiting, with a cheaper model, until it goes on or is refused.

Made only for requests that a rule has something to say about; all others never see this module. Each rung is gone
through once at most, so every climb ends: with a `Hold`, or with the `Denied` that the client is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ingress.core.plan import Hold, Plan
from ingress.core.refusals import header_text
from ingress.core.reserving import Reservation
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.published import WAIT_MS, WAITING_PER_ROW

if TYPE_CHECKING:
    from ingress.core.ports import Context, Effects

MAX_DOWNGRADES = 4
"""A request goes down at most so many models."""
ROOM, QUEUE, THROTTLE, DOWNGRADE = "room", "queue", "throttle", "downgrade"
"""What a request waits for: that room comes from other replicas, its turn in a rule's queue, its time."""


class Step(NamedTuple):
    """One rung that a request went through before it went on."""

    action: str
    denied: Denied
    plan: Plan
    """That was denied."""
    waited_ms: int = 0
    downgraded_to: str = ""
    cost_avoided_nanos: int = 0


class Climb:
    """What one request has gone through so far."""

    __slots__ = (
        "_cheaper", "_context", "_effects", "_entered", "_kind", "_passed", "_pending", "_reserve_of", "_since_ms",
        "plan", "position", "reserved", "steps", "waited_ms",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        effects: Effects,
        plan: Plan,
        reserved: Reservation,
        cheaper: Callable[[Plan], Plan | None],
        reserve_of: Callable[[Plan], Reservation],
    ) -> None:
        """Begin at the foot.

        Args:
            context: of the process.
            effects: for waiting.
            plan: that was asked for.
            reserved: what was asked of it.
            cheaper: returns the plan of the model that a plan's policy goes on with, if the request can.
            reserve_of: returns what the request reserves with a plan.
        """
        self._context = context
        self._effects = effects
        self._cheaper = cheaper
        self._reserve_of = reserve_of
        self.plan = plan
        """That the request is admitted by, in the end."""
        self.reserved = reserved
        self.steps: list[Step] = []
        self.waited_ms = 0
        self.position = 0
        """In the queue, when it was entered; 0 if it never was in one."""
        self._passed: frozenset[str] = frozenset()
        self._entered: set[str] = set()
        self._kind = ""
        self._since_ms = 0
        self._pending: Denied | None = None

    @property
    def is_in_room(self) -> bool:
        """Whether the waiting room has a ticket of this request."""
        return self._pending is not None and self._kind != THROTTLE

    @property
    def is_paced(self) -> bool:
        """Whether the request waits for its time."""
        return self._pending is not None and self._kind == THROTTLE

    # -- up ------------------------------------------------------------------------------------------------------

    def take(self, outcome: Hold | Denied, now_ms: int) -> Hold | Denied | None:
        """Return how the climb has ended, or None if the request waits now."""
        while isinstance(outcome, Denied):
            if self.reserved.shrink_to(outcome):
                pass  # it asks for less now
            elif outcome.action == THROTTLE and THROTTLE not in self._passed:
                if self._pace(outcome, now_ms):
                    return None
            elif outcome.action == DOWNGRADE and DOWNGRADE not in self._passed:
                self._go_down(outcome)
            else:
                return None if self._enter(outcome, now_ms) else outcome
            outcome = self._admit(now_ms)
        return outcome

    def woken(self, now_ms: int) -> Hold | Denied | None:
        """Go on after a pause; as `take`."""
        self._end_wait(now_ms)
        return self.take(self._admit(now_ms), now_ms)

    def served(self, outcome: Hold | Denied, now_ms: int) -> Hold | Denied | None:
        """Go on with what the waiting room says; as `take`."""
        self._end_wait(now_ms)
        return self.take(outcome, now_ms)

    def leave(self, now_ms: int) -> None:
        """Wait no longer, for whatever it was; neither `woken` nor `served` comes any more."""
        if self._pending is not None:
            self._effects.leave()
            self._end_wait(now_ms)

    def _admit(self, now_ms: int) -> Hold | Denied:
        asked = self.reserved
        return self.plan.admit(
            now_ms, asked.tokens, asked.nanos, asked.miss_tokens, asked.miss_nanos, passed=self._passed
        )

    def _pace(self, denied: Denied, now_ms: int) -> bool:
        """Wait for the request's time; False if that is now."""
        self._passed |= {THROTTLE}
        delay_ms = self._context.pacer.delay_ms(denied.row, denied.wait_ms, now_ms)
        if delay_ms <= 0:
            return False
        self._begin_wait(THROTTLE, denied, now_ms)
        self._effects.wait(delay_ms)
        return True

    def _go_down(self, denied: Denied) -> None:
        """Take the cheaper model's plan; where there is none, the rung is passed with the present one."""
        models = [step.plan.model for step in self.steps if step.action == DOWNGRADE]
        cheaper = self._cheaper(self.plan) if len(models) < MAX_DOWNGRADES else None
        if cheaper is None or cheaper.model in (self.plan.model, *models):
            self._passed |= {DOWNGRADE}
            return
        reserved = self._reserve_of(cheaper)
        avoided = max(0, self.reserved.nanos - reserved.nanos)
        self.steps.append(Step(DOWNGRADE, denied, self.plan, 0, cheaper.model, avoided))
        self.plan, self.reserved = cheaper, reserved

    def _enter(self, denied: Denied, now_ms: int) -> bool:
        """Enter the waiting room; False if that cannot help, was tried, or the line is full."""
        kind = QUEUE if denied.action == QUEUE else ROOM
        if not denied.may_wait or kind in self._entered:
            return False
        self._entered.add(kind)
        asked = self.reserved
        ticket = Ticket(
            self.plan, asked.tokens, asked.nanos, asked.miss_tokens, asked.miss_nanos,
            tier=self.plan.tier, since_ms=now_ms, until_ms=now_ms + (denied.wait_ms if kind == QUEUE else WAIT_MS),
            passed=self._passed, most=denied.wait_most or WAITING_PER_ROW,
        )  # fmt: skip
        position = self._effects.enter(ticket, denied)
        if not position:
            return False
        if kind == QUEUE:
            self.position = position
        self._begin_wait(kind, denied, now_ms)
        return True

    def _begin_wait(self, kind: str, denied: Denied, now_ms: int) -> None:
        self._kind, self._pending, self._since_ms = kind, denied, now_ms
        self._context.stats.waiting += 1

    def _end_wait(self, now_ms: int) -> None:
        denied, self._pending = self._pending, None
        if denied is None:
            return
        waited_ms = max(0, now_ms - self._since_ms)
        self.waited_ms += waited_ms
        self._context.stats.waited(self._kind, waited_ms)
        if self._kind != ROOM:
            self.steps.append(Step(self._kind, denied, self.plan, waited_ms))

    # -- what is told --------------------------------------------------------------------------------------------

    def lines(self) -> bytes:
        """Return header lines about waiting, and about the model that serves instead of the one that was asked for."""
        parts = []
        if self._kind:
            parts.append(b"x-tollway-waited-ms: %d\r\n" % self.waited_ms)
        if self.position:
            parts.append(b"x-tollway-queue-position: %d\r\n" % self.position)
        asked = next((step.plan.model for step in self.steps if step.action == DOWNGRADE), "")
        if asked:
            parts.append(b"x-tollway-model: %b\r\n" % header_text(self.plan.model))
            parts.append(b"x-tollway-downgraded-from: %b\r\n" % header_text(asked))
        return b"".join(parts)

    def story(self) -> str:
        """Return what happened before a refusal, for the message; empty if nothing did."""
        if self.position:
            return f"It waited {self.waited_ms:,} ms in the queue, which it entered at place {self.position}."
        if QUEUE in self._entered:
            return "There was no free place in the queue of this rule."
        if self.waited_ms:
            return f"It waited {self.waited_ms:,} ms for room."
        return ""
