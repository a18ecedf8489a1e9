"""One request's life, free of I/O: facts come in as method calls, effects leave through `ports.Effects`.

States, and what moves between them:

    READING   head and body arrive                     -> ADMITTED, or ENDING (refused, client gone)
    ADMITTED  reserved; its record is being written    -> SENT, or ENDING (client gone)
    SENT      the provider has the request             -> RELAYING (it streams), or ENDING (whole answer, fault, gone)
    RELAYING  answer bytes go to the client            -> ENDING (end, fault, client gone)
    ENDING    settled; the terminal record is written  -> DONE
    DONE      the last bytes have been handed over

Laws: a reservation ends exactly once; every exchange has exactly one terminal event; no last byte before that event
is on the log; facts that come too late change nothing. Time and ids come in as arguments.
"""

from __future__ import annotations

from typing import Any, cast

from ingress.core.ask import Ask
from ingress.core.errors import FAULTS, error_body, fault_message
from ingress.core.estimate import (
    likely_input,
    likely_output,
    missed_nanos,
    reserved_input,
    reserved_nanos,
    reserved_output,
)
from ingress.core.head import HeaderList, RequestHead, read_answer_head, read_head
from ingress.core.plan import Denied, Hold, Plan
from ingress.core.ports import Context, Effects, Target
from ingress.core.protocols import Operation
from ingress.core.records import Record, id_text
from ingress.core.refusals import denial_message, retry_lines
from ingress.core.reported import NOTHING_REPORTED, Reported
from ingress.core.resolver import Refused
from ingress.core.sse import EventRelay
from ingress.core.strict_json import InputError, read_object
from schemas.keys import VirtualKey
from schemas.money import cost_nanos
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import Status, UsageSource

MAX_ANSWER_BYTES = 128 * 1024 * 1024
"""The most of a whole (not streamed) answer that is kept until it is complete."""

DETACHED = "This replica may not admit requests: it has lost its share of the limits, or the broker"
"""What clients are told while the log does not take our records, or others have our share."""

READING, ADMITTED, SENT, RELAYING, ENDING, DONE = range(6)
_NOTHING, _WHOLE, _END, _CUT = range(4)

_SETTLED, _FAILED, _CANCELLED, _REFUSED = (
    Status.SETTLED.value, Status.FAILED.value, Status.CANCELLED.value, Status.REFUSED.value,
)  # fmt: skip
_PROVIDER, _ESTIMATED, _NONE = UsageSource.PROVIDER.value, UsageSource.ESTIMATED.value, UsageSource.NONE.value


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


