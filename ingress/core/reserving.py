"""How much one request reserves: input at most, and of its output as much as it probably uses.

| the request | holds of output | what it may use beyond that |
|---|---|---|
| at most 4,096 tokens asked for | all of it | nothing |
| more asked for, streamed | 4,096, and more while it streams | the rest; no money, if budgets cut streams off |
| more asked for, not streamed | 4,096, or 5/4 of what 95 % of answers stay within, if that is more | the rest |
| no maximum, streamed | 5/4 of what 95 % stay within, 1,024 if unknown; more while it streams | as above |
| no maximum, not streamed | 5/4 of what 95 % stay within; 1,024 if unknown | the rest of the model's maximum |
| billed by no provider | nothing | nothing |
| under a strict rule | the maximum asked for, else the model's, in the dearest classes | nothing |

A client that asks for 64,000 tokens and uses 900 must not empty a small budget meanwhile; so nothing but a strict rule
holds what is merely possible. Tools of the provider's are held as `fees` says. What may be used beyond a reservation
is stated as the overshoot bound.
"""

from __future__ import annotations

from typing import Protocol

from ingress.core.ask import Ask
from ingress.core.estimate import missed_nanos, most_nanos, reserved_input, reserved_nanos
from ingress.core.fees import NO_FEES, Fees
from ingress.core.learned import SCALE, Profile
from schemas.money import FEMTOS_PER_NANO, Price, rates_for

CHUNK_TOKENS = 4_096
"""Held at once of an answer that may become longer; a stream takes that much more at a time."""
UNKNOWN_TOKENS = 1_024
"""Held of an answer without a maximum, before answers of its model have been seen."""


class Reserved(Protocol):
    """What a reservation needs to know of a plan."""

    max_output_tokens: int
    reserve_price: Price
    is_strict: bool
    """Whether a rule wants the worst case reserved."""
    cuts_off: bool
    """Whether every budget ends an answer that streams when it has nothing left for it."""


class Shortage(Protocol):
    """What a reservation needs to know of a refusal; `plan.Denied` says it."""

    @property
    def measure(self) -> str:
        """Of the row that refused."""

    @property
    def limit(self) -> int:
        """In the measure's unit, as is `asked`."""

    @property
    def asked(self) -> int:
        """What did not fit."""


class Reservation:
    """What one request holds, and what it is made of."""

    __slots__ = (
        "_can_shrink", "_is_cut_off", "_price", "_writes_cache", "fee_nanos", "fees_beyond_nanos", "input_tokens",
        "miss_nanos", "miss_tokens", "most_tokens", "nanos", "output_tokens", "profile", "prompt_bytes", "tokens",
    )  # fmt: skip

    def __init__(
        self, ask: Ask, plan: Reserved, body: bytes, profile: Profile, has_output: bool, fees: Fees = NO_FEES
    ) -> None:
        """Decide what to hold for a request.

        Args:
            ask: the request, understood.
            plan: whose price, whose model.
            body: the request's.
            profile: what is known of the model.
            has_output: whether the operation has any.
            fees: of the provider's tools that the request offers.
        """
        strict, price = plan.is_strict, plan.reserve_price
        self.profile = profile
        self._price = price
        self._writes_cache = body.find(b'"cache_control"') >= 0  # which is quicker than `in`
        self._is_cut_off = ask.stream and plan.cuts_off
        self._can_shrink = has_output and ask.output_tokens is None and not strict
        found = reserved_input(body, SCALE if strict else profile.model.prompt.bound)
        self.input_tokens, missed, self.prompt_bytes = found
        self.output_tokens = self.most_tokens = 0
        """Output tokens that are held, and that there may be."""
        if has_output:
            held, self.most_tokens = _output(ask, plan.max_output_tokens, profile.output_bound)
            self.output_tokens = self.most_tokens if strict else held
        if ask.is_free:
            self.input_tokens = missed = 0
        rest = self.most_tokens - self.output_tokens
        self.tokens = self.input_tokens + self.output_tokens
        self.miss_tokens = missed + rest
        self.miss_nanos = missed_nanos(price, missed, 0 if self._is_cut_off else rest) if missed or rest else 0
        if ask.is_free:
            self.nanos = 0
        elif strict:
            self.nanos = most_nanos(price, self.input_tokens, self.output_tokens, b'"audio"' in body)
        else:
            self.nanos = reserved_nanos(price, self.input_tokens, self.output_tokens, self._writes_cache)
        self.fee_nanos = self.fees_beyond_nanos = 0
        """What is held for tools of the provider's, and what they may cost beyond it."""
        if fees is not NO_FEES:
            self.fee_nanos, self.fees_beyond_nanos = fees.nanos(price, strict)
            self.nanos += self.fee_nanos
            self.miss_nanos += self.fees_beyond_nanos

    def shrink_to(self, short: Shortage) -> bool:
        """Hold less, if a limit as a whole is smaller than what was only assumed of the output; tell whether."""
        if not self._can_shrink or short.asked <= short.limit or short.measure not in ("tokens", "cost"):
            return False
        fits = short.limit - self.input_tokens
        if short.measure == "cost":
            least = reserved_nanos(self._price, self.input_tokens, 0, self._writes_cache) + self.fee_nanos
            fits = _affordable(self._price, self.input_tokens, short.limit - least)
        if not 0 < fits < self.output_tokens:
            return False
        rest, self.output_tokens = self.output_tokens - fits, fits
        self.tokens -= rest
        self.nanos = reserved_nanos(self._price, self.input_tokens, fits, self._writes_cache) + self.fee_nanos
        self.miss_tokens += rest
        self.miss_nanos += 0 if self._is_cut_off else missed_nanos(self._price, 0, rest)
        return True


def _affordable(price: Price, input_tokens: int, nanos: int) -> int:
    """Return how many output tokens `nanos` pay for."""
    rate = rates_for(price.tiers, input_tokens).output
    return nanos * FEMTOS_PER_NANO // rate if rate and nanos > 0 else 0


def _output(ask: Ask, max_output_tokens: int, bound: int) -> tuple[int, int]:
    """Return how many output tokens to hold, and how many there may be; `max_output_tokens` are a choice's."""
    choices, asked = ask.choices, ask.output_tokens
    usual = (bound + (bound >> 2) + 1) * choices if bound else 0
    if asked is None:
        most = max_output_tokens * choices
        held = usual or UNKNOWN_TOKENS * choices
        return min(most, held, CHUNK_TOKENS) if ask.stream else min(most, held), most
    most = asked * choices
    if most <= CHUNK_TOKENS:
        return most, most
    return CHUNK_TOKENS if ask.stream else min(most, max(CHUNK_TOKENS, usual)), most
