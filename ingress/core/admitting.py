"""The admission half of an exchange: from the request's head to the record of its admission, or to a refusal.

States READING and ADMITTED, and the way to ENDING of whatever never reached a provider; `exchange` tells the whole life
of a request. Free of I/O, clock and randomness.
"""

from __future__ import annotations

from typing import Any

from ingress.core.ask import Ask
from ingress.core.errors import error_body
from ingress.core.estimate import missed_nanos, reserved_input, reserved_nanos, reserved_output
from ingress.core.head import HeaderList, RequestHead, read_head
from ingress.core.plan import Denied, Hold, Plan
from ingress.core.ports import Context, Effects, Target
from ingress.core.protocols import Operation
from ingress.core.records import Record, id_text
from ingress.core.refusals import denial_message, retry_lines
from ingress.core.resolver import Refused
from ingress.core.sse import EventRelay
from ingress.core.strict_json import InputError, read_object
from schemas.keys import VirtualKey
from schemas.tokens import NO_TOKENS
from schemas.usage import Status, UsageSource

DETACHED = "This replica may not admit requests: it has lost its share of the limits, or the broker"
"""What clients are told while the log does not take our records, or others have our share."""

READING, ADMITTED, SENT, RELAYING, ENDING, DONE = range(6)
"""States of an exchange."""
NOTHING, WHOLE, END, CUT = range(4)
"""What is left to be handed over when the terminal event is on the log."""

_REFUSED, _NONE = Status.REFUSED.value, UsageSource.NONE.value


class Refusal:
    """Why a request is not sent to a provider, and how the client is told."""

    __slots__ = ("denied", "lines", "message", "reason", "status")

    def __init__(self, status: int, reason: str, message: str, denied: Denied | Refused | None = None) -> None:
        """Describe a refusal; `denied` is what a decision record is made of."""
        self.status = status
        self.reason = reason
        self.message = message
        self.denied = denied
        self.lines = b""