class Exchange:
    """The state machine of one request."""

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
        self._last = _NOTHING
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

    def client_gone(self, now_ms: int) -> None:
        """Take that the client has hung up."""
        state = self.state
        if state >= ENDING:
            return
        if state in (SENT, RELAYING):
            self._effects.cancel_request()
            usage, source = self._usage_so_far()
            self._settle(_CANCELLED, "client_gone", usage, source, self.status if state == RELAYING else 0, now_ms)
        else:
            self._end_unsent(_CANCELLED, "client_gone", 0, now_ms)

    def crash(self, now_ms: int) -> None:
        """End an exchange that met a bug of ours: 500, the reservation released or charged as estimated."""
        if self.state >= ENDING:
            if self._effects is not None:
                self._effects.cut()
            return
        sent = self.state in (SENT, RELAYING)
        if self.state == RELAYING:
            self._last = _CUT
        else:
            self._tell(500, "internal", "Tollway failed on this request; it is logged under this request id.")
        if sent:
            self._effects.cancel_request()
            usage, source = self._usage_so_far()
            self._settle(_FAILED, "internal", usage, source, self.status, now_ms)
        else:
            self._end_unsent(_FAILED, "internal", 500, now_ms)

    # -- facts: the log ------------------------------------------------------------------------------------------

    def admitted_recorded(self) -> None:
        """Take that the admission is on the log."""
        if self.state == ADMITTED:
            self.state = SENT
            request, self._request = self._request, b""
            self._effects.send_request(self._target.origin, request)

    def terminal_recorded(self) -> None:
        """Take that the terminal event is on the log: the last bytes may go."""
        self.state = DONE
        self._context.stats.in_flight -= 1
        last, effects = self._last, self._effects
        if last == _WHOLE:
            effects.send_whole(self.status, self._lines, self._out)
        elif last == _END:
            effects.send_end(self._out)
        elif last == _CUT:
            effects.cut()
        self._effects = cast(Effects, None)  # it holds this exchange: without the circle both go at once

    # -- facts: the provider -------------------------------------------------------------------------------------

    def provider_head(self, status: int, headers: HeaderList, now_ms: int) -> None:
        """Take the head of the provider's answer."""
        plan = self._plan
        if self.state != SENT or plan is None:
            return
        record = self._record
        record.ttft_ms = now_ms - record.admitted_ms
        self.status = status
        limits = plan.limits_header(now_ms)
        head = read_answer_head(headers, bool(limits))
        self._lines = b"".join((head.lines, record.own_lines(), limits))
        if head.is_stream:
            self.state = RELAYING
            self._relay = EventRelay(self._operation.open_stream(not self._ask.usage_wanted))
            self._effects.send_head(status, self._lines)
        else:
            self._parts = []

    def provider_data(self, data: bytes) -> bool:
        """Take bytes of the provider's answer; True if a whole answer has become more than is kept."""
        if self.state == RELAYING:
            out = self._relay.feed(data)  # type: ignore[union-attr]  # the state says that it is there
            if out:
                self._effects.send_data(out)
        elif self._parts is not None:
            self._parts.append(data)
            self._answer_bytes += len(data)
            return self._answer_bytes > MAX_ANSWER_BYTES
        return False

    def provider_end(self, now_ms: int) -> None:
        """Take that the provider's answer is whole."""
        if self.state == RELAYING:
            self._end_stream(now_ms)
        elif self.state == SENT and self._parts is not None:
            self._end_whole(self._parts, now_ms)

    def provider_fault(self, kind: str, sent: bool, detail: str, now_ms: int) -> None:
        """Take that the provider's answer ends here, incomplete; `sent` is false if it never got the request."""
        state = self.state
        if state == RELAYING:
            if self._relay is not None and self._relay.is_ended:
                self._end_stream(now_ms)
                return
            self._last = _CUT
            usage, source = self._usage_so_far()
            self._settle(_FAILED, f"provider_{kind}", usage, source, self.status, now_ms)
        elif state == SENT:
            answered = self.status
            usage, source = self._usage_so_far() if answered else (NO_TOKENS, _NONE)
            self._tell_fault(kind, detail)
            self._settle(_FAILED, f"provider_{kind}", usage, source, self.status, now_ms, requests=int(sent))

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

    # -- endings -------------------------------------------------------------------------------------------------

    def _end_stream(self, now_ms: int) -> None:
        relay = self._relay
        assert relay is not None
        self._out = relay.finish()
        self._last = _END
        reported = relay.reader.reported
        if reported.is_final and reported.usage is not None:
            self._settle(_SETTLED, "", reported.usage, _PROVIDER, self.status, now_ms)
        else:
            usage, source = self._usage_so_far()
            self._settle(_SETTLED, reported.fault, usage, source, self.status, now_ms)

    def _end_whole(self, parts: list[bytes], now_ms: int) -> None:
        body = self._out = parts[0] if len(parts) == 1 else b"".join(parts)
        self._last = _WHOLE
        status = self.status
        is_answer = 200 <= status < 300
        reported = self._operation.read_answer(body) if is_answer or b'"usage"' in body else NOTHING_REPORTED
        self._record.model_reported = reported.model
        how, error = (_SETTLED, reported.fault) if is_answer else (_FAILED, f"provider_status_{status}")
        if reported.usage is not None:
            self._settle(how, error, reported.usage, _PROVIDER, status, now_ms)
        elif is_answer:
            usage, source = self._usage_so_far()
            self._settle(how, error, usage, source, status, now_ms)
        else:
            self._settle(how, error, NO_TOKENS, _NONE, status, now_ms)

    def _usage_so_far(self) -> tuple[TokenUsage, str]:
        """Return the usage of an answer whose provider did not say all of it."""
        relay = self._relay
        reported = NOTHING_REPORTED if relay is None else relay.reader.reported
        if reported.usage is not None and reported.is_final:
            return reported.usage, _PROVIDER
        output = 0
        if self._operation.has_output:
            if relay is not None:
                output = likely_output(relay.payload_bytes, relay.event_count, relay.smallest)
            else:
                output = likely_output(sum(map(len, self._parts or ())))
        asked = self._ask.output_tokens
        if asked:
            output = min(output, asked * self._ask.choices)
        return _estimated(reported, likely_input(self._body), output), _ESTIMATED

    def _settle(
        self, how: str, error: str, usage: TokenUsage, source: str, status: int, now_ms: int, requests: int = 1
    ) -> None:
        """End the reservation with what was used, and write the terminal event."""
        plan, hold, record = self._plan, self._hold, self._record
        assert plan is not None
        assert hold is not None
        self.state = ENDING
        if self._relay is not None:
            record.model_reported = self._relay.reader.reported.model
        tokens = usage.total
        price = plan.price
        if source == _NONE:
            cost: int | None = 0
            nanos = 0
        elif price is None:
            cost, nanos = None, cost_nanos(plan.reserve_price, usage)
        else:
            cost = nanos = cost_nanos(price, usage)
        hold.settle(requests, tokens, nanos)
        if cost is not None and self._last == _WHOLE:
            self._lines += b"x-tollway-cost-usd: %d.%09d\r\n" % divmod(cost, 1_000_000_000)
        event = record.terminal(how, error, usage, source, cost, requests, tokens, nanos, status, now_ms)
        self._effects.record_terminal(plan.partition, event, None)

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
        self._last = _WHOLE
        name = b"request-id" if shape == "anthropic" else b"x-request-id"
        self._lines = b"content-type: application/json\r\n%b: %b\r\n%b%b" % (name, text, record.own_lines(), lines)
        self._out = error_body(shape, status, reason, message, text.decode())

    def _tell_fault(self, kind: str, detail: str) -> None:
        assert self._plan is not None
        status = FAULTS.get(kind, (502, ""))[0]
        self._tell(status, f"provider_{kind}", fault_message(self._plan.provider, kind, detail))


_NO_HEAD = RequestHead()


def _estimated(reported: Reported, input_tokens: int, output_tokens: int) -> TokenUsage:
    """Return an estimate that keeps the input a provider has told, if it has told that much."""
    told = reported.usage
    if told is None:
        return TokenUsage(input_tokens, output_tokens)
    return TokenUsage(told.input, max(output_tokens, told.all_output), told.cache_read, told.cache_write,
                      told.cache_write_1h, 0, told.audio_input)  # fmt: skip
