"""Laws of what is learned about models: it bounds what was seen, stays within its limits, forgets in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.learned import (
    ENOUGH_ANSWERS,
    ENOUGH_INPUT_BYTES,
    GENERATION,
    LEARN_AFTER,
    LEAST_DENSITY,
    MAX_LENGTH,
    MAX_MODELS,
    MAX_PAIRS,
    MOST_DENSITY,
    START_DENSITY,
    Density,
    Learned,
    Lengths,
)
from schemas.tokens import TokenUsage

SIZES = st.integers(ENOUGH_INPUT_BYTES, 200_000)
SAMPLES = st.lists(st.tuples(SIZES, st.floats(0.0, 1.0)), min_size=1, max_size=60)


def _played(samples: list[tuple[int, float]], times: int) -> Density:
    density = Density()
    for _ in range(times):
        for size, part in samples:
            density.note(int(size * part), size)
    return density


@settings(max_examples=60)
@given(SAMPLES, st.integers(1, 20))
def test_density_bounds_what_was_seen_of_late(samples: list[tuple[int, float]], times: int) -> None:
    """Whatever was among the last answers would have been reserved in full, and the bound stays within its limits."""
    density = _played(samples, times)
    assert all(density.tokens(size) >= int(size * part) for size, part in samples)
    assert LEAST_DENSITY <= density.bound <= MOST_DENSITY
    if times * len(samples) < LEARN_AFTER:
        assert density.bound >= START_DENSITY


@settings(max_examples=40)
@given(SAMPLES, st.randoms(use_true_random=False))
def test_order_within_a_generation_makes_no_difference(samples: list[tuple[int, float]], rng: object) -> None:
    """The same answers in another order teach the same."""
    mixed = list(samples)
    rng.shuffle(mixed)  # type: ignore[attr-defined]  # what st.randoms gives has no public type
    assert _played(samples, 5).bound == _played(mixed, 5).bound


@given(st.integers(0, 3_000))
def test_density_forgets_what_does_not_come_back(extra: int) -> None:
    """One dense answer counts for at least a generation and at most two."""
    density = Density()
    for _ in range(GENERATION):
        density.note(250, 1_000)
    usual = density.bound
    density.note(900, 1_000)
    for _ in range(extra):
        density.note(250, 1_000)
    if extra < GENERATION:
        assert density.tokens(1_000) >= 900
    if extra > 2 * GENERATION:
        assert density.bound == usual
    assert density.bound >= usual


@given(st.integers(ENOUGH_INPUT_BYTES, 10_000), st.integers(1, 1_000))
def test_more_than_a_token_a_byte_teaches_nothing(size: int, beyond: int) -> None:
    """An image behind an URL has tokens without bytes: no density is learned from it."""
    density = Density()
    density.note(size + beyond, size)
    assert density.bound == START_DENSITY
    assert not density.tokens(0)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2 * MAX_LENGTH), min_size=1, max_size=40), st.integers(1, 80))
def test_lengths_bound_all_but_a_twentieth(lengths: list[int], times: int) -> None:
    """At most 5 % of a stable mix are longer than the bound, which is within an eighth of one of them."""
    histogram = Lengths()
    for _ in range(times):
        for length in lengths:
            histogram.note(length)
    seen = len(lengths) * times
    if seen < ENOUGH_ANSWERS:
        assert histogram.bound == 0
    if seen % (32 * len(lengths)) == 0 and ENOUGH_ANSWERS <= seen < 2_048:
        longer = sum(min(length, MAX_LENGTH) > histogram.bound for length in lengths)
        assert longer * 20 <= len(lengths)
        assert any(length <= histogram.bound <= max(1, length + length // 8) for length in [*lengths, MAX_LENGTH])


def test_lengths_follow_a_change() -> None:
    """When answers become shorter for good, so does the bound."""
    histogram = Lengths()
    for _ in range(5_000):
        histogram.note(4_000)
    assert 4_000 <= histogram.bound <= 4_500
    for _ in range(50_000):
        histogram.note(100)
    assert 100 <= histogram.bound <= 112


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    """However many keys and models come by, as many profiles are kept as ever, the newest ones."""
    learned = Learned()
    newest = None
    for number in range(MAX_PAIRS + MAX_MODELS):
        newest = learned.of(f"key-{number}", f"model-{number}")
    assert len(learned) == MAX_PAIRS + MAX_MODELS
    assert learned.of(f"key-{MAX_PAIRS + MAX_MODELS - 1}", f"model-{MAX_PAIRS + MAX_MODELS - 1}") is newest


def test_key_without_answers_gets_what_the_model_has() -> None:
    """A new key starts with what others have taught about the model, and then goes its own way."""
    learned = Learned()
    old, new = learned.of("old", "m"), learned.of("new", "m")
    for _ in range(ENOUGH_ANSWERS):
        old.note(TokenUsage(300, 500), 800, 1, 1_200, 2_500)
    assert 500 <= new.output_bound == old.output_bound <= 562
    for _ in range(ENOUGH_ANSWERS):
        new.note(TokenUsage(300, 10), 310, 1, 1_200, 0)
    assert new.output_bound == 10
    assert old.output_bound > 500


def test_hidden_reasoning_and_short_texts_teach_no_density() -> None:
    """Tokens without text would make every text look dense; so would a few bytes."""
    profile = Learned().of("k", "m")
    profile.note(TokenUsage(10, 20, reasoning=5_000), 5_030, 1, 0, 100)
    profile.note(TokenUsage(10, 20), 30, 1, 20, 20)
    assert profile.model.text.bound == profile.model.prompt.bound == START_DENSITY


def test_choices_are_lengths_of_their_own() -> None:
    """Four answers of 25 tokens are no answer of 100."""
    profile = Learned().of("k", "m")
    for _ in range(ENOUGH_ANSWERS):
        profile.note(TokenUsage(10, 100), 110, 4, 0, 0)
    assert profile.output_bound == 25
