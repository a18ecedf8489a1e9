"""A plan: everything about (key, model, operation) that does not change from request to request, and its admission.

The hot path is `Plan.admit`: compare all rows, then subtract from all rows. Whatever is not plainly admissible there
(a window ended, a share changed, room is short, a rule has more than a cap) goes the slow way, which looks again
before it refuses. Knows no HTTP; the path keeps what it needs for its provider in `target`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ingress.core.admission import Binding, Registry, RowSpec, Shard
from ingress.core.caps import NO_CAPS, Caps
from ingress.core.denying import denied_by, fits_at_ms, note_of, severity, wait_s
from ingress.core.failing import mode_of, open_room
from ingress.core.ladder import GOES_ON, Judged, judge, seen_limit
from ingress.core.rows import Row
from ingress.core.verdicts import Denied, Note
from schemas.attempts import Drain, Fallback
from schemas.blocks import BlockEntry
from schemas.keys import VirtualKey
from schemas.money import Price
from schemas.policy import Provider
from schemas.rows import Measure

__all__ = ["Denied", "Hold", "Note", "Plan", "fits_at_ms"]

HEADER_MS = 250
"""Header lines may count a sliding window as it was this long ago."""
NOTHING_PASSED: frozenset[str] = frozenset()
_SHORT = frozenset({"", "wait", "queue", "block"})
"""What is said of a request for which there is no room, rather than of one that is near the cap."""


class Hold(msgspec.Struct, eq=False):
    """A reservation. It ends exactly once: the first `settle` counts, a later one does nothing.

    What was reserved and not used is room again at once; the gauge falls in the record that carries the terminal
    event. So `settle` and `Journal.terminal` belong into one step, without anything awaited in between.
    """

    _binding: Binding
    _shard: Shard
    tokens: int
    """What is held of tokens."""
    nanos: int
    """What is held of money, in nano-USD."""
    _miss: tuple[int, int] | None
    rows: msgspec.Raw
    """Encoded row keys: what `UsageEvent.rows` has to be."""
    notes: tuple[Note, ...] = ()
    """What rules have to say of a request that goes on."""
    is_settled: bool = False
    _is_expired: bool = False
    _back: tuple[int, int, int] | None = None

    def settle(self, requests: int, tokens: int, nanos: int) -> None:
        """End the reservation with what was used (0, 0, 0 releases it). What was used beyond it takes room at once."""
        if self.is_settled:
            return
        self.is_settled = True
        binding = self._binding
        tokens_back, nanos_back = self.tokens - tokens, self.nanos - nanos
        if tokens_back < 0:
            self.tokens = tokens
            for row in binding.tokens:
                row.room += tokens_back
            tokens_back = 0
        if nanos_back < 0:
            self.nanos = nanos
            for row in binding.costs:
                row.room += nanos_back
            nanos_back = 0
        self._back = (1 - requests, tokens_back, nanos_back)
        self.give_back()
        shard = self._shard
        if self._miss is not None:
            binding.miss_tokens -= self._miss[0]
            binding.miss_nanos -= self._miss[1]
        shard.settling.append(self)
        waiting = shard.waiting
        if waiting:
            waiting.stir()

    def give_back(self) -> None:
        """Make room again of what was reserved and not used."""
        if self._back is None:
            return
        binding, (requests, tokens, nanos) = self._binding, self._back
        if requests:
            for row in binding.requests:
                row.room += requests
        if not self._is_expired:
            for row in binding.concurrent:
                row.room += 1
            binding.back_ones += 1
        for row in binding.tokens:
            row.room += tokens
        for row in binding.costs:
            row.room += nanos
        binding.back_requests += requests
        binding.back_tokens += tokens
        binding.back_nanos += nanos
        if not binding.is_unbooked:
            binding.book_later(self._shard)

    def end(self) -> None:
        """Let the gauges fall; called when the record that carries the terminal event is cut."""
        binding = self._binding
        binding.back_requests -= 1
        if not self._is_expired:
            binding.back_ones -= 1
        binding.back_tokens -= self.tokens
        binding.back_nanos -= self.nanos
        if not binding.is_unbooked:
            binding.book_later(self._shard)
        self._touch()

    def expire(self) -> None:
        """Count no longer as in flight; everything else stays reserved."""
        if self.is_settled or self._is_expired:
            return
        self._is_expired = True
        for row in self._binding.concurrent:
            row.room += 1
        self._touch()
        self._shard.waiting.stir()

    def extend(
        self, tokens: int, nanos: int, now_ms: int, *, tier: int = 1, goes_beyond: bool = False
    ) -> Denied | None:  # fmt: skip
        """Reserve `tokens` and `nanos` more for the same request, in all rows or in none; return what is in the way.

        What is withheld from its `tier` is not taken, and the grace of tier 0 is. With `goes_beyond`, which is for what
        has been used already, only rows whose rule ends answers are in the way; others are booked beyond their limit,
        and note if the requests that follow shall go to a cheaper model.
        """
        if self.is_settled:
            return None
        binding = self._binding
        for rows, asked in ((binding.tokens, tokens), (binding.costs, nanos)):
            for row in rows:
                if (row.room < asked or not row.ceiling.is_plain) and row.ceiling.mode == "enforce":
                    row.recompute(now_ms)
                    if _free(row, tier) < asked:
                        final_unit = row.ceiling.final_unit
                        if not goes_beyond or final_unit == "terminate":
                            return denied_by(row, asked, now_ms, Judged(action=final_unit))
                        if final_unit == "downgrade":
                            row.downgrades = True
        for row in binding.tokens:
            row.room -= tokens
        for row in binding.costs:
            row.room -= nanos
        self.tokens += tokens
        self.nanos += nanos
        self._touch()
        return None

    def _touch(self) -> None:
        binding = self._binding
        if not binding.touched:
            binding.touched = True
            self._shard.touched.append(binding)


class Plan:
    """What is resolved once a (key, model, operation) and policy version."""

    __slots__ = (
        "_binding", "_registry", "_shard", "_specs", "attribution", "caps", "cuts_off", "downgrade", "drain",
        "fallback", "is_strict", "key", "max_output_tokens", "model", "model_requested", "partition", "price",
        "protocol", "provider", "provider_config", "reserve_price", "target", "tier",
    )  # fmt: skip

    def __init__(
        self,
        *,
        key: VirtualKey,
        partition: int,
        provider: str,
        provider_config: Provider,
        model: str,
        model_requested: str,
        price: Price | None,
        reserve_price: Price,
        max_output_tokens: int,
        attribution: msgspec.Raw,
        registry: Registry,
        specs: tuple[RowSpec, ...],
        caps: Caps = NO_CAPS,
        downgrade: str = "",
        tier: int = 1,
        drain: Drain | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        """Bind a plan to the rows that `specs` describe; their windows are found at the first admission."""
        self.key = key
        self.partition = partition
        self.protocol: Literal["openai", "anthropic"] = provider_config.protocol
        self.provider = provider
        self.provider_config = provider_config
        self.model = model
        """The served model: the provider's name of it."""
        self.model_requested = model_requested
        self.price = price
        """None: the model is unpriced."""
        self.reserve_price = reserve_price
        """The price, or what the policy holds for unpriced models."""
        self.max_output_tokens = max_output_tokens
        self.attribution = attribution
        """Encoded once; what `UsageEvent.attribution` has to be."""
        self.target: Any = None
        """The path's own: where requests of this plan go."""
        self.caps = caps
        self.downgrade = downgrade
        """The model to go on with where a rung says so, as clients spell it; empty: there is none."""
        self.tier = tier
        """0 critical, 1 normal, 2 experimental."""
        self.drain = drain
        """How far an answer is read on whose client has hung up; None: the provider is hung up on."""
        self.fallback = fallback
        """Who serves a request whose provider has failed; None: nobody."""
        self.is_strict = any(spec.ceiling.strict for spec in specs)
        """Whether a rule wants the worst case reserved."""
        self.cuts_off = all(spec.ceiling.final_unit == "terminate" for spec in specs if spec.ceiling.measure == "cost")
        """Whether every budget ends an answer that streams when it has nothing left for it."""
        self._registry = registry
        self._shard = registry.shards[partition]
        self._specs = specs
        self._binding = Binding([], 0, 0)

    def admit(
        self,
        now_ms: int,
        tokens: int,
        nanos: int,
        miss_tokens: int = 0,
        miss_nanos: int = 0,
        passed: frozenset[str] = NOTHING_PASSED,
    ) -> Hold | Denied:
        """Reserve one request, `tokens` and `nanos` in every row, or nothing at all.

        Args:
            now_ms: unix ms; decides the windows.
            tokens: upper estimate of tokens of all classes.
            nanos: upper estimate of the cost in nano-USD.
            miss_tokens: by how much `tokens` may be exceeded at worst; 0 if it is a maximum.
            miss_nanos: the same of `nanos`.
            passed: rungs that this request has gone through already (`throttle`), or cannot take (`downgrade`).
        """
        binding, shard = self._binding, self._shard
        if now_ms >= binding.until_ms or binding.generation != shard.generation or now_ms >= shard.fence_at_ms:
            return self._admit_slowly(now_ms, tokens, nanos, (miss_tokens, miss_nanos), passed)
        for row in binding.ones:
            if row.room < 1:
                return self._admit_slowly(now_ms, tokens, nanos, (miss_tokens, miss_nanos), passed)
        for row in binding.tokens:
            if row.room < tokens:
                return self._admit_slowly(now_ms, tokens, nanos, (miss_tokens, miss_nanos), passed)
        for row in binding.costs:
            if row.room < nanos:
                return self._admit_slowly(now_ms, tokens, nanos, (miss_tokens, miss_nanos), passed)
        if binding.guarded and _reaches_a_rung(binding, (1, tokens, nanos)):
            return self._admit_slowly(now_ms, tokens, nanos, (miss_tokens, miss_nanos), passed)
        return self._take(binding, tokens, nanos, (miss_tokens, miss_nanos), now_ms)

    def _take(self, binding: Binding, tokens: int, nanos: int, miss: tuple[int, int], now_ms: int) -> Hold:
        for row in binding.ones:
            row.room -= 1
        for row in binding.tokens:
            row.room -= tokens
        for row in binding.costs:
            row.room -= nanos
        shard = self._shard
        if not binding.touched:
            binding.touched = True
            shard.touched.append(binding)
        if miss[0] or miss[1]:
            binding.miss_tokens += miss[0]
            binding.miss_nanos += miss[1]
            if not binding.is_unbooked:
                binding.book_later(shard)
            hold = Hold(binding, shard, tokens, nanos, miss, binding.encoded)
        else:
            hold = Hold(binding, shard, tokens, nanos, None, binding.encoded)
        for row in binding.concurrent:
            if row.ceiling.hold_expires_ms:
                shard.expiring.append((now_ms + row.ceiling.hold_expires_ms, hold))
        return hold

    def find_row(self, key: str) -> Row | None:
        """Return the row of this plan's present windows that has `key`."""
        return next((row for row in self._binding.all if row.key == key), None)

    def needs(self, row: Row, tokens: int, nanos: int) -> int:
        """Return how much room `row` has to have here before a request of `tokens` and `nanos` is admitted."""
        asked = _asked(row.ceiling.measure, tokens, nanos)
        percent = row.ceiling.withheld[self.tier]
        if not percent:
            return asked
        kept = max(0, _kept(row, percent))
        return -(-(asked + kept) * 100 // max(1, 100 - percent))

    def short_of(self, tokens: int, nanos: int) -> list[tuple[Row, int]]:
        """Return the rows that have too little room here for a request of `tokens` and `nanos`, and what they need."""
        enforced = [row for row in self._binding.all if row.ceiling.mode == "enforce"]
        needs = [(row, self.needs(row, tokens, nanos)) for row in enforced]
        return [(row, need) for row, need in needs if row.room < need]

    def _current(self, now_ms: int) -> Binding:
        """Return the binding for `now_ms`, its rooms up to date."""
        binding = self._binding
        if now_ms >= binding.until_ms:
            binding = self._binding = self._registry.bind(self._shard, self._specs, now_ms)
        else:
            self._registry.refresh(binding, self._shard, self._specs, now_ms)
        return binding

    def _admit_slowly(
        self, now_ms: int, tokens: int, nanos: int, miss: tuple[int, int], passed: frozenset[str]
    ) -> Hold | Denied:
        shard, binding = self._shard, self._current(now_ms)
        allowance = 0
        if shard.missing is not None:
            mode = mode_of(shard, self._registry.failure, self.tier, now_ms)
            if mode.action in ("closed", "stop"):
                return _detached(shard, now_ms, self.tier)
            allowance = mode.allowance_percent
        elif now_ms >= shard.fence_at_ms or (binding.all and shard.weight.num == 0):
            return _detached(shard, now_ms)
        for spec in self._specs if len(self._registry.blocks) else ():
            entry = self._registry.blocks.find(spec.block_key, now_ms)
            if entry is not None and (nanos or entry.measure != Measure.COST):  # a budget does not stop what is free
                return self._blocked(entry, _asked(entry.measure, tokens, nanos), now_ms)
        worst, notes = self._look(binding, now_ms, (tokens, nanos), passed, allowance)
        if worst is not None:
            return worst
        hold = self._take(binding, tokens, nanos, miss, now_ms)
        hold.notes = tuple(notes)
        return hold

    def _look(
        self, binding: Binding, now_ms: int, amounts: tuple[int, int], passed: frozenset[str], allowance: int
    ) -> tuple[Denied | None, list[Note]]:
        """Return the refusal that matters most, and what rules have to say if there is none.

        `allowance` is the percent of each limit by which this replica may go beyond what it may use by itself.
        """
        worst: Denied | None = None
        notes: list[Note] = []
        has_part = now_ms < self._shard.fence_at_ms  # without one, only `open` comes here
        for row in binding.all:
            ceiling, asked = row.ceiling, _asked(row.ceiling.measure, *amounts)
            if not asked or (ceiling.is_plain and row.room >= asked and has_part):
                continue
            judged = GOES_ON
            if not ceiling.is_plain:
                judged = self._judge(row, asked, now_ms, passed)
                if judged.note:
                    notes.append(note_of(row, asked, now_ms, judged, self.tier))
                if not judged.action and (has_part or ceiling.mode != "enforce"):
                    continue
            if allowance and judged.action in _SHORT:
                if open_room(row, _free(row, self.tier), allowance, now_ms) >= asked:
                    notes.append(note_of(row, asked, now_ms, Judged(note="open"), self.tier))
                    continue
                if not has_part:
                    return _detached(self._shard, now_ms, self.tier), []
            denied = denied_by(row, asked, now_ms, judged, self.tier)
            if worst is None or severity(denied) > severity(worst):
                worst = denied
        return worst, notes

    def _judge(self, row: Row, asked: int, now_ms: int, passed: frozenset[str]) -> Judged:
        """Return what a rule with more than a cap says of a request; `wait` where only room here is short."""
        ceiling, tier = row.ceiling, self.tier
        percent = ceiling.withheld[tier]
        used = row.used + row.carried(now_ms) + asked
        if row.downgrades and "downgrade" not in passed:
            return Judged(action="downgrade", rung="downgrade")
        judged = judge(
            ceiling.rungs, used, seen_limit(row.limit, percent), mode=ceiling.mode,
            grace_percent=ceiling.grace_percent, tier=tier, passed=passed,
        )  # fmt: skip
        if judged.action or ceiling.mode != "enforce":
            return judged
        room = row.room - (_kept(row, percent) if percent else 0)
        if judged.note == "grace":
            room += _kept(row, ceiling.grace_percent)
        return judged if room >= asked else Judged(action="wait", rung=judged.rung)

    def _blocked(self, entry: BlockEntry, asked: int, now_ms: int) -> Denied:
        shard = self._shard
        return Denied(
            "blocked",
            rule=entry.rule,
            measure=entry.measure,
            scope=entry.scope,
            row=f"{entry.rule}/{entry.measure}/{entry.scope}/{entry.window}",
            limit=entry.limit,
            used=entry.used,
            asked=asked,
            weight=shard.weight,
            fence=shard.fence,
            staleness_ms=shard.staleness_ms(now_ms),
            resets_at_s=entry.until_s,
            retry_after_s=wait_s(entry.until_s * 1000, now_ms),
            at_ms=now_ms,
        )

    def limits_header(self, now_ms: int) -> bytes:
        """Return `x-ratelimit-…` lines of the request limit and of the token limit with the least left; or nothing."""
        binding = self._binding
        if now_ms >= binding.until_ms or binding.generation != self._shard.generation:
            binding = self._current(now_ms)
        elif now_ms - binding.header_ms > HEADER_MS:
            for row in binding.requests:
                row.recompute(now_ms)
            for row in binding.tokens:
                row.recompute(now_ms)
            binding.header_ms = now_ms
        lines = _lines(_REQUEST_LINES, binding.requests, now_ms) if binding.requests else b""
        return lines + _lines(_TOKEN_LINES, binding.tokens, now_ms) if binding.tokens else lines


_REQUEST_LINES = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %ds\r\n"
)
_TOKEN_LINES = _REQUEST_LINES.replace(b"requests", b"tokens")


