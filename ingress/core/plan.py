"""A plan: everything about (key, model, operation) that does not change from request to request, and its admission.

The hot path is `Plan.admit`: compare all rows, then subtract from all rows. Whatever is not plainly admissible there
(a window ended, a share changed, room is short) goes the slow way, which looks again before it refuses.
Knows no HTTP; the path keeps what it needs for its provider in `target`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ingress.core.admission import Binding, Registry, RowSpec, Shard
from ingress.core.rows import MINUTE_MS, Row
from schemas.blocks import BlockEntry
from schemas.keys import VirtualKey
from schemas.money import Price
from schemas.policy import Provider
from schemas.quota import NO_WEIGHT, Weight

HEADER_MS = 250
"""Header lines may count a sliding minute as it was this long ago."""
_REASONS = {"requests": "rpm", "tokens": "tpm", "cost": "budget"}


class Denied(msgspec.Struct, frozen=True):
    """Why a request may not go on, with all that a refusal and its decision record state."""

    reason: str
    """`rpm`, `tpm`, `budget`, `blocked`; `detached` where this replica may not admit anything."""
    rule: str = ""
    measure: str = ""
    scope: str = ""
    row: str = ""
    limit: int = 0
    """In the measure's unit, as are `used`, `asked`, `room` and `overshoot_bound`."""
    used: int = 0
    """Settled and in flight everywhere as of the fence, own reservations since, and what a sliding minute carries."""
    asked: int = 0
    room: int = 0
    """What this replica may still admit by itself; below zero if others have used more than was known."""
    weight: Weight = NO_WEIGHT
    fence: int = 0
    staleness_ms: int = 0
    resets_at_s: int = 0
    """Unix second at which the request would fit if nothing else came, at most the end of the next minute for a
    sliding minute; for a budget the end of its window."""
    retry_after_s: int = 1
    overshoot_bound: int = 0
    """What this replica's requests in flight may use beyond their reservations at worst. It is 0 where every
    reservation is a maximum; the path tells `admit` where one is not."""
    status: int = 429
    """HTTP status: 503 for `detached`."""


class Hold:
    """A reservation. It ends exactly once: the first `settle` counts, a later one does nothing.

    The gauge falls in the record that carries the terminal event, so `settle` and `Journal.terminal` belong into one
    step, without anything awaited in between.
    """

    __slots__ = ("_binding", "_is_settled", "_miss", "_nanos", "_shard", "_tokens", "rows")

    def __init__(self, binding: Binding, shard: Shard, tokens: int, nanos: int, miss: tuple[int, int] | None) -> None:
        """Hold one request, `tokens` and `nanos` in the rows of `binding`."""
        self._binding = binding
        self._shard = shard
        self._tokens = tokens
        self._nanos = nanos
        self._miss = miss
        self._is_settled = False
        self.rows: msgspec.Raw = binding.encoded
        """Encoded row keys: what `UsageEvent.rows` has to be."""

    def settle(self, requests: int, tokens: int, nanos: int) -> None:
        """End the reservation with what was used (0, 0, 0 releases it). What was used beyond it takes room at once."""
        if self._is_settled:
            return
        self._is_settled = True
        binding = self._binding
        over = tokens - self._tokens
        if over > 0:
            self._tokens = tokens
            for row in binding.tokens:
                row.room -= over
        over = nanos - self._nanos
        if over > 0:
            self._nanos = nanos
            for row in binding.costs:
                row.room -= over
        if self._miss is not None:
            _add_miss(binding, -self._miss[0], -self._miss[1])
        self._shard.settling.append(self)

    def end(self) -> None:
        """Let the gauges fall; called when the record that carries the terminal event is cut."""
        binding = self._binding
        for row in binding.requests:
            row.ended += 1
        tokens = self._tokens
        for row in binding.tokens:
            row.ended += tokens
        nanos = self._nanos
        for row in binding.costs:
            row.ended += nanos
        if not binding.touched:
            binding.touched = True
            self._shard.touched.append(binding)


