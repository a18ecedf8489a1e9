"""One request's life, free of I/O: facts come in as method calls, effects leave through `ports.Effects`.

States, and what moves between them:

    READING   head and body arrive                     -> ADMITTED, WAITING, or ENDING (refused, client gone)
    WAITING   at the cap: for its time, turn, or room  -> ADMITTED, or ENDING (refused, client gone, replica stops)
    ADMITTED  reserved; its record is being written    -> SENT, or ENDING (client gone)
    SENT      the provider has the request             -> RELAYING (it streams), or ENDING (whole answer, fault, gone)
    RELAYING  answer bytes go to the client            -> ENDING (end, fault, client gone, cut off by a budget)
    ENDING    settled; the terminal record is written  -> DONE
    DONE      the last bytes have been handed over

Laws: a reservation ends exactly once; every exchange has exactly one terminal event; no last byte before that event
is on the log; facts that come too late change nothing. Time and ids come in as arguments.
"""

from __future__ import annotations

from typing import cast

from ingress.core.admitting import (
    ADMITTED,
    CUT,
    DONE,
    END,
    ENDING,
    RELAYING,
    SENT,
    WHOLE,
    Admitting,
)
from ingress.core.cutoff import CUT_OFF, CutOff
from ingress.core.errors import FAULTS, fault_message
from ingress.core.estimate import has_media, likely_input, likely_output
from ingress.core.extending import end_claim, keep_ahead
from ingress.core.head import HeaderList, read_answer_head
from ingress.core.plan import Denied
from ingress.core.ports import Effects
from ingress.core.records import detail_of, id_text
from ingress.core.reported import NOTHING_REPORTED, Reported
from ingress.core.reserving import Reservation
from ingress.core.sse import EventRelay
from ingress.core.streaming import Outflow
from schemas.money import cost_nanos, unpriced_units
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import Status, UsageSource

MAX_ANSWER_BYTES = 128 * 1024 * 1024
"""The most of a whole (not streamed) answer that is kept until it is complete."""

_SETTLED, _FAILED, _CANCELLED = Status.SETTLED.value, Status.FAILED.value, Status.CANCELLED.value
_PROVIDER, _ESTIMATED, _NONE = UsageSource.PROVIDER.value, UsageSource.ESTIMATED.value, UsageSource.NONE.value


