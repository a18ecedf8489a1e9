"""How many tokens a request may take (to reserve), and how many one took whose provider did not say (to charge).

Reserving errs high, because what is used beyond a reservation overshoots a limit; but a reservation far above what is
used would make small limits refuse their first request. So:

* Input: one token for every two bytes of the body. Tokens of prose and code are three to five bytes, JSON around the
  text comes on top, and even scripts with three bytes a character stay below it with today's tokenizers. The hard
  bound of text, one token a byte, would halve what a limit can be used for; the difference to it is part of the
  overshoot bound that refusals state. Long runs of base64, which are images, audio or files, count 2,000 tokens and
  one for every 64 bytes instead; what is behind an URL in a request cannot be counted beforehand.
* Output: what the client asks for, times its choices, which is a maximum. Where it does not say, 1,024 or the
  model's maximum, whichever is less: the settlement corrects it, and the difference to the model's maximum is part of
  the overshoot bound.

Estimates to charge are what is likely: four bytes a token.
"""

from __future__ import annotations

import re

from ingress.core.ask import Ask
from schemas.money import FEMTOS_PER_NANO, Price, reserve_nanos
from schemas.tokens import TokenUsage

RESERVED_BYTES_PER_TOKEN = 2
LIKELY_BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS = 1_024
BLOB_TOKENS = 2_000
BLOB_BYTES_PER_TOKEN = 64

_LOOK_FOR_BLOBS_BYTES = 16_384
_BLOB = re.compile(rb"[A-Za-z0-9+/=_-]{1024,}")


def reserved_input(body: bytes) -> tuple[int, int]:
    """Return how many input tokens to reserve for a request body, and how many more its text may have at worst."""
    size = len(body)
    if size < _LOOK_FOR_BLOBS_BYTES:
        tokens = -(-size // RESERVED_BYTES_PER_TOKEN)
        return tokens, size - tokens
    blobs, blob_bytes = _blobs(body)
    text_bytes = size - blob_bytes
    text = -(-text_bytes // RESERVED_BYTES_PER_TOKEN)
    return text + blobs * BLOB_TOKENS + blob_bytes // BLOB_BYTES_PER_TOKEN, text_bytes - text


def likely_input(body: bytes) -> int:
    """Return how many input tokens a request body probably had."""
    size = len(body)
    blobs, blob_bytes = _blobs(body) if size >= _LOOK_FOR_BLOBS_BYTES else (0, 0)
    text = -(-(size - blob_bytes) // LIKELY_BYTES_PER_TOKEN)
    return text + blobs * BLOB_TOKENS + blob_bytes // BLOB_BYTES_PER_TOKEN


def reserved_output(ask: Ask, max_output_tokens: int) -> tuple[int, int]:
    """Return how many output tokens to reserve, and how many more there may be at worst.

    `max_output_tokens` is what the model gives at most a choice.
    """
    asked = ask.output_tokens
    if asked is not None:
        return asked * ask.choices, 0
    reserved = min(max_output_tokens, DEFAULT_OUTPUT_TOKENS)
    return reserved * ask.choices, (max_output_tokens - reserved) * ask.choices


def likely_output(payload_bytes: int, events: int = 0, around: int = 0) -> int:
    """Return how many output tokens an answer probably had.

    Args:
        payload_bytes: bytes of the answer that arrived.
        events: how many streamed events they are; each has a token at least.
        around: bytes of an event that are not its text.
    """
    text = max(0, payload_bytes - events * around)
    return max(events, -(-text // LIKELY_BYTES_PER_TOKEN))


def reserved_nanos(price: Price, input_tokens: int, output_tokens: int, writes_cache: bool) -> int:
    """Return what to hold in nano-USD; a prompt that asks for caching may be written to the dearest cache."""
    if writes_cache:
        return reserve_nanos(price, TokenUsage(0, output_tokens, cache_write_1h=input_tokens))
    return reserve_nanos(price, TokenUsage(input_tokens, output_tokens))


def missed_nanos(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Return what tokens beyond a reservation cost at worst, in nano-USD, rounded up; by the highest tier."""
    rates = price.tiers[-1]
    return -(-(input_tokens * rates.input + output_tokens * rates.output) // FEMTOS_PER_NANO)


def _blobs(body: bytes) -> tuple[int, int]:
    """Return number and bytes of the long base64 runs of a body."""
    lengths = [match.end() - match.start() for match in _BLOB.finditer(body)]
    return len(lengths), sum(lengths)
