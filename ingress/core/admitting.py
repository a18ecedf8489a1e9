"""The admission half of an exchange: from the request's head to the record of its admission, or to a refusal.

States READING, WAITING and ADMITTED, and the way to ENDING of whatever never reached a provider; `exchange` tells the
whole life of a request, `climb` what happens at the cap of a rule. Free of I/O, clock and randomness.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ingress.core.bodies import WANTED, read_fields, takes
from ingress.core.caps import NO_CAPS, Broken, broken_cap
from ingress.core.climb import Climb
from ingress.core.errors import error_body
from ingress.core.estimate import reserved_nanos
from ingress.core.fees import fees_of
from ingress.core.head import HeaderList, RequestHead, read_head
from ingress.core.holding import MediaReservation
from ingress.core.plan import Hold, Plan
from ingress.core.ports import Context, Effects
from ingress.core.protocols import Operation
from ingress.core.records import Record, id_text
from ingress.core.refusals import denial_lines, denial_message, warning_line
from ingress.core.reserving import Reservation
from ingress.core.resolver import Refused
from ingress.core.sse import EventRelay
from ingress.core.streaming import Outflow
from ingress.core.strict_json import InputError
from ingress.core.verdicts import Denied
from schemas.keys import VirtualKey
from schemas.tokens import NO_TOKENS
from schemas.usage import Status, UsageSource

DETACHED = "This replica may not admit requests: it has lost its share of the limits, or the broker"
"""What clients are told while the log does not take our records, or others have our share."""
GONE = {
    "kafka": "This replica refuses requests of tier {}: the broker has acknowledged nothing for too long",
    "meter": "This replica refuses requests of tier {}: the meter has published nothing for too long",
}
"""What they are told where the policy's failure table applies."""

READING, WAITING, ADMITTED, SENT, RELAYING, DRAINING, ENDING, DONE = range(8)
"""States of an exchange."""
NOTHING, WHOLE, END, CUT = range(4)
"""What is left to be handed over when the terminal event is on the log."""

