"""Makes the overlapping counts of a provider disjoint, and checks their sum. Pure arithmetic; knows no provider.

Rules where counts do not fit (`docs/usage.md` has them as a table): a part that is larger than its whole stands beside
it, so the whole grows; tokens that only the total has are reasoning, which some providers count beside the answer; a
total that is less than its parts is wrong. Of two readings the one with more tokens counts.
"""

from __future__ import annotations

import msgspec

from schemas import flags
from schemas.tokens import TokenUsage


class Told(msgspec.Struct):
    """What a provider says, in its own overlapping counts."""

    input: int = 0
    """All that was read, with what came from the cache or went there."""
    output: int = 0
    """All that was written, with what only the model sees."""
    total: int | None = None
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0


def disjoint(told: Told, odd: set[str]) -> TokenUsage:
    """Return the disjoint classes of what was told; `odd` takes a flag if it contradicts itself."""
    fresh, audio_input, image_input, read = _split_input(told, odd)
    text, reasoning, audio_output, image_output = _split_output(told, read, odd)
    return TokenUsage(
        fresh, text, told.cache_read, told.cache_write, told.cache_write_1h, reasoning, audio_input, audio_output,
        image_input, image_output,
    )  # fmt: skip


def _split_input(told: Told, odd: set[str]) -> tuple[int, int, int, int]:
    """Return (text at full price, audio, images, all) of the input."""
    cached = told.cache_read + told.cache_write + told.cache_write_1h
    media = told.audio_input + told.image_input
    whole = told.input
    if cached > whole:
        # The provider counts what was cached beside the prompt. Its total may say so too.
        if told.total != whole + cached + told.output:
            odd.add(flags.CONTRADICTORY)
        whole += cached
    if media > whole:
        odd.add(flags.CONTRADICTORY)
        whole = media + cached
    rest = whole - cached
    audio = min(told.audio_input, rest)  # audio that was cached is cached
    image = min(told.image_input, rest - audio)
    return rest - audio - image, audio, image, whole


def _split_output(told: Told, read: int, odd: set[str]) -> tuple[int, int, int, int]:
    """Return (text, reasoning, audio, images) of the output; `read` is all input."""
    whole, reasoning, media = told.output, told.reasoning, told.audio_output + told.image_output
    beside = 0 if told.total is None else told.total - read - whole
    if beside > 0:
        if reasoning not in (0, beside):
            odd.add(flags.CONTRADICTORY)
        whole += max(beside, reasoning) if reasoning > whole else beside
        reasoning = max(beside, reasoning)
    elif beside < 0:
        odd.add(flags.CONTRADICTORY)
    if reasoning > whole:
        odd.add(flags.CONTRADICTORY)
        whole += reasoning
    if reasoning + media > whole:
        odd.add(flags.CONTRADICTORY)
        whole = reasoning + media
    return whole - reasoning - media, reasoning, told.audio_output, told.image_output
