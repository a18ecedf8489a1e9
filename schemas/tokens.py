"""Tokens of one answer, in disjoint classes whose sum is what the provider counted."""

from __future__ import annotations

import msgspec


class TokenUsage(msgspec.Struct, frozen=True, array_like=True):
    """Token counts by class. The classes are disjoint: no token is in two of them.

    `input` is text read at full price (not cached, not audio or images), `output` is visible text (not reasoning, not
    audio or images). Providers that report overlapping counts are normalised before they reach this type.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0

    @property
    def all_input(self) -> int:
        """Input tokens of every class."""
        return (
            self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input + self.image_input
        )

    @property
    def all_output(self) -> int:
        """Output tokens of every class."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def total(self) -> int:
        """Tokens of every class: what a TPM limit counts."""
        return (
            self.input + self.output + self.cache_read + self.cache_write + self.cache_write_1h + self.reasoning
            + self.audio_input + self.audio_output + self.image_input + self.image_output
        )  # fmt: skip

    @property
    def plain(self) -> bool:
        """Whether only `input` and `output` are used, as in most answers."""
        return not (
            self.cache_read
            or self.reasoning
            or self.cache_write
            or self.cache_write_1h
            or self.audio_input
            or self.audio_output
            or self.image_input
            or self.image_output
        )


NO_TOKENS = TokenUsage()
