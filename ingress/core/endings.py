"""How an attempt ends that was sent to a provider: what it is called, whose usage counts, what is charged.

The rules are the table of `docs/terminal-states.md`, which a test walks row by row. Where the client has hung up, the
same usage counts under the status `cancelled`. Free of I/O, clock and randomness.
"""

from __future__ import annotations

import msgspec

from ingress.core.admitting import DRAINING, END, ENDING, NOTHING, SENT, WHOLE
from ingress.core.errors import FAULTS, fault_message
from ingress.core.estimate import has_media, likely_input, likely_output
from ingress.core.expected import charged
from ingress.core.extending import end_claim
from ingress.core.following import Following
from ingress.core.learned import ENOUGH_INPUT_BYTES
from ingress.core.plan import Plan
from ingress.core.records import detail_of
from ingress.core.reported import NOTHING_REPORTED, Reported, estimated
from schemas.flags import DRAIN_CUT, DRAINED, NO_ANSWER, NO_TERMINATOR, unpriced_flags
from schemas.money import Price, cost_nanos, is_priced
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import Status, UsageSource

GONE = "client_gone"
INCOMPLETE = "provider_incomplete"
"""A stream that ended neither with its usage nor with the event that ends streams."""

SETTLED, FAILED, CANCELLED = Status.SETTLED.value, Status.FAILED.value, Status.CANCELLED.value
PROVIDER, ESTIMATED, NONE = UsageSource.PROVIDER.value, UsageSource.ESTIMATED.value, UsageSource.NONE.value


