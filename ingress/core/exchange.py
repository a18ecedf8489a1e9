"""One request's life, free of I/O: facts come in as method calls, effects leave through `ports.Effects`.

States, and what moves between them:

    READING   head and body arrive                     -> ADMITTED, WAITING, or ENDING (refused, client gone)
    WAITING   at the cap: for its time, turn, or room  -> ADMITTED, or ENDING (refused, client gone, replica stops)
    ADMITTED  reserved; its record is being written    -> SENT, or ENDING (client gone)
    SENT      the provider has the request             -> RELAYING (it streams), ENDING (whole answer, fault),
                                                          ADMITTED (it failed: the next attempt), DRAINING (client gone)
    RELAYING  answer bytes go to the client            -> ENDING (end, fault, cut off), DRAINING (client gone)
    DRAINING  the answer is read on for nobody         -> ENDING (end, fault, its time or size is over)
    ENDING    settled; the terminal record is written  -> DONE
    DONE      the last bytes have been handed over

Laws: a reservation ends exactly once; every attempt has exactly one terminal event; no last byte before that event
is on the log; facts that come too late change nothing. Time and ids come in as arguments.
`admitting` is the way to SENT, `endings` the way from there, `following` what comes after a failed attempt.
"""

from __future__ import annotations

from typing import cast

from ingress.core.admitting import ADMITTED, CUT, DONE, DRAINING, END, ENDING, RELAYING, SENT, WHOLE
from ingress.core.bytes_relay import BytesRelay
from ingress.core.cutoff import CUT_OFF, CutOff
from ingress.core.endings import CANCELLED, ESTIMATED, FAILED, GONE, NONE, SETTLED, Ending
from ingress.core.extending import keep_ahead
from ingress.core.head import HeaderList, read_answer_head
from ingress.core.holding import MediaFlow
from ingress.core.plan import Denied
from ingress.core.ports import Effects
from ingress.core.records import id_text
from ingress.core.reserving import Reservation
from ingress.core.sse import EventRelay
from ingress.core.streaming import Outflow
from schemas.tokens import NO_TOKENS

MAX_ANSWER_BYTES = 128 * 1024 * 1024
"""The most of a whole (not streamed) answer that is kept until it is complete."""


MAX_DRAINING_BYTES = 64 * 1024 * 1024
"""The most of whole answers that a process keeps for clients that have hung up, all of them together."""
MAX_AFTER_END_BYTES = 256 * 1024
"""More than this after the event that ends a stream is not waited for."""


