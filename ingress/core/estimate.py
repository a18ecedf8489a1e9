"""How many tokens bytes may have (to reserve), and how many they probably have (to charge, where nobody says).

Reserving errs high, because what is used beyond a reservation overshoots a limit; but a reservation far above what is
used would make small limits refuse their first request. So input is reserved at a density that `learned` keeps for
each model: one token for two bytes of the body at first, then the densest of late and an eighth more. The hard bound
of text is one token a byte; the difference to it is part of the overshoot bound that refusals state. Long runs of
base64, which are images, audio or files, count 2,000 tokens and one for every 64 bytes instead; what is behind an URL
in a request cannot be counted beforehand.

Estimates to charge are what is likely: four bytes a token.
"""

from __future__ import annotations

import re

from ingress.core.learned import SCALE_BITS, START_DENSITY
from schemas.money import FEMTOS_PER_NANO, Price, Rates, rates_for, reserve_nanos
from schemas.tokens import TokenUsage

LIKELY_BYTES_PER_TOKEN = 4
BLOB_TOKENS = 2_000
BLOB_BYTES_PER_TOKEN = 64

_LOOK_FOR_BLOBS_BYTES = 16_384
_BLOB = re.compile(rb"[A-Za-z0-9+/=_-]{1024,}")
_MEDIA = re.compile(rb'"(?:image|image_url|input_audio|document|file|file_id)"')


def reserved_input(body: bytes, density: int = START_DENSITY) -> tuple[int, int, int]:
    """Return how many input tokens to reserve for a body, how many more its text may have, and the bytes of the text.

    Args:
        body: of a request.
        density: tokens for 4,096 bytes.
    """
    size = len(body)
    if size < _LOOK_FOR_BLOBS_BYTES:
        tokens = -(-size * density >> SCALE_BITS)
        return tokens, size - tokens, size
    blobs, blob_bytes = _blobs(body)
    text_bytes = size - blob_bytes
    text = -(-text_bytes * density >> SCALE_BITS)
    return text + blobs * BLOB_TOKENS + blob_bytes // BLOB_BYTES_PER_TOKEN, text_bytes - text, text_bytes


def likely_input(body: bytes) -> int:
    """Return how many input tokens a request body probably had."""
    size = len(body)
    blobs, blob_bytes = _blobs(body) if size >= _LOOK_FOR_BLOBS_BYTES else (0, 0)
    text = -(-(size - blob_bytes) // LIKELY_BYTES_PER_TOKEN)
    return text + blobs * BLOB_TOKENS + blob_bytes // BLOB_BYTES_PER_TOKEN


def likely_output(payload_bytes: int) -> int:
    """Return how many output tokens a whole answer probably had."""
    return -(-payload_bytes // LIKELY_BYTES_PER_TOKEN)


def has_media(body: bytes) -> bool:
    """Tell whether a request body has more than text in it, so that its bytes say nothing about tokens."""
    return _MEDIA.search(body) is not None or (len(body) >= _LOOK_FOR_BLOBS_BYTES and _BLOB.search(body) is not None)


def reserved_nanos(price: Price, input_tokens: int, output_tokens: int, writes_cache: bool) -> int:
    """Return what to hold in nano-USD; a prompt that asks for caching may be written to the dearest cache."""
    if writes_cache:
        return reserve_nanos(price, TokenUsage(0, output_tokens, cache_write_1h=input_tokens))
    if not price.tiers:
        return price.request_nanos
    rates = rates_for(price.tiers, input_tokens)
    return -(-(input_tokens * rates.input + output_tokens * rates.output) // FEMTOS_PER_NANO) + price.request_nanos


def most_nanos(price: Price, input_tokens: int, output_tokens: int, has_audio: bool) -> int:
    """Return what an answer may cost at most: its tokens in the dearest classes, by the dearest tier it can reach."""
    reached = [tier for tier in price.tiers if tier.min_input_tokens <= input_tokens]
    femtos = max(
        input_tokens * _dearest_input(rates, has_audio) + output_tokens * _dearest_output(rates, has_audio)
        for rates in reached
    )
    return -(-femtos // FEMTOS_PER_NANO) + price.request_nanos


def missed_nanos(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Return what tokens beyond a reservation cost at worst, in nano-USD, rounded up; by the highest tier."""
    rates = price.tiers[-1]
    return -(-(input_tokens * rates.input + output_tokens * rates.output) // FEMTOS_PER_NANO)


def _dearest_input(rates: Rates, has_audio: bool) -> int:
    dearest = max(rates.input, rates.cache_read, rates.cache_write, rates.cache_write_1h)
    return max(dearest, rates.audio_input) if has_audio else dearest


def _dearest_output(rates: Rates, has_audio: bool) -> int:
    dearest = max(rates.output, rates.reasoning)
    return max(dearest, rates.audio_output) if has_audio else dearest


def _blobs(body: bytes) -> tuple[int, int]:
    """Return number and bytes of the long base64 runs of a body."""
    lengths = [match.end() - match.start() for match in _BLOB.finditer(body)]
    return len(lengths), sum(lengths)
