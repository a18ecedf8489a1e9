"""What an exchange writes to the log: its admission, its terminal event, the decision of a refusal. Pure encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ingress.core.refusals import REASONS
from schemas.codec import decode_attribution, encode_attribution, encode_event, encode_rows
from schemas.decisions import Action, Decision
from schemas.flags import ODD, UNKNOWN_COST
from schemas.ids import NO_ID, shard_of
from schemas.keys import VirtualKey
from schemas.money import cost_nanos, is_priced
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import Attribution, Detail, Status, UsageEvent, UsageSource

if TYPE_CHECKING:
    from ingress.core.caps import Broken
    from ingress.core.climb import Step
    from ingress.core.plan import Hold, Plan
    from ingress.core.ports import Context
    from ingress.core.reported import Reported
    from ingress.core.resolver import Refused
    from ingress.core.verdicts import Denied, Note
    from schemas.money import Price

NO_ROWS = encode_rows([])
_UNKNOWN, _UNKNOWN_SOURCE = Status.UNKNOWN.value, UsageSource.UNKNOWN.value
_encode_decision = msgspec.msgpack.Encoder().encode


class Record(msgspec.Struct, eq=False):
    """Everything about one attempt that its events hold."""

    event_id: bytes
    request_id: bytes
    """The `event_id` of its first attempt."""
    operation: str
    admitted_ms: int
    context: Context
    attempt: int = 1
    """Which one of its request this is."""
    tried: tuple[tuple[str, str], ...] = ()
    """Providers and models of the attempts before."""
    key: VirtualKey | None = None
    plan: Plan | None = None
    hold: Hold | None = None
    decision_id: bytes = NO_ID
    model_requested: str = ""
    model_reported: str = ""
    streamed: bool = False
    is_downgraded: bool = False
    ttft_ms: int = -1
    event: UsageEvent | None = None
    """The terminal event, once there is one."""

    def following(self, plan: Plan, event_id: bytes, now_ms: int) -> Record:
        """Return the record of the next attempt of the same request, which `plan` makes."""
        found = Record(event_id, self.request_id, self.operation, now_ms, self.context, self.attempt + 1)
        found.key, found.model_requested, found.streamed = self.key, self.model_requested, self.streamed
        if self.plan is not None:
            found.tried = (*self.tried, (self.plan.provider, self.plan.model))
        found.plan, found.is_downgraded = plan, True
        return found

    @property
    def partition(self) -> int:
        """The partition of the exchange's organisation, or of none."""
        if self.plan is not None:
            return self.plan.partition
        return shard_of(self.key.org if self.key is not None else "", self.context.partitions)

    @property
    def policy_version(self) -> int:
        """The policy in force when the request came; 0 if there was none."""
        resolver = self.context.resolver
        return 0 if resolver is None else resolver.policy_version

    def own_lines(self) -> bytes:
        """Return the header lines that every answer gets."""
        text = id_text(self.event_id)
        request = text if self.attempt == 1 else id_text(self.request_id)
        return b"x-tollway-request-id: %b\r\nx-tollway-event-id: %b\r\nx-tollway-policy-version: %d\r\n" % (
            request, text, self.policy_version,
        )  # fmt: skip

    def admitted(self, tokens: int, nanos: int, now_ms: int) -> bytes:
        """Return the event that counts if this process dies before the end: charged as reserved."""
        self.admitted_ms = now_ms
        return encode_event(self._event(_UNKNOWN, "", NO_TOKENS, _UNKNOWN_SOURCE, None, 1, tokens, nanos, 0, 0))

    def terminal(
        self, status: str, error: str, usage: TokenUsage, source: str, cost_nanos: int | None, requests: int,
        tokens: int, nanos: int, http_status: int, now_ms: int, detail: Detail | None = None,
    ) -> bytes:  # fmt: skip
        """Return the event of the end, and count it.

        Args:
            status: how the exchange ended.
            error: reason code; empty without one.
            usage: of the answer.
            source: where the usage is from.
            cost_nanos: None if the price is unknown.
            requests: to charge.
            tokens: to charge.
            nanos: to charge.
            http_status: what the client is told.
            now_ms: the end.
            detail: what is to be said beyond that.
        """
        duration_ms = now_ms - self.admitted_ms
        if duration_ms < 0:
            duration_ms = 0
        stats = self.context.stats
        stats.end(self.operation, status, error)
        if self.hold is not None:
            stats.served(self.operation, source, tokens, duration_ms, self.ttft_ms)
        event = self.event = self._event(
            status, error, usage, source, cost_nanos, requests, tokens, nanos, http_status, duration_ms, detail
        )
        return encode_event(event)

    def refusal(
        self, reason: str, denied: Denied | Broken | Refused, now_ms: int, waited_ms: int = 0, avoided_nanos: int = 0
    ) -> bytes:
        """Return the record of a refusal by policy; from now on the event points to it."""
        self.context.stats.act("refuse")
        self.decision_id = NO_ID
        return self._decision(
            "refuse", reason, denied, self.plan, now_ms, waited_ms=waited_ms, cost_avoided_nanos=avoided_nanos
        )

    def termination(self, denied: Denied, now_ms: int) -> bytes:
        """Return the record of an answer that is ended because more for it is refused; the event points to it."""
        self.context.stats.act("terminate")
        self.decision_id = NO_ID
        return self._decision("terminate", denied.reason, denied, self.plan, now_ms)

    def odd(self, flags: tuple[str, ...], now_ms: int) -> tuple[bytes, ...]:
        """Count flags of usage that is odd or has no price; return the records of those nobody was told of lately."""
        plan, context = self.plan, self.context
        found = []
        for flag in flags:
            if flag not in ODD and flag not in UNKNOWN_COST:
                continue
            context.stats.odd[flag] = context.stats.odd.get(flag, 0) + 1
            name = flag if plan is None else f"{flag} {plan.provider} {plan.model}"
            if context.oddities.is_due(name, now_ms):
                found.append(self._decision(Action.ODD.value, flag, None, plan, now_ms))
        return tuple(found)

    def step(self, step: Step, now_ms: int) -> bytes:
        """Return the record of a rung that the request went through before it went on."""
        return self._decision(
            step.action, step.denied.reason, step.denied, step.plan, now_ms, waited_ms=step.waited_ms,
            downgraded_to=step.downgraded_to, cost_avoided_nanos=step.cost_avoided_nanos,
        )  # fmt: skip

    def note(self, note: Note, nanos: int, now_ms: int) -> bytes:
        """Return the record of what a rule says of a request that goes on; `nanos` is what the request reserves."""
        avoided = nanos if note.rung in ("block", "queue") else 0
        reason = REASONS.get(note.measure, note.measure)
        return self._decision(note.kind, reason, note.state or note, self.plan, now_ms, cost_avoided_nanos=avoided)

    def _decision(
        self, action: str, reason: str, source: Any, plan: Plan | None, now_ms: int, **more: Any
    ) -> bytes:  # fmt: skip
        """Encode a decision; the event points to the first one of a request that goes on, else to its refusal."""
        decision_id = self.context.new_id(now_ms)
        if self.decision_id == NO_ID:
            self.decision_id = decision_id
        # What a source does not know keeps its default. One that waited is of the moment when it was denied.
        decided_ms = getattr(source, "at_ms", 0) or now_ms
        fields = {name: getattr(source, name) for name in _SAID if hasattr(source, name)} | more
        return _encode_decision(
            Decision(
                decision_id, self.request_id, decided_ms, self.context.instance, action, reason,
                self._attribution(plan), partition=self.partition, **fields,
            )
        )  # fmt: skip

    def _event(
        self, status: str, error: str, usage: TokenUsage, source: str, cost_nanos: int | None, requests: int,
        tokens: int, nanos: int, http_status: int, duration_ms: int, detail: Detail | None = None,
    ) -> UsageEvent:  # fmt: skip
        plan, hold = self.plan, self.hold
        return UsageEvent(
            self.event_id, self.request_id, self.attempt, status, self.operation, self.admitted_ms, duration_ms,
            self.ttft_ms, http_status, self.streamed, source, usage, cost_nanos, requests, tokens, nanos,
            self.model_reported, error, self.decision_id,
            encode_attribution(self._attribution(plan)) if plan is None or self.is_downgraded else plan.attribution,
            NO_ROWS if hold is None else hold.rows,
            detail,
        )  # fmt: skip

    def _attribution(self, plan: Plan | None) -> Attribution:
        """Return whom the exchange belongs to, as far as that is known, and which model `plan` serves."""
        key, asked = self.key, self.model_requested[:128]
        if plan is not None:
            return msgspec.structs.replace(decode_attribution(plan.attribution), model_requested=asked)
        if key is None:
            return Attribution(model_requested=asked, policy_version=self.policy_version)
        return Attribution(
            key.org, key.project, key.team, key.user, key.id, "", "", asked, key.tags, self.policy_version, ""
        )


def detail_of(reported: Reported, price: Price | None, usage: TokenUsage) -> Detail | None:
    """Return what an event has to say beyond tokens and cost; None in most cases."""
    listed = None if price is None else price.listed
    if not (reported.units or reported.service_tier or reported.flags or listed):
        return None
    units, tier = reported.units, reported.service_tier
    list_nanos = None
    if listed is not None and is_priced(listed, usage, units):
        list_nanos = cost_nanos(listed, usage, units, tier)
    return Detail(units, tier, list_nanos, reported.flags)


_SAID = (
    "rule", "measure", "scope", "row", "limit", "used", "asked", "room", "weight", "fence", "staleness_ms",
    "resets_at_s", "retry_after_s", "overshoot_bound", "epoch", "tier", "mode", "rung", "right", "pending", "want",
    "seen_limit",
)  # fmt: skip
"""What a refusal or a note may say of a decision."""


def id_text(value: bytes) -> bytes:
    """Return the canonical text of a 16-byte id (as `schemas.ids.format_id` does, at a third of its cost)."""
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()
