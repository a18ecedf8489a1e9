"""What a request holds: enough for what it probably uses, and no more than a small budget can bear."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ingress.core.ask import Ask
from ingress.core.learned import ENOUGH_ANSWERS, LEARN_AFTER, Learned, Profile
from ingress.core.plan import Denied
from ingress.core.reserving import CHUNK_TOKENS, UNKNOWN_TOKENS, Reservation
from schemas.money import Price, Rates
from schemas.tokens import TokenUsage

PRICE = Price("test", "1", (Rates(0, 150_000, 75_000, 187_500, 300_000, 600_000, 700_000, 150_000, 600_000),))
BODY = b"{" + b"x" * 98 + b"}"


def _profile(output_tokens: int = 0) -> Profile:
    profile = Learned().of("k", "m")
    for _ in range(ENOUGH_ANSWERS if output_tokens else 0):
        profile.note(TokenUsage(1, output_tokens), 1 + output_tokens, 1, 0, 0)
    return profile


def _reserve(ask: Ask, seen: int = 0, *, strict: bool = False, cuts_off: bool = False) -> Reservation:
    plan: Any = SimpleNamespace(max_output_tokens=16_384, reserve_price=PRICE, is_strict=strict, cuts_off=cuts_off)
    return Reservation(ask, plan, BODY, _profile(seen), True)


@pytest.mark.parametrize(
    ("ask", "seen", "held", "missed"),
    [
        (Ask("m", output_tokens=0), 0, 0, 0),
        (Ask("m", output_tokens=50, choices=3), 0, 150, 0),
        (Ask("m", output_tokens=CHUNK_TOKENS), 0, CHUNK_TOKENS, 0),
        (Ask("m", output_tokens=CHUNK_TOKENS), 5, CHUNK_TOKENS, 0),
        (Ask("m", True, 64_000), 0, CHUNK_TOKENS, 64_000 - CHUNK_TOKENS),
        (Ask("m", True, 64_000), 20_000, CHUNK_TOKENS, 64_000 - CHUNK_TOKENS),
        (Ask("m", False, 64_000), 0, CHUNK_TOKENS, 64_000 - CHUNK_TOKENS),
        (Ask("m", False, 64_000), 15, CHUNK_TOKENS, 64_000 - CHUNK_TOKENS),
        (Ask("m", False, 64_000), 8_191, 10_239, 53_761),
        (Ask("m", False, 9_000), 8_191, 9_000, 0),
        (Ask("m"), 0, UNKNOWN_TOKENS, 16_384 - UNKNOWN_TOKENS),
        (Ask("m", choices=2), 0, 2 * UNKNOWN_TOKENS, 2 * (16_384 - UNKNOWN_TOKENS)),
        (Ask("m"), 15, 19, 16_365),
        (Ask("m"), 8_191, 10_239, 6_145),
        (Ask("m"), 16_000, 16_384, 0),
        (Ask("m", True), 8_191, CHUNK_TOKENS, 16_384 - CHUNK_TOKENS),
        (Ask("m", True), 15, 19, 16_365),
    ],
)
def test_output_is_held_by_the_table(ask: Ask, seen: int, held: int, missed: int) -> None:
    """Each row of the table in the module's description; held and missed together are what there may be."""
    found = _reserve(ask, seen)
    assert (found.output_tokens, found.most_tokens - found.output_tokens) == (held, missed)
    assert (found.input_tokens, found.tokens, found.miss_tokens) == (50, 50 + held, 50 + missed)
    assert found.nanos == -(-(50 * 150_000 + held * 600_000) // 10**6)


@pytest.mark.parametrize("ask", [Ask("m", True, 64_000), Ask("m", False, 64_000), Ask("m"), Ask("m", True, choices=3)])
def test_strict_holds_the_hard_maximum(ask: Ask) -> None:
    """One token a byte, all output there may be, the dearest classes: nothing can be missed."""
    found = _reserve(ask, 15, strict=True)
    most = (ask.output_tokens or 16_384) * ask.choices
    assert (found.input_tokens, found.output_tokens) == (100, most)
    assert (found.miss_tokens, found.miss_nanos) == (0, 0)
    assert found.nanos == -(-(100 * 300_000 + most * 700_000) // 10**6)


@pytest.mark.parametrize(("ask", "missed"), [(Ask("m", True, 64_000), 50), (Ask("m", False, 64_000), 59_954)])
def test_budgets_that_cut_streams_off_miss_no_output(ask: Ask, missed: int) -> None:
    """What such a budget may be exceeded by is the input that was estimated, and answers that do not stream."""
    found = _reserve(ask, cuts_off=True)
    assert found.miss_tokens == 50 + 64_000 - CHUNK_TOKENS
    assert found.miss_nanos == -(-(50 * 150_000 + (missed - 50) * 600_000) // 10**6)


def test_coding_agent_does_not_empty_a_small_key() -> None:
    """A hundred agents at once, each asking for 64,000 tokens, fit into 25 USD at 15 USD a million."""
    dear = Price("test", "1", (Rates(0, 3 * 10**9, 0, 0, 0, 15 * 10**9, 15 * 10**9, 0, 0),))
    plan: Any = SimpleNamespace(max_output_tokens=64_000, reserve_price=dear, is_strict=False, cuts_off=False)
    held = Reservation(Ask("m", True, 64_000), plan, b"x" * 40_000, _profile(), True).nanos
    assert 100 * held < 25 * 10**9


def test_input_is_held_by_what_was_learned() -> None:
    """After enough answers the densest of late counts, with an eighth on top."""
    profile = Learned().of("k", "m")
    for _ in range(LEARN_AFTER):
        profile.note(TokenUsage(300, 10), 310, 1, 1_000, 0)
    plan: Any = SimpleNamespace(max_output_tokens=10, reserve_price=PRICE, is_strict=False, cuts_off=False)
    found = Reservation(Ask("m"), plan, b"x" * 1_000, profile, True)
    assert 300 < found.input_tokens <= 339
    assert found.miss_tokens == 1_000 - found.input_tokens


@pytest.mark.parametrize(
    ("measure", "limit", "held"), [("tokens", 500, 450), ("cost", 308, 500), ("tokens", 51, 1), ("cost", 9, 1)]
)
def test_assumed_output_shrinks_to_a_small_limit(measure: str, limit: int, held: int) -> None:
    """A limit below what is assumed of an answer does not refuse every first request."""
    found = _reserve(Ask("m"))
    before = found.miss_tokens
    asked = found.tokens if measure == "tokens" else found.nanos
    assert found.shrink_to(Denied("tpm", measure=measure, limit=limit, asked=asked))
    assert (found.output_tokens, found.tokens) == (held, 50 + held)
    assert found.miss_tokens == before + UNKNOWN_TOKENS - held
    assert (found.tokens if measure == "tokens" else found.nanos) <= limit
    assert not found.shrink_to(Denied("tpm", measure=measure, limit=limit, asked=limit))


@pytest.mark.parametrize(
    ("ask", "strict", "measure", "limit"),
    [
        (Ask("m", output_tokens=1_000), False, "tokens", 500),
        (Ask("m"), True, "tokens", 500),
        (Ask("m"), False, "tokens", 50),
        (Ask("m"), False, "cost", 8),
        (Ask("m"), False, "requests", 0),
        (Ask("m"), False, "tokens", 10**6),
    ],
)
def test_what_was_asked_for_does_not_shrink(ask: Ask, strict: bool, measure: str, limit: int) -> None:
    """Only an assumption is given up: not what the client asked for, nor a strict rule, nor what cannot fit at all."""
    found = _reserve(ask, strict=strict)
    held = (found.tokens, found.nanos, found.miss_tokens)
    assert not found.shrink_to(Denied("tpm", measure=measure, limit=limit, asked=max(found.tokens, found.nanos)))
    assert (found.tokens, found.nanos, found.miss_tokens) == held


def test_embeddings_hold_no_output() -> None:
    """An operation without output holds its input alone."""
    plan: Any = SimpleNamespace(max_output_tokens=16_384, reserve_price=PRICE, is_strict=True, cuts_off=False)
    found = Reservation(Ask("m", output_tokens=0), plan, BODY, _profile(), False)
    assert (found.tokens, found.output_tokens, found.miss_tokens) == (100, 0, 0)
