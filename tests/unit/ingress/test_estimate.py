"""How much is reserved, and how much is charged where a provider is silent."""

from __future__ import annotations

import base64
import random

import pytest

from ingress.core.estimate import (
    has_media,
    likely_input,
    likely_output,
    missed_nanos,
    most_nanos,
    reserved_input,
    reserved_nanos,
)
from schemas.money import Price, Rates

PRICE = Price("test", "1", (Rates(0, 100, 10, 125, 200, 400, 400, 100, 400),))


def test_input_is_reserved_at_two_bytes_a_token() -> None:
    """Half the bytes, rounded up, where nothing is known of the model; at worst every byte is a token."""
    sizes = (0, 1, 2, 3, 1000)
    assert [reserved_input(b"x" * size) for size in sizes] == [
        (0, 0, 0), (1, 0, 1), (1, 1, 2), (2, 1, 3), (500, 500, 1000)
    ]  # fmt: skip


@pytest.mark.parametrize(("density", "tokens"), [(4_096, 1_000), (2_048, 500), (1_024, 250), (1_025, 251)])
def test_input_is_reserved_by_the_density_of_the_model(density: int, tokens: int) -> None:
    """Tokens for 4,096 bytes, rounded up; reserved and missed together are one token a byte."""
    assert reserved_input(b"x" * 1_000, density) == (tokens, 1_000 - tokens, 1_000)


def test_blobs_are_not_counted_as_text() -> None:
    """An image of a megabyte reserves thousands of tokens, not hundreds of thousands."""
    image = base64.b64encode(random.Random(1).randbytes(1_000_000))
    body = b'{"messages":[{"content":[{"image_url":{"url":"data:image/png;base64,%b"}}]}]}' % image
    reserved, missed, text_bytes = reserved_input(body)
    assert 2_000 < reserved < 40_000
    assert likely_input(body) <= reserved
    assert missed < 100
    assert text_bytes < 200


def test_long_text_is_no_blob() -> None:
    """Words have spaces: a long prompt counts by its bytes."""
    body = b"some words " * 4_000
    assert reserved_input(body) == (len(body) // 2, len(body) // 2, len(body))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"messages":[{"content":"an image_url, they say"}]}', False),
        (b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]}', True),
        (b'{"messages":[{"content":[{"type":"document","source":{}}]}]}', True),
        (b'"' + b"A" * 20_000 + b'"', True),
        (b"plain words " * 2_000, False),
    ],
)
def test_more_than_text_is_noticed(body: bytes, expected: bool) -> None:
    """Bytes of a body with images, files or audio say nothing about its tokens."""
    assert has_media(body) is expected


def test_prompt_that_may_be_cached_is_reserved_at_the_dearest_rate() -> None:
    """Writing to the cache costs more than reading."""
    assert reserved_nanos(PRICE, 1_000_000, 0, False) == 100
    assert reserved_nanos(PRICE, 1_000_000, 0, True) == 200


def test_missed_tokens_are_priced_by_the_highest_tier_rounded_up() -> None:
    """The bound on money errs high."""
    tiers = (*PRICE.tiers, Rates(1_000, 200, 20, 250, 400, 800, 800, 200, 800))
    assert missed_nanos(Price("test", "1", tiers), 1, 1) == 1
    assert missed_nanos(Price("test", "1", tiers), 1_000_000, 1_000_000) == 1_000


def test_most_is_the_dearest_class_of_the_dearest_tier_that_can_be_reached() -> None:
    """A strict reservation is never below what any mix of classes costs; audio counts only where it is asked for."""
    low = Rates(0, 100, 10, 125, 200, 400, 500, 1_000, 9_000)
    dear = Rates(1_000_000, 300, 20, 250, 250, 800, 800, 1_000, 9_000)
    price = Price("test", "1", (low, dear), request_nanos=7)
    assert most_nanos(price, 10_000, 10_000, False) == 2 + 5 + 7
    assert most_nanos(price, 1_000_000, 10_000, False) == 300 + 8 + 7
    assert most_nanos(price, 10_000, 10_000, True) == 10 + 90 + 7


def test_whole_answer_is_charged_at_four_bytes_a_token() -> None:
    """Where the provider does not say."""
    assert [likely_output(size) for size in (0, 1, 4, 401)] == [0, 1, 1, 101]