class Admitting:
    """What an exchange is until its request is sent; `Exchange` goes on from there."""

    __slots__ = (
        "_answer_bytes", "_ask", "_body", "_context", "_effects", "_hold", "_key", "_last", "_lines", "_operation",
        "_out", "_parts", "_plan", "_query", "_record", "_refusal", "_relay", "_request", "_reserved_nanos",
        "_reserved_tokens", "_resolver", "_target", "head", "state", "status",
    )  # fmt: skip

    def __init__(self, context: Context, effects: Effects, operation: Operation, query: bytes, now_ms: int) -> None:
        """Begin an exchange; `query` is the URL's, without `?`."""
        self._context = context
        self._effects = effects
        self._operation = operation
        self._query = query
        self._resolver = context.resolver
        self._record = Record(context.new_id(now_ms), operation.name, now_ms, context)
        self._refusal: Refusal | None = None
        self._key: VirtualKey | None = None
        self._plan: Plan | None = None
        self._hold: Hold | None = None
        self._relay: EventRelay | None = None
        self._parts: list[bytes] | None = None
        self._answer_bytes = 0
        self._last = NOTHING
        self._out = self._lines = self._request = b""
        self.head: RequestHead = _NO_HEAD
        self.state = READING
        self.status = 0
        """HTTP status of the answer, once it is known."""
        context.stats.in_flight += 1

    @property
    def request_id(self) -> str:
        """The id that the client is told."""
        return id_text(self._record.event_id).decode()

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
        if not head.is_json or head.is_encoded:
            told = "The request must have 'content-type: application/json' and no content-encoding."
            self._refusal = Refusal(415, "content_type", told)
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

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self, body: bytes, now_ms: int) -> None:
        """Go on to ADMITTED, or note a refusal."""
        operation, record = self._operation, self._record
        try:
            fields = read_object(body)
            ask = self._ask = operation.read(fields)
        except InputError as error:
            self._refusal = Refusal(400, "bad_request", f"Bad request: {error}.")
            return
        record.model_requested, record.streamed = ask.model, ask.stream
        plan = self._resolver.plan(self._key, ask.model, operation.name)  # type: ignore[union-attr, arg-type]  # by begin
        if isinstance(plan, Refused):
            self._refusal = Refusal(plan.status, plan.reason, plan.message, plan)
            return
        self._plan = record.plan = plan
        target = self._target = self._context.target_of(plan)
        if target.problem:
            self._refusal = Refusal(503, "no_credential", target.problem)
            return
        reserve = self._reserve(ask, plan, body)
        hold = plan.admit(now_ms, *reserve)
        if isinstance(hold, Denied):
            self._refusal = Refusal(hold.status, hold.reason, "", hold)
            return
        self._hold = record.hold = hold
        self._body = body
        self._send_admitted(ask, fields, target, record.admitted(reserve[0], reserve[1], now_ms))

    def _reserve(self, ask: Ask, plan: Plan, body: bytes) -> tuple[int, int, int, int]:
        """Return tokens and nano-USD to reserve, and by how much each may be missed."""
        input_tokens, missed_input = reserved_input(body)
        output_tokens = missed_output = 0
        if self._operation.has_output:
            output_tokens, missed_output = reserved_output(ask, plan.max_output_tokens)
        price = plan.reserve_price
        return (
            input_tokens + output_tokens,
            reserved_nanos(price, input_tokens, output_tokens, b'"cache_control"' in body),
            missed_input + missed_output,
            missed_nanos(price, missed_input, missed_output),
        )

    def _send_admitted(self, ask: Ask, fields: dict[str, Any], target: Target, event: bytes) -> None:
        operation, plan = self._operation, self._plan
        assert plan is not None
        sent = operation.prepare(self._body, fields, ask, plan.model)
        path = target.base_path + operation.path
        if self._query:
            path += b"?" + self._query
        self._request = b"".join((
            b"POST ", path, b" HTTP/1.1\r\n", target.lines, self.head.forwarded,
            b"content-length: %d\r\n\r\n" % len(sent), sent,
        ))  # fmt: skip
        self.state = ADMITTED
        self._effects.record_admitted(plan.partition, event)

    def _refuse(self, refusal: Refusal, now_ms: int) -> None:
        record, denied = self._record, refusal.denied
        decision: bytes | None = None
        if isinstance(denied, Denied) and denied.reason == "detached":
            refusal.message = f"{DETACHED}. Retry, or ask another replica."
            refusal.lines += b"retry-after: %d\r\n" % max(1, denied.retry_after_s)
        elif denied is not None:
            decision = record.decision(refusal.reason, denied, now_ms)
            refusal.lines += b"x-tollway-decision-id: %b\r\n" % id_text(record.decision_id)
        if decision is not None and isinstance(denied, Denied):
            refusal.message = denial_message(denied, id_text(record.decision_id).decode())
            refusal.lines += retry_lines(denied)
        if self._plan is not None:
            refusal.lines += self._plan.limits_header(now_ms)
        self._tell(refusal.status, refusal.reason, refusal.message, refusal.lines)
        self._end_unsent(_REFUSED, refusal.reason, refusal.status, now_ms, decision)

    # -- endings without a provider ------------------------------------------------------------------------------

    def _end_unsent(self, how: str, error: str, status: int, now_ms: int, decision: bytes | None = None) -> None:
        """Release the reservation, if there is one, and write a terminal event that charges nothing."""
        self.state = ENDING
        if self._hold is not None:
            self._hold.settle(0, 0, 0)
        event = self._record.terminal(how, error, NO_TOKENS, _NONE, 0, 0, 0, 0, status, now_ms)
        self._effects.record_terminal(self._record.partition, event, decision)

    def _tell(self, status: int, reason: str, message: str, lines: bytes = b"") -> None:
        """Make the answer an error of our own."""
        record, shape = self._record, self._operation.shape
        text = id_text(record.event_id)
        self.status = status
        self._last = WHOLE
        name = b"request-id" if shape == "anthropic" else b"x-request-id"
        self._lines = b"content-type: application/json\r\n%b: %b\r\n%b%b" % (name, text, record.own_lines(), lines)
        self._out = error_body(shape, status, reason, message, text.decode())


_NO_HEAD = RequestHead()
