"""The next attempt of a request: another model serves it where a provider has failed before the client got anything.

Each attempt has an event of its own. The one that failed is settled and written first; then limits, caps and prices of
the model that is to serve are asked as for any request, all rows or none. There is no waiting: where there is no room,
or nobody to follow, the client gets what the last attempt came to. Free of I/O, clock and randomness.
"""

from __future__ import annotations

from ingress.core.admitting import NOTHING, Admitting
from ingress.core.plan import Plan
from ingress.core.refusals import header_text
from ingress.core.verdicts import Denied

MAX_ATTEMPTS = 4
"""A request has at most so many."""


class Following(Admitting):
    """What an exchange knows of attempts after the first."""

    __slots__ = ()

    def _next_plan(self) -> Plan | None:
        """Return who is to serve the request after the present attempt has failed, if somebody is."""
        plan, record = self._plan, self._record
        if plan is None or plan.fallback is None or record.attempt >= MAX_ATTEMPTS:
            return None
        found = self._servable(plan.fallback.to)
        if found is None or (found.provider, found.model) in (*record.tried, (plan.provider, plan.model)):
            return None
        return found

    def _follow(self, plan: Plan, event: bytes, now_ms: int) -> bool:
        """Begin the next attempt with `plan`, if there is room for it; `event` is the end of the present one.

        What the present attempt had reserved must have ended.
        """
        reserved = self._reserve(plan)
        while True:
            hold = plan.admit(now_ms, reserved.tokens, reserved.nanos, reserved.miss_tokens, reserved.miss_nanos)
            if not isinstance(hold, Denied):
                break
            if not reserved.shrink_to(hold):
                return False
        record = self._record
        self._effects.record_attempt(record.partition, event)
        record = self._record = record.following(plan, self._context.new_id(now_ms), now_ms)
        self._plan = plan
        self._target = self._context.target_of(plan)
        self._parts = self._relay = self._flow = None
        self._answer_bytes = self.status = 0
        self._last = NOTHING
        self._out = self._lines = self._extra = b""
        self._send_admitted(hold, reserved, now_ms)
        self._extra += b"x-tollway-model: %b\r\nx-tollway-attempt: %d\r\n" % (header_text(plan.model), record.attempt)
        return True