class Plan:
    """What is resolved once a (key, model, operation) and policy version."""

    __slots__ = (
        "_binding", "_registry", "_shard", "_specs", "attribution", "key", "max_output_tokens", "model",
        "model_requested", "partition", "price", "protocol", "provider", "provider_config", "reserve_price", "target",
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
        self._registry = registry
        self._shard = registry.shards[partition]
        self._specs = specs
        self._binding = Binding([], 0, 0)

    def admit(self, now_ms: int, tokens: int, nanos: int, miss_tokens: int = 0, miss_nanos: int = 0) -> Hold | Denied:
        """Reserve one request, `tokens` and `nanos` in every row, or nothing at all.

        Args:
            now_ms: unix ms; decides the windows.
            tokens: upper estimate of tokens of all classes.
            nanos: upper estimate of the cost in nano-USD.
            miss_tokens: by how much `tokens` may be exceeded at worst; 0 if it is a maximum.
            miss_nanos: the same of `nanos`.
        """
        binding, shard = self._binding, self._shard
        if now_ms >= binding.until_ms or binding.generation != shard.generation or now_ms >= shard.fence_at_ms:
            return self._admit_slowly(now_ms, tokens, nanos, miss_tokens, miss_nanos)
        for row in binding.requests:
            if row.room < 1:
                return self._admit_slowly(now_ms, tokens, nanos, miss_tokens, miss_nanos)
        for row in binding.tokens:
            if row.room < tokens:
                return self._admit_slowly(now_ms, tokens, nanos, miss_tokens, miss_nanos)
        for row in binding.costs:
            if row.room < nanos:
                return self._admit_slowly(now_ms, tokens, nanos, miss_tokens, miss_nanos)
        return self._take(binding, tokens, nanos, miss_tokens, miss_nanos)

    def _take(self, binding: Binding, tokens: int, nanos: int, miss_tokens: int, miss_nanos: int) -> Hold:
        for row in binding.requests:
            row.room -= 1
        for row in binding.tokens:
            row.room -= tokens
        for row in binding.costs:
            row.room -= nanos
        shard = self._shard
        if not binding.touched:
            binding.touched = True
            shard.touched.append(binding)
        if miss_tokens or miss_nanos:
            _add_miss(binding, miss_tokens, miss_nanos)
            return Hold(binding, shard, tokens, nanos, (miss_tokens, miss_nanos))
        return Hold(binding, shard, tokens, nanos, None)

    def _current(self, now_ms: int) -> Binding:
        """Return the binding for `now_ms`, its rooms up to date."""
        binding = self._binding
        if now_ms >= binding.until_ms:
            binding = self._binding = self._registry.bind(self._shard, self._specs, now_ms)
        else:
            self._registry.refresh(binding, self._shard, self._specs, now_ms)
        return binding

    def _admit_slowly(self, now_ms: int, tokens: int, nanos: int, miss_tokens: int, miss_nanos: int) -> Hold | Denied:
        shard, binding = self._shard, self._current(now_ms)
        if now_ms >= shard.fence_at_ms or (binding.all and shard.weight.num == 0):
            staleness_ms = shard.staleness_ms(now_ms)
            return Denied("detached", fence=shard.fence, staleness_ms=staleness_ms, status=503)
        for spec in self._specs if len(self._registry.blocks) else ():
            entry = self._registry.blocks.find(spec.block_key, now_ms)
            if entry is not None:
                return self._blocked(entry, _asked(entry.measure, tokens, nanos), now_ms)
        worst: Denied | None = None
        for row in binding.all:
            asked = _asked(row.ceiling.measure, tokens, nanos)
            if asked and row.room < asked:
                denied = _denied(row, asked, now_ms)
                if worst is None or denied.retry_after_s > worst.retry_after_s:
                    worst = denied
        return worst or self._take(binding, tokens, nanos, miss_tokens, miss_nanos)

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
            retry_after_s=_wait_s(entry.until_s * 1000, now_ms),
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
    return template % (tightest.ceiling.limit, max(left, 0), _wait_s(tightest.end_s * 1000, now_ms))


def _asked(measure: str, tokens: int, nanos: int) -> int:
    if measure == "requests":
        return 1
    return tokens if measure == "tokens" else nanos


def _denied(row: Row, asked: int, now_ms: int) -> Denied:
    shard, ceiling = row.shard, row.ceiling
    used = row.used + row.carried(now_ms)
    fits_ms = fits_at_ms(row, asked, now_ms)
    # Where all replicas together have room, the next snapshot may bring it here.
    soon = used + asked <= ceiling.limit
    return Denied(
        _REASONS[ceiling.measure],
        rule=ceiling.rule,
        measure=ceiling.measure,
        scope=row.scope,
        row=row.key,
        limit=ceiling.limit,
        used=used,
        asked=asked,
        room=row.room,
        weight=shard.weight,
        fence=shard.fence,
        staleness_ms=shard.staleness_ms(now_ms),
        resets_at_s=-(-fits_ms // 1000),
        retry_after_s=1 if soon else _wait_s(fits_ms, now_ms),
        overshoot_bound=row.may_miss,
    )


def fits_at_ms(row: Row, asked: int, now_ms: int) -> int:
    """Return when `asked` fits into `row` if nothing else comes: by decay in a sliding minute, else by its end."""
    end_ms = row.end_s * 1000
    if row.prev is None:
        return end_ms
    limit, used, carried = row.ceiling.limit, max(row.used, 0), max(row.prev.used, 0)
    free = limit - used - asked
    if free >= 0:
        left_ms = MINUTE_MS if carried <= free else free * MINUTE_MS // carried
        return max(now_ms, end_ms - left_ms)
    free = max(limit - asked, 0)
    left_ms = MINUTE_MS if used <= free else free * MINUTE_MS // used
    return end_ms + MINUTE_MS - left_ms


def _wait_s(until_ms: int, now_ms: int) -> int:
    return max(1, -(-(until_ms - now_ms) // 1000))


def _add_miss(binding: Binding, tokens: int, nanos: int) -> None:
    for row in binding.tokens:
        row.may_miss += tokens
    for row in binding.costs:
        row.may_miss += nanos