class Exchange(Admitting):
    """The state machine of one request."""

    __slots__ = ()

    # -- facts: the client and ourselves -------------------------------------------------------------------------

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
            self._last = CUT
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
        if last == WHOLE:
            effects.send_whole(self.status, self._lines, self._out)
        elif last == END:
            effects.send_end(self._out)
        elif last == CUT:
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
        self._lines = b"".join((head.lines, record.own_lines(), limits, self._extra))
        if head.is_stream:
            self.state = RELAYING
            relay = self._relay = EventRelay(self._operation.open_stream(not self._ask.usage_wanted))
            self._flow = Outflow(self._ask, cast(Reservation, self._reserved), plan.reserve_price, relay.reader)
            self._effects.send_head(status, self._lines)
        else:
            self._parts = []

    def provider_data(self, data: bytes, now_ms: int) -> bool:
        """Take bytes of the provider's answer; True if a whole answer has become more than is kept."""
        if self.state == RELAYING:
            out = self._relay.feed(data)  # type: ignore[union-attr]  # the state says that it is there
            if out:
                flow = self._flow
                flow.count(out)  # type: ignore[union-attr]  # as the relay
                if flow.output <= flow.ask_at or self._goes_on(out, now_ms):  # type: ignore[union-attr]
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
            self._last = CUT
            usage, source = self._usage_so_far()
            self._settle(_FAILED, f"provider_{kind}", usage, source, self.status, now_ms)
        elif state == SENT:
            answered = self.status
            usage, source = self._usage_so_far() if answered else (NO_TOKENS, _NONE)
            self._tell_fault(kind, detail)
            self._settle(_FAILED, f"provider_{kind}", usage, source, self.status, now_ms, requests=int(sent))

    # -- a stream that its reservation does not cover ------------------------------------------------------------

    def _goes_on(self, out: bytes, now_ms: int) -> bool:
        """Reserve more for a stream that has come close to what it holds; False if it has ended here instead."""
        flow, relay, hold, plan = self._flow, self._relay, self._hold, self._plan
        assert flow is not None
        assert relay is not None
        assert hold is not None
        assert plan is not None
        if flow.is_complete or relay.is_ended:
            return True
        held = flow.held
        denied = keep_ahead(flow, hold, plan, now_ms)
        if denied is not None:
            self._cut_off(out, denied, now_ms)
            return False
        if flow.held != held:  # if this process dies now, the extension is charged too
            record = self._record
            self._effects.record_admitted(plan.partition, record.admitted(*flow.held, record.admitted_ms), ())
        return True

    def _cut_off(self, out: bytes, denied: Denied, now_ms: int) -> None:
        """End a stream that a budget does not let go on, by the rules of its protocol."""
        flow, relay, record, plan = self._flow, self._relay, self._record, self._plan
        assert flow is not None
        assert relay is not None
        assert plan is not None
        self._effects.cancel_request()
        fits = flow.fitting(out)
        if fits:
            self._effects.send_data(fits)
        usage = flow.usage
        decision = record.termination(denied, now_ms)
        cut = CutOff(
            self.request_id, plan.model, now_ms // 1000, tuple(sorted(flow.open_choices)), usage, denied.rule,
            denied.measure, denied.scope, denied.limit, id_text(record.decision_id).decode(),
        )  # fmt: skip
        self._out = relay.reader.ending(flow.last, cut)
        self._last = END
        self._settle(_SETTLED, CUT_OFF, usage, _ESTIMATED, self.status, now_ms, decisions=(decision,))

    # -- endings -------------------------------------------------------------------------------------------------

    def _end_stream(self, now_ms: int) -> None:
        relay = self._relay
        assert relay is not None
        self._out = relay.finish()
        self._last = END
        reported = relay.reader.reported
        if reported.is_final and reported.usage is not None:
            self._settle(_SETTLED, "", reported.usage, _PROVIDER, self.status, now_ms, reported=reported)
        else:
            usage, source = self._usage_so_far()
            self._settle(_SETTLED, reported.fault, usage, source, self.status, now_ms)

    def _end_whole(self, parts: list[bytes], now_ms: int) -> None:
        body = self._out = parts[0] if len(parts) == 1 else b"".join(parts)
        self._last = WHOLE
        status = self.status
        is_answer = 200 <= status < 300
        reported = self._operation.read_answer(body) if is_answer or b'"usage"' in body else NOTHING_REPORTED
        self._record.model_reported = reported.model
        how, error = (_SETTLED, reported.fault) if is_answer else (_FAILED, f"provider_status_{status}")
        if reported.usage is not None:
            self._settle(how, error, reported.usage, _PROVIDER, status, now_ms, reported=reported)
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
            flow = self._flow
            output = likely_output(sum(map(len, self._parts or ()))) if flow is None else flow.likely
        asked = self._ask.output_tokens
        if asked:
            output = min(output, asked * self._ask.choices)
        return _estimated(reported, likely_input(self._body), output), _ESTIMATED

    def _settle(
        self, how: str, error: str, usage: TokenUsage, source: str, status: int, now_ms: int, requests: int = 1,
        decisions: tuple[bytes, ...] = (), reported: Reported = NOTHING_REPORTED,
    ) -> None:  # fmt: skip
        """End the reservation with what was used, and write the terminal event."""
        plan, hold, record = self._plan, self._hold, self._record
        assert plan is not None
        assert hold is not None
        self.state = ENDING
        if self._relay is not None:
            record.model_reported = self._relay.reader.reported.model
        if self._flow is not None and self._flow.claimed is not None:
            end_claim(self._flow)
        tokens = usage.total
        price = plan.price
        if source == _NONE:
            cost: int | None = 0
            nanos = 0
        elif price is None:
            cost, nanos = None, cost_nanos(plan.reserve_price, usage)
        else:
            cost = nanos = cost_nanos(price, usage, reported.units, reported.service_tier)
            if reported.units and unpriced_units(price, reported.units):
                cost = None
        hold.settle(requests, tokens, nanos)
        if cost is not None and self._last == WHOLE:
            self._lines += b"x-tollway-cost-usd: %d.%09d\r\n" % divmod(cost, 1_000_000_000)
        detail = detail_of(reported, price, usage)
        event = record.terminal(how, error, usage, source, cost, requests, tokens, nanos, status, now_ms, detail)
        self._effects.record_terminal(plan.partition, event, decisions)
        if source == _PROVIDER and how == _SETTLED:
            self._learn(usage, tokens)

    def _learn(self, usage: TokenUsage, total: int) -> None:
        """Take the answer for one of those to come."""
        reserved, flow = self._reserved, self._flow
        assert reserved is not None
        profile, prompt_bytes = reserved.profile, reserved.prompt_bytes
        prompt_tokens = usage.input + usage.cache_read + usage.cache_write + usage.cache_write_1h
        if profile.model.prompt.would_rise(prompt_tokens, prompt_bytes) and has_media(self._body):
            prompt_bytes = 0
        profile.note(usage, total, self._ask.choices, prompt_bytes, 0 if flow is None else flow.text_bytes)

    def _tell_fault(self, kind: str, detail: str) -> None:
        assert self._plan is not None
        status = FAULTS.get(kind, (502, ""))[0]
        self._tell(status, f"provider_{kind}", fault_message(self._plan.provider, kind, detail))


def _estimated(reported: Reported, input_tokens: int, output_tokens: int) -> TokenUsage:
    """Return an estimate that keeps the input a provider has told, if it has told that much."""
    told = reported.usage
    if told is None:
        return TokenUsage(input_tokens, output_tokens)
    return TokenUsage(told.input, max(output_tokens, told.all_output), told.cache_read, told.cache_write,
                      told.cache_write_1h, 0, told.audio_input)  # fmt: skip