class Ending(Following):
    """The second half of an exchange; `Exchange` takes the facts that lead here."""

    __slots__ = ()

    # -- the provider has said all that it says ------------------------------------------------------------------

    def _end_stream(self, now_ms: int) -> None:
        relay = self._relay
        assert relay is not None
        self._out = relay.finish()
        self._last = END
        reader = relay.reader
        usage, source, reported = self._usage_so_far()
        flags: tuple[str, ...] = ()
        if failed := relay.failed:
            how, error = FAILED, failed
        elif relay.is_ended or relay.is_unread:
            how, error = SETTLED, reader.reported.fault
        elif source == PROVIDER:
            how, error, flags = SETTLED, "", (NO_TERMINATOR,)
        else:
            how, error = FAILED, INCOMPLETE
        self._end_answered(how, error, usage, source, now_ms, reported, flags)

    def _end_whole(self, parts: list[bytes], now_ms: int) -> None:
        body = self._out = parts[0] if len(parts) == 1 else b"".join(parts)
        self._last = WHOLE
        status = self.status
        is_answer = 200 <= status < 300
        reported = self._operation.read_answer(body) if is_answer or b'"usage"' in body else NOTHING_REPORTED
        self._record.model_reported = reported.model
        if not is_answer:
            how, error = FAILED, f"provider_status_{status}"
        elif reported.failed:
            how, error = FAILED, reported.failed
        else:
            how, error = SETTLED, reported.fault
        expected = self._ask.expected
        if expected is not None and (how == SETTLED or reported.usage is not None):
            usage, source, reported = charged(reported, expected, self._price)
        elif reported.usage is not None and reported.is_final:
            usage, source = reported.usage, PROVIDER
        elif how == SETTLED or reported.usage is not None:
            usage, source = self._estimate(reported, True), ESTIMATED
        else:
            usage, source = NO_TOKENS, NONE
        self._end_answered(how, error, usage, source, now_ms, reported)

    def _end_answered(
        self, how: str, error: str, usage: TokenUsage, source: str, now_ms: int, reported: Reported,
        flags: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """End with an answer of the provider's, good or bad, of which nothing is missing."""
        if how == SETTLED and self.state != DRAINING:
            self._settle(how, error, usage, source, self.status, now_ms, 1, (), reported, flags)
            return
        if self.state == DRAINING:
            self._drained("whole")
            self._forget_answer()
            self._settle(CANCELLED, GONE, usage, source, self._told, now_ms, 1, (), reported, (*flags, DRAINED))
            return
        fallback = None if self._plan is None or self.state != SENT else self._plan.fallback
        follow = self._next_plan() if fallback is not None and fallback.takes_status(self.status) else None
        self._settle(how, error, usage, source, self.status, now_ms, 1, (), reported, flags, follow)

    # -- the provider has failed, or nobody wants to hear more ---------------------------------------------------

    def _end_faulty(self, kind: str, sent: bool, detail: str, now_ms: int) -> None:
        """End before anything has gone to the client: with an error of ours, or with another attempt."""
        usage, source, reported = NO_TOKENS, NONE, NOTHING_REPORTED
        flags: tuple[str, ...] = ()
        if self.status:
            usage, source, reported = self._usage_so_far()
        elif sent:
            flags = (NO_ANSWER,)
            if self._ask.expected is not None:
                usage, source, reported = charged(NOTHING_REPORTED, self._ask.expected, self._price)
            else:
                usage, source = TokenUsage(likely_input(self._body)), ESTIMATED
        assert self._plan is not None
        fallback = self._plan.fallback
        follow = self._next_plan() if fallback is not None and fallback.takes_fault(kind) else None
        self._tell_fault(kind, detail)
        self._settle(
            FAILED, f"provider_{kind}", usage, source, self.status, now_ms, int(sent), (), reported, flags, follow
        )

    def _hang_up(self, now_ms: int, flags: tuple[str, ...] = ()) -> None:
        """End though the provider has more to say: the client is gone."""
        self._effects.cancel_request()
        usage, source, reported = self._usage_so_far()
        self._forget_answer()
        self._settle(CANCELLED, GONE, usage, source, self._told, now_ms, 1, (), reported, flags)

    def _end_drain(self, outcome: str, now_ms: int) -> None:
        """Give up an answer that is read on without its client."""
        self._drained(outcome)
        self._hang_up(now_ms, (DRAIN_CUT,))

    def _drained(self, outcome: str) -> None:
        """Count that nothing more is read without a client."""
        stats = self._context.stats
        stats.drained(outcome)
        stats.draining_bytes -= self._answer_bytes

    def _forget_answer(self) -> None:
        """Keep nothing of an answer that goes to nobody."""
        self._last = NOTHING
        self._out = b""
        self._parts = None

    # -- usage and charges ---------------------------------------------------------------------------------------

    def _usage_so_far(self) -> tuple[TokenUsage, str, Reported]:
        """Return the usage of an answer as far as it has come, where it is from, and the report that it is from.

        The provider's word counts once it is the last one; before that it is a lower bound of the estimate. The text
        of an error is no answer.
        """
        if self.status >= 300:
            return NO_TOKENS, NONE, NOTHING_REPORTED
        relay = self._relay
        reported = NOTHING_REPORTED if relay is None else relay.reader.reported
        if self._ask.expected is not None:
            return charged(reported, self._ask.expected, self._price)
        is_last = relay is not None and (relay.is_ended or relay.reader.is_complete)
        if is_last and reported.usage is not None and reported.is_final:
            return reported.usage, PROVIDER, reported
        return self._estimate(reported, is_last), ESTIMATED, reported

    @property
    def _price(self) -> Price | None:
        return None if self._plan is None else self._plan.price

    def _estimate(self, reported: Reported, is_whole: bool) -> TokenUsage:
        """Return what an answer probably used of which the provider did not say all, or nothing to be believed."""
        output = 0
        if self._operation.has_output:
            flow = self._flow
            output = likely_output(sum(map(len, self._parts or ()))) if flow is None else flow.likely
        asked = self._ask.output_tokens
        if asked:
            output = min(output, asked * self._ask.choices)
        return estimated(reported, likely_input(self._body), output, is_whole)

    def _settle(
        self, how: str, error: str, usage: TokenUsage, source: str, status: int, now_ms: int, requests: int = 1,
        decisions: tuple[bytes, ...] = (), reported: Reported = NOTHING_REPORTED, flags: tuple[str, ...] = (),
        follow: Plan | None = None,
    ) -> None:  # fmt: skip
        """End the reservation with what was used, and write the terminal event; go on with `follow` if it has room."""
        plan, hold, record = self._plan, self._hold, self._record
        assert plan is not None
        assert hold is not None
        self.state = ENDING
        if self._relay is not None:
            record.model_reported = self._relay.reader.reported.model
        if self._flow is not None and self._flow.claimed is not None:
            end_claim(self._flow)
        if flags:
            reported = msgspec.structs.replace(reported, flags=(*reported.flags, *flags))
        tokens = usage.total
        price = plan.price
        if source == NONE or (self._ask.is_free and not tokens):
            cost: int | None = 0
            nanos = 0
        elif price is not None and is_priced(price, usage, reported.units):
            cost = nanos = cost_nanos(price, usage, reported.units, reported.service_tier)
        else:
            cost, nanos = None, cost_nanos(plan.reserve_price, usage, reported.units, reported.service_tier)
            lacks = unpriced_flags(price, usage, reported.units)
            reported = msgspec.structs.replace(reported, flags=(*reported.flags, *lacks))
        hold.settle(requests, tokens, nanos)
        if cost is not None and self._last == WHOLE:
            self._lines += b"x-tollway-cost-usd: %d.%09d\r\n" % divmod(cost, 1_000_000_000)
        detail = detail_of(reported, price, usage)
        if reported.flags and follow is None:
            decisions += record.odd(reported.flags, now_ms)
        event = record.terminal(how, error, usage, source, cost, requests, tokens, nanos, status, now_ms, detail)
        if source == PROVIDER and (how == SETTLED or DRAINED in flags):
            self._learn(usage, tokens)
        if follow is None or not self._follow(follow, event, now_ms):
            self._effects.record_terminal(plan.partition, event, decisions)

    def _learn(self, usage: TokenUsage, total: int) -> None:
        """Take the answer for one of those to come, if it is text."""
        if self._ask.expected is not None:
            return
        reserved, flow = self._reserved, self._flow
        assert reserved is not None
        profile, prompt_bytes = reserved.profile, reserved.prompt_bytes
        prompt_tokens = usage.input + usage.cache_read + usage.cache_write + usage.cache_write_1h
        if (
            prompt_bytes >= ENOUGH_INPUT_BYTES
            and profile.model.prompt.would_rise(prompt_tokens, prompt_bytes)
            and has_media(self._body)
        ):
            prompt_bytes = 0
        profile.note(usage, total, self._ask.choices, prompt_bytes, 0 if flow is None else flow.text_bytes)

    def _tell_fault(self, kind: str, detail: str) -> None:
        assert self._plan is not None
        status = FAULTS.get(kind, (502, ""))[0]
        self._tell(status, f"provider_{kind}", fault_message(self._plan.provider, kind, detail))
