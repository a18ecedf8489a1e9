"""How much is reserved, and how much is charged where a provider is silent."""

from __future__ import annotations

import base64
import random

import pytest

from ingress.core.ask import Ask
from ingress.core.estimate import (
    likely_input,
    likely_output,
    missed_nanos,
    reserved_input,
    reserved_nanos,
    reserved_output,
)
from schemas.money import Price, Rates

PRICE = Price("test", "1", (Rates(0, 100, 10, 125, 200, 400, 400, 100, 400),))


def test_input_is_reserved_at_two_bytes_a_token() -> None:
    """Half the bytes, rounded up; at worst every byte is a token."""
    sizes = (0, 1, 2, 3, 1000)
    assert [reserved_input(b"x" * size) for size in sizes] == [(0, 0), (1, 0), (1, 1), (2, 1), (500, 500)]


def test_blobs_are_not_counted_as_text() -> None:
    """An image of a megabyte reserves thousands of tokens, not hundreds of thousands."""
    image = base64.b64encode(random.Random(1).randbytes(1_000_000))
    body = b'{"messages":[{"content":[{"image_url":{"url":"data:image/png;base64,%b"}}]}]}' % image
    reserved, missed = reserved_input(body)
    assert 2_000 < reserved < 40_000
    assert likely_input(body) <= reserved
    assert missed < 100


def test_long_text_is_no_blob() -> None:
    """Words have spaces: a long prompt counts by its bytes."""
    body = b"some words " * 4_000
    assert reserved_input(body) == (len(body) // 2, len(body) // 2)


@pytest.mark.parametrize(
    ("ask", "maximum", "expected"),
    [
        (Ask("m", output_tokens=50), 16_384, (50, 0)),
        (Ask("m", output_tokens=50, choices=3), 16_384, (150, 0)),
        (Ask("m", output_tokens=100_000), 16_384, (100_000, 0)),
        (Ask("m", output_tokens=0), 16_384, (0, 0)),
        (Ask("m"), 16_384, (1_024, 15_360)),
        (Ask("m"), 100, (100, 0)),
        (Ask("m", choices=2), 16_384, (2_048, 30_720)),
    ],
)
def test_output_is_what_was_asked_or_a_small_default(ask: Ask, maximum: int, expected: tuple[int, int]) -> None:
    """A client that names no maximum does not reserve the model's whole one, and what may be missed is told."""
    assert reserved_output(ask, maximum) == expected


def test_prompt_that_may_be_cached_is_reserved_at_the_dearest_rate() -> None:
    """Writing to the cache costs more than reading."""
    assert reserved_nanos(PRICE, 1_000_000, 0, False) == 100
    assert reserved_nanos(PRICE, 1_000_000, 0, True) == 200


def test_missed_tokens_are_priced_by_the_highest_tier_rounded_up() -> None:
    """The bound on money errs high."""
    tiers = (*PRICE.tiers, Rates(1_000, 200, 20, 250, 400, 800, 800, 200, 800))
    assert missed_nanos(Price("test", "1", tiers), 1, 1) == 1
    assert missed_nanos(Price("test", "1", tiers), 1_000_000, 1_000_000) == 1_000


def test_delivered_events_are_a_token_each_at_least() -> None:
    """A broken stream is charged for what arrived: its text, and no less than an event each."""
    assert likely_output(0) == 0
    assert likely_output(400) == 100
    assert likely_output(10 * 200, events=10, around=200) == 10
    assert likely_output(10 * 240, events=10, around=200) == 100