SPARED = frozenset({"warn", "grace", "open"})
"""Notes that are recorded once a minute and row; what soft and shadow rules would have done is recorded each time."""
OUTPUT_PARAMETERS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""By which clients limit the output."""

_REFUSED, _NONE = Status.REFUSED.value, UsageSource.NONE.value


class Refusal:
    """Why a request is not sent to a provider, and how the client is told."""

    __slots__ = ("denied", "lines", "message", "reason", "status")

    def __init__(self, status: int, reason: str, message: str, denied: Denied | Broken | Refused | None = None) -> None:
        """Describe a refusal; `denied` is what a decision record is made of."""
        self.status = status
        self.reason = reason
        self.message = message
        self.denied = denied
        self.lines = b""


class Admitting:
    """What an exchange is until its request is sent; `Exchange` goes on from there."""

    __slots__ = (
        "_answer_bytes", "_ask", "_body", "_climb", "_context", "_effects", "_extra", "_fields", "_flow", "_hold",
        "_key", "_last", "_left_bytes", "_lines", "_operation", "_out", "_parts", "_plan", "_query", "_record",
        "_refusal", "_relay", "_request", "_reserved", "_resolver", "_target", "_told", "head", "state", "status",
    )  # fmt: skip
    _left_bytes: int
    """How much more of an answer is read on without its client."""
    _told: int
    """The status that a client was told which has hung up since; 0: none."""

    def __init__(self, context: Context, effects: Effects, operation: Operation, query: bytes, now_ms: int) -> None:
        """Begin an exchange; `query` is the URL's, without `?`."""
        self._context = context
        self._effects = effects
        self._operation = operation
        self._query = query
        self._resolver = context.resolver
        event_id = context.new_id(now_ms)
        self._record = Record(event_id, event_id, operation.name, now_ms, context)
        self._refusal: Refusal | None = None
        self._climb: Climb | None = None
        self._key: VirtualKey | None = None
        self._plan: Plan | None = None
        self._hold: Hold | None = None
        self._relay: EventRelay | None = None
        self._flow: Outflow | None = None
        self._reserved: Reservation | None = None
        self._parts: list[bytes] | None = None
        self._answer_bytes = 0
        self._last = NOTHING
        self._out = self._lines = self._request = self._extra = b""
        self.head: RequestHead = _NO_HEAD
        self.state = READING
        self.status = 0
        """HTTP status of the answer, once it is known."""
        context.stats.in_flight += 1

    @property
    def request_id(self) -> str:
        """The id that the client is told."""
        return id_text(self._record.request_id).decode()

    @property
    def record(self) -> Record:
        """What the log is told of this exchange."""
        return self._record

    # -- facts: the request --------------------------------------------------------------------------------------

    def begin(self, headers: HeaderList, now_ms: int) -> bool:
        """Take the request's head; tell whether its body is of any use."""
        head = self.head = read_head(headers)
        context = self._context
        if context.closed or self._resolver is None:
            self._refusal = Refusal(503, context.closed_reason, f"Tollway cannot admit requests: {context.closed}.")
            return False
        if not head.secret:
            told = "No virtual key: send one as 'Authorization: Bearer tw-…' or 'x-api-key: tw-…'."
            self._refusal = Refusal(401, "missing_key", told)
            return False
        key = self._resolver.authenticate(head.secret, now_ms)
        if isinstance(key, Refused):
            self._refusal = Refusal(key.status, key.reason, key.message, key)
            return False
        self._key = self._record.key = key
        if head.is_encoded or not takes(self._operation, head):
            self._refusal = Refusal(415, "content_type", f"The request must have {WANTED[self._operation.takes]}.")
        return self._refusal is None

    def complete(self, body: bytes, now_ms: int) -> None:
        """Take the whole body: admit and send, or refuse."""
        if self._refusal is None:
            self._admit(body, now_ms)
        if self._refusal is not None:
            self._refuse(self._refusal, now_ms)

    def refuse_size(self, limit_bytes: int, now_ms: int) -> None:
        """Refuse a body of which more than `limit_bytes` bytes are announced or have arrived."""
        self._refuse(
            Refusal(413, "body_too_large", f"The request body is larger than {limit_bytes:,} bytes, the limit here."),
            now_ms,
        )

    def refuse_slow(self, limit_s: float, now_ms: int) -> None:
        """Refuse a request that has not arrived whole within `limit_s`."""
        if self.state == READING:
            told = f"The request did not arrive whole within {limit_s:g} s, the limit here."
            self._refuse(Refusal(408, "upload_timeout", told), now_ms)

    # -- facts: waiting ------------------------------------------------------------------------------------------

    def woken(self, now_ms: int) -> None:
        """Take that the delay is over that `Effects.wait` was asked for."""
        climb = self._climb
        if self.state == WAITING and climb is not None and climb.is_paced:
            self._go_on(climb.woken(now_ms), climb, now_ms)

    def served(self, outcome: Hold | Denied, now_ms: int) -> None:
        """Take what the waiting room says: room, or why there is none. What comes too late is given back."""
        climb = self._climb
        if self.state == WAITING and climb is not None and climb.is_in_room:
            self._go_on(climb.served(outcome, now_ms), climb, now_ms)
        elif not isinstance(outcome, Denied):
            outcome.settle(0, 0, 0)

    def drain(self, now_ms: int) -> None:
        """Take that this replica stops: a request that waits can do so elsewhere."""
        if self.state == WAITING:
            told = "This replica is stopping, and the request was still waiting. Retry: another replica takes it."
            refusal = Refusal(503, "stopping", told)
            refusal.lines = b"retry-after: 1\r\n"
            self._refuse(refusal, now_ms)

    def _go_on(self, outcome: Hold | Denied | None, climb: Climb, now_ms: int) -> None:
        """Go on after a step of the climb, which may end in WAITING again."""
        is_over = outcome is not None and not isinstance(outcome, Denied)
        if is_over and (refused := self._withdrawn(now_ms)) is not None:
            cast(Hold, outcome).settle(0, 0, 0)
            self._refusal = Refusal(refused.status, refused.reason, refused.message, refused)
        else:
            self._climbed(outcome, climb, now_ms)
        if self._refusal is not None:
            self._refuse(self._refusal, now_ms)

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self, body: bytes, now_ms: int) -> None:
        """Go on to ADMITTED or WAITING, or note a refusal."""
        operation, record = self._operation, self._record
        try:
            fields = self._fields = read_fields(operation, self.head, body)
            ask = self._ask = operation.read(fields)
        except InputError as error:
            self._refusal = Refusal(400, "bad_request", f"Bad request: {error}.")
            return
        if not ask.model:
            model = self._resolver.account_model(self._key, operation.name)  # type: ignore[union-attr, arg-type]  # by begin
            if isinstance(model, Refused):
                self._refusal = Refusal(model.status, model.reason, model.message, model)
                return
            ask = self._ask = msgspec.structs.replace(ask, model=model)
        record.model_requested, record.streamed = ask.model, ask.stream
        plan = self._resolver.plan(self._key, ask.model, operation.name)  # type: ignore[union-attr, arg-type]  # by begin
        if isinstance(plan, Refused):
            self._refusal = Refusal(plan.status, plan.reason, plan.message, plan)
            return
        self._plan = record.plan = plan
        self._body = body
        target = self._target = self._context.target_of(plan)
        if target.problem:
            self._refusal = Refusal(503, "no_credential", target.problem)
            return
        reserved = self._reserve(plan)
        if plan.caps is not NO_CAPS and (broken := self._broken_cap(plan, reserved)):
            self._refusal = Refusal(400, broken.reason, broken.message, broken)
            return
        hold = plan.admit(now_ms, reserved.tokens, reserved.nanos, reserved.miss_tokens, reserved.miss_nanos)
        if isinstance(hold, Denied):
            climb = self._climb = Climb(self._context, self._effects, plan, reserved, self._cheaper, self._reserve)
            self._climbed(climb.take(hold, now_ms), climb, now_ms)
        else:
            self._send_admitted(hold, reserved, now_ms)

    def _withdrawn(self, now_ms: int) -> Refused | None:
        """Return why the request may not go on any more, though it may as far as limits go."""
        resolver = self._context.resolver
        assert resolver is not None
        assert self._key is not None
        return resolver.withdrawn(self._key, self._ask.model, self._operation.name, now_ms)

    def _climbed(self, outcome: Hold | Denied | None, climb: Climb, now_ms: int) -> None:
        """Take how far the climb has come."""
        plan = climb.plan
        if plan is not self._plan:
            self._plan = self._record.plan = plan
            self._record.is_downgraded = True
            self._target = self._context.target_of(plan)
        if outcome is None:
            self.state = WAITING
        elif isinstance(outcome, Denied):
            self._refusal = Refusal(outcome.status, outcome.reason, "", outcome)
        else:
            self._send_admitted(outcome, climb.reserved, now_ms)

    def _reserve(self, plan: Plan) -> Reservation:
        """Return what to hold for the request with `plan`."""
        profile = self._context.learned.of("" if self._key is None else self._key.id, plan.model)
        expected = self._ask.expected
        if expected is not None:
            return MediaReservation(expected, plan, profile)
        return Reservation(self._ask, plan, self._body, profile, self._operation.has_output, fees_of(self._fields))

    def _cheaper(self, plan: Plan) -> Plan | None:
        """Return the plan that `plan`'s policy goes on with at the cap, if this request can be served by it."""
        return self._servable(plan.downgrade) if plan.downgrade else None

    def _servable(self, model: str) -> Plan | None:
        """Return the plan for the model that clients call so, if this request can be served by it."""
        assert self._resolver is not None
        assert self._key is not None
        found = self._resolver.plan(self._key, model, self._operation.name)
        if isinstance(found, Refused) or self._context.target_of(found).problem:
            return None
        return None if found.caps is not NO_CAPS and self._broken_cap(found, self._reserve(found)) else found

    def _broken_cap(self, plan: Plan, reserved: Reservation) -> Broken | None:
        """Return the cap of `plan` that the request may be over, if there is one."""
        tokens, most = reserved.input_tokens, reserved.most_tokens
        if self._ask.expected is not None:
            nanos = reserved.nanos
        else:
            nanos = reserved_nanos(plan.reserve_price, tokens, most, b'"cache_control"' in self._body)
            nanos += reserved.fee_nanos + reserved.fees_beyond_nanos
        given = next((name for name in OUTPUT_PARAMETERS if self._fields.get(name) is not None), "")
        return broken_cap(plan.caps, self._operation.shape, given, tokens, most, nanos)

    def _send_admitted(self, hold: Hold, reserved: Reservation, now_ms: int) -> None:
        operation, plan, record, target = self._operation, self._plan, self._record, self._target
        assert plan is not None
        self._hold = record.hold = hold
        self._reserved = reserved
        decisions = () if self._climb is None and not hold.notes else self._decided(hold, reserved, now_ms)
        sent = operation.prepare(self._body, self._fields, self._ask, plan.model)
        path = target.base_path + operation.path
        if self._query:
            path += b"?" + self._query
        self._request = b"".join((
            operation.method, b" ", path, b" HTTP/1.1\r\n", target.lines, self.head.forwarded,
            b"content-length: %d\r\n\r\n" % len(sent), sent,
        ))  # fmt: skip
        self.state = ADMITTED
        if plan.fallback is None:
            self._fields = _NO_FIELDS  # they may be large, and the request may be long
        self._climb = None  # it holds this exchange: without the circle both go at once
        event = record.admitted(reserved.tokens, reserved.nanos, now_ms)
        self._effects.record_admitted(plan.partition, event, decisions)

    def _decided(self, hold: Hold, reserved: Reservation, now_ms: int) -> tuple[bytes, ...]:
        """Return the decisions about a request that goes on, and keep the header lines that its answer gets."""
        record, context, climb = self._record, self._context, self._climb
        stats = context.stats
        decisions, lines = [], []
        for step in () if climb is None else climb.steps:
            stats.act(step.action)
            decisions.append(record.step(step, now_ms))
        for note in hold.notes:
            stats.act(note.kind)
            if note.kind != "shadow":
                lines.append(warning_line(note))
            if note.kind not in SPARED or context.sparing.is_due(f"{note.kind} {note.row}", now_ms):
                decisions.append(record.note(note, reserved.nanos, now_ms))
        if climb is not None:
            lines.append(climb.lines())
        if decisions:
            lines.append(b"x-tollway-decision-id: %b\r\n" % id_text(record.decision_id))
        self._extra = b"".join(lines)
        return tuple(decisions)

    def _refuse(self, refusal: Refusal, now_ms: int) -> None:
        record, denied, climb = self._record, refusal.denied, self._climb
        if self.state == WAITING and climb is not None:
            climb.leave(now_ms)
        decisions: tuple[bytes, ...] = ()
        if isinstance(denied, Denied) and denied.reason == "detached":
            told = GONE[denied.gone].format(denied.tier) if denied.gone else DETACHED
            refusal.message = f"{told}. Retry, or ask another replica."
            refusal.lines += b"retry-after: %d\r\n" % max(1, denied.retry_after_s)
        elif denied is not None:
            waited_ms, avoided = (0, 0) if climb is None else (climb.waited_ms, climb.reserved.nanos)
            decisions = (record.refusal(refusal.reason, denied, now_ms, waited_ms, avoided),)
            refusal.lines += b"x-tollway-decision-id: %b\r\n" % id_text(record.decision_id)
        if decisions and isinstance(denied, Denied):
            story = "" if climb is None else climb.story()
            refusal.message = denial_message(denied, id_text(record.decision_id).decode(), story)
            refusal.lines += denial_lines(denied)
        if climb is not None:
            refusal.lines += climb.lines()
        if self._plan is not None:
            refusal.lines += self._plan.limits_header(now_ms)
        parameter = denied.parameter if isinstance(denied, Broken) else ""
        self._tell(refusal.status, refusal.reason, refusal.message, refusal.lines, parameter)
        self._end_unsent(_REFUSED, refusal.reason, refusal.status, now_ms, decisions)

    # -- endings without a provider ------------------------------------------------------------------------------

    def _end_unsent(self, how: str, error: str, status: int, now_ms: int, decisions: tuple[bytes, ...] = ()) -> None:
        """Release the reservation, if there is one, and write a terminal event that charges nothing."""
        if self.state == WAITING and self._climb is not None:
            self._climb.leave(now_ms)
        self._climb = None
        self.state = ENDING
        if self._hold is not None:
            self._hold.settle(0, 0, 0)
        event = self._record.terminal(how, error, NO_TOKENS, _NONE, 0, 0, 0, 0, status, now_ms)
        self._effects.record_terminal(self._record.partition, event, decisions)

    def _tell(self, status: int, reason: str, message: str, lines: bytes = b"", parameter: str = "") -> None:
        """Make the answer an error of our own."""
        record, shape = self._record, self._operation.shape
        text = id_text(record.request_id)
        self.status = status
        self._last = WHOLE
        name = b"request-id" if shape == "anthropic" else b"x-request-id"
        self._lines = b"content-type: application/json\r\n%b: %b\r\n%b%b" % (name, text, record.own_lines(), lines)
        self._out = error_body(shape, status, reason, message, text.decode(), parameter)


_NO_HEAD = RequestHead()
_NO_FIELDS: dict[str, Any] = {}