class Exchange(Ending):
    """The state machine of one request."""

    __slots__ = ()

    # -- facts: the client and ourselves -------------------------------------------------------------------------

    def client_gone(self, now_ms: int) -> None:
        """Take that the client has hung up."""
        state = self.state
        if state >= DRAINING:
            return
        if state < SENT:
            self._end_unsent(CANCELLED, GONE, 0, now_ms)
        elif state == SENT and not self._effects.is_sent():
            self._effects.cancel_request()
            self._end_unsent(CANCELLED, GONE, 0, now_ms)
        else:
            self._told = self.status if state == RELAYING else 0
            if not self._begin_drain():
                self._hang_up(now_ms)

    def drain_over(self, now_ms: int) -> None:
        """Take that the answer is not to be read on any longer."""
        if self.state == DRAINING:
            self._end_drain("cut", now_ms)

    def crash(self, now_ms: int) -> None:
        """End an exchange that met a bug of ours: 500, the reservation released or charged as estimated."""
        state = self.state
        if state >= ENDING:
            if self._effects is not None:
                self._effects.cut()
            return
        if state in (SENT, RELAYING, DRAINING):
            self._effects.cancel_request()
            usage, source, reported = self._usage_so_far()
            if state == RELAYING:
                self._last = CUT
            elif state == SENT:
                self._tell_bug()
            else:
                self._drained("failed")
                self.status = self._told
            self._settle(FAILED, "internal", usage, source, self.status, now_ms, reported=reported)
        else:
            self._tell_bug()
            self._end_unsent(FAILED, "internal", 500, now_ms)

    def _tell_bug(self) -> None:
        self._tell(500, "internal", "Tollway failed on this request; it is logged under this request id.")

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
        plan, state = self._plan, self.state
        if plan is None or self.status or state not in (SENT, DRAINING):
            return
        record = self._record
        record.ttft_ms = now_ms - record.admitted_ms
        self.status = status
        limits = plan.limits_header(now_ms)
        head = read_answer_head(headers, bool(limits))
        operation, ask = self._operation, self._ask
        if head.is_stream and status < 400:
            relay = self._relay = EventRelay(operation.open_stream(not ask.usage_wanted))
            if ask.expected is None:
                self._flow = Outflow(ask, cast(Reservation, self._reserved), plan.reserve_price, relay.reader)
            else:
                self._flow = MediaFlow(ask.expected)
        elif operation.is_raw and (operation.is_file or not head.is_json) and status < 300 and ask.expected is not None:
            self._relay, self._flow = BytesRelay(), MediaFlow(ask.expected)
        else:
            self._parts = []
        if state == SENT:
            self._lines = b"".join((head.lines, record.own_lines(), limits, self._extra))
            if self._relay is not None:
                self.state = RELAYING
                self._effects.send_head(status, self._lines)

    def provider_data(self, data: bytes, now_ms: int) -> bool:
        """Take bytes of the provider's answer; True if a whole answer has become more than is kept."""
        state = self.state
        if state == RELAYING:
            out = self._relay.feed(data)  # type: ignore[union-attr]  # the state says that it is there
            if out:
                flow = self._flow
                flow.count(out)  # type: ignore[union-attr]  # as the relay
                if flow.output <= flow.ask_at or self._goes_on(out, now_ms):  # type: ignore[union-attr]
                    self._effects.send_data(out)
            elif self._relay.held_bytes > MAX_AFTER_END_BYTES:  # type: ignore[union-attr]
                self._effects.cancel_request()
                self._end_stream(now_ms)
        elif state == SENT and self._parts is not None:
            self._parts.append(data)
            self._answer_bytes += len(data)
            return self._answer_bytes > MAX_ANSWER_BYTES
        elif state == DRAINING:
            self._read_on(data, now_ms)
        return False

    def provider_end(self, now_ms: int) -> None:
        """Take that the provider's answer is whole."""
        state = self.state
        if state == RELAYING or (state == DRAINING and self._relay is not None):
            self._end_stream(now_ms)
        elif state in (SENT, DRAINING) and self._parts is not None:
            self._end_whole(self._parts, now_ms)

    def provider_fault(self, kind: str, sent: bool, detail: str, now_ms: int) -> None:
        """Take that the provider's answer ends here, incomplete; `sent` is false if it never got the request."""
        state, relay = self.state, self._relay
        if state in (RELAYING, DRAINING) and relay is not None and relay.is_ended:
            self._end_stream(now_ms)
        elif state == RELAYING:
            self._last = CUT
            usage, source, reported = self._usage_so_far()
            self._settle(FAILED, f"provider_{kind}", usage, source, self.status, now_ms, reported=reported)
        elif state == SENT:
            self._end_faulty(kind, sent, detail, now_ms)
        elif state == DRAINING and not sent:
            self._drained("failed")
            self._settle(CANCELLED, GONE, NO_TOKENS, NONE, self._told, now_ms, 0)
        elif state == DRAINING:
            self._end_drain("failed", now_ms)

    # -- an answer that is read on for nobody --------------------------------------------------------------------

    def _begin_drain(self) -> bool:
        """Begin to read the answer on without its client; False if that is not wanted, or not of use."""
        plan, relay = self._plan, self._relay
        if plan is None or plan.drain is None or (relay is not None and (relay.is_ended or relay.reader.is_complete)):
            return False
        stats = self._context.stats
        if not self._effects.read_on(plan.drain.most_time):
            stats.no_drain()
            return False
        self.state = DRAINING
        self._left_bytes = plan.drain.most_bytes
        stats.draining += 1
        stats.draining_bytes += self._answer_bytes
        return True

    def _read_on(self, data: bytes, now_ms: int) -> None:
        """Take bytes that go to nobody."""
        self._left_bytes -= len(data)
        relay, flow, stats = self._relay, self._flow, self._context.stats
        if relay is None:
            if self._parts is not None:
                self._parts.append(data)
                self._answer_bytes += len(data)
                stats.draining_bytes += len(data)
        elif (out := relay.feed(data)) and flow is not None:
            flow.count(out)
            if flow.output > flow.ask_at and self._keep_ahead(now_ms) is not None:
                self._end_drain("cut", now_ms)
                return
        if self._left_bytes < 0 or stats.draining_bytes > MAX_DRAINING_BYTES:
            self._end_drain("cut", now_ms)

    # -- a stream that its reservation does not cover ------------------------------------------------------------

    def _keep_ahead(self, now_ms: int) -> Denied | None:
        """Reserve more for a stream that has come close to what it holds; return what ends it, if something does."""
        flow, relay, hold, plan = self._flow, self._relay, self._hold, self._plan
        assert flow is not None
        assert relay is not None
        assert hold is not None
        assert plan is not None
        if flow.is_complete or relay.is_ended:
            return None
        held = flow.held
        denied = keep_ahead(flow, hold, plan, now_ms)
        if denied is None and flow.held != held:  # if this process dies now, the extension is charged too
            record = self._record
            self._effects.record_admitted(plan.partition, record.admitted(*flow.held, record.admitted_ms), ())
        return denied

    def _goes_on(self, out: bytes, now_ms: int) -> bool:
        """Tell whether a stream that has come close to what it holds goes on; it has ended here if it does not."""
        denied = self._keep_ahead(now_ms)
        if denied is not None:
            self._cut_off(out, denied, now_ms)
        return denied is None

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
        self._settle(SETTLED, CUT_OFF, usage, ESTIMATED, self.status, now_ms, decisions=(decision,))