def _lines(template: bytes, rows: tuple[Row, ...], now_ms: int) -> bytes:
    tightest = rows[0]
    left = tightest.room + tightest.slack
    for row in rows[1:]:
        if row.room + row.slack < left:
            tightest, left = row, row.room + row.slack
    return template % (tightest.limit, max(left, 0), wait_s(tightest.end_s * 1000, now_ms))


def _asked(measure: str, tokens: int, nanos: int) -> int:
    if measure == "tokens":
        return tokens
    return nanos if measure == "cost" else 1


def _reaches_a_rung(binding: Binding, asked: tuple[int, int, int]) -> bool:
    for row, kind in binding.guarded:  # noqa: SIM110 - on the hot path, where a generator costs as much as the rest
        if row.room - asked[kind] < row.floor:
            return True
    return False


def _kept(row: Row, percent: int) -> int:
    """Return `percent` of what this replica may have in the row, rounded up."""
    return -(-(row.room + row.own_part) * percent // 100)


def _free(row: Row, tier: int) -> int:
    """Return what requests of `tier` may still take here."""
    ceiling = row.ceiling
    percent = ceiling.withheld[tier]
    if percent:
        return row.room - max(0, _kept(row, percent))
    return row.room + _kept(row, ceiling.grace_percent) if tier == 0 and ceiling.grace_percent else row.room


def _detached(shard: Shard, now_ms: int, tier: int = 1) -> Denied:
    stale_ms, gone = shard.staleness_ms(now_ms), shard.missing or ""
    return Denied("detached", fence=shard.fence, staleness_ms=stale_ms, status=503, tier=tier, gone=gone)
