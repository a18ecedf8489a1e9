"""Counts the output of one stream as it goes by, and tells when and by how much its reservation has to grow.

Text is counted where it stands, and many blocks at once: most cost a few searches for marks, only what has tools or
several kinds of text is looked at by an expression, and nothing is decoded. Every piece of text is one token at least,
and all text is as many tokens as the model's texts had at most of late (`learned`). Where the provider tells its counts
on the way, they replace ours.

The reservation covers a number of output tokens: what is left of its tokens and of its money after the input, of
which the provider may tell less or more than was reserved. At four fifths of the last chunk another one is due. If
there is none, less is asked for when less is left; beyond what is covered it is the rule's final unit that counts.
Knows no HTTP and no plan.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ingress.core.ask import Ask
from ingress.core.learned import SCALE_BITS
from ingress.core.reported import NOTHING_REPORTED, Reported
from ingress.core.reserving import CHUNK_TOKENS, Reservation
from ingress.core.sse import EventReader, split_events
from schemas.money import FEMTOS_PER_NANO, Price, rates_for
from schemas.tokens import TokenUsage

if TYPE_CHECKING:
    from ingress.core.rows import Row

NEVER = 1 << 62
_BACKSLASH = 0x5C
_MOST_WAITING_BYTES = 16_384
_LIKELY_BYTES_PER_TOKEN = 4
_texts = re.compile(
    rb'"(?:content|text|thinking|partial_json|arguments|reasoning(?:_content)?|refusal|delta)"\s*:\s*'
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)'
).findall


class Outflow:
    """The output of one stream, and the part of it that is reserved."""

    __slots__ = (
        "_base", "_before", "_before_open", "_block_pieces", "_block_text", "_density", "_due_bytes", "_fee_nanos",
        "_held_nanos", "_held_tokens", "_input_femtos", "_is_known", "_last", "_mark", "_most", "_other", "_pieces",
        "_price", "_rate", "_reader", "_text", "_told", "_told_text", "_waiting", "_waiting_bytes", "ask_at", "claimed",
        "covered", "input", "open_choices", "output",
    )  # fmt: skip

    def __init__(self, ask: Ask, reserved: Reservation, price: Price, reader: EventReader) -> None:
        """Begin a stream whose admission reserved `reserved` at `price`; `reader` knows its protocol."""
        self._reader = reader
        self._mark = reader.piece_mark
        self._told: Reported = NOTHING_REPORTED
        self._price = price
        self._density = reserved.profile.model.text.bound
        self._most = NEVER if ask.output_tokens is None else reserved.most_tokens
        self._held_tokens, self._held_nanos, self._fee_nanos = reserved.tokens, reserved.nanos, reserved.fee_nanos
        self._base = self._pieces = self._text = self._told_text = 0
        self._block_pieces = self._block_text = self._other = 0
        self._is_known = False
        self._before = self._last = b""
        self.open_choices = self._before_open = frozenset(range(ask.choices))
        """Choices whose end has not been seen; of a single one nobody looks."""
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._due_bytes = 0
        self.output = 0
        """Output tokens so far: an upper estimate, or what the provider told. Only exact enough to compare with
        `ask_at`."""
        self.input = TokenUsage(reserved.input_tokens)
        """What the provider told of the input, or what is reserved of it."""
        self._input_femtos = self._rate = 0
        self.claimed: Row | None = None
        """Where the meter has been told that room is wanted for it."""
        self.covered = self.ask_at = 0
        """Output tokens that are reserved, and beyond how many more have to be asked for."""
        self._take_input(self.input)

    # -- counting ------------------------------------------------------------------------------------------------

    def count(self, block: bytes) -> None:
        """Count a block of whole events that is about to go to the client.

        Blocks wait and are counted together while all their bytes together could not be the tokens that are left.
        """
        self._waiting.append(block)
        size = self._waiting_bytes = self._waiting_bytes + len(block)
        if size > self._due_bytes or self._reader.reported is not self._told:
            self._catch_up()

    def _catch_up(self) -> None:
        """Count what waits; of the last block it is known what it was."""
        blocks = self._waiting
        if not blocks:
            return
        self._waiting, self._waiting_bytes = [], 0
        last = blocks.pop()
        if blocks:
            self._add(b"".join(blocks))
            self._remember(blocks)
        self._before, self._before_open = self._last, self.open_choices
        self._block_pieces, self._block_text = self._add(last)
        self._remember([last])
        if self._reader.reported is not self._told:
            self._take_told(self._reader.reported)
        self._sum()

    def _add(self, block: bytes) -> tuple[int, int]:
        """Count the text of a block; return its pieces and bytes."""
        deltas = block.count(self._mark)
        if not deltas:
            self._other += len(block)
            return 0, 0
        self._is_known = True
        if len(self.open_choices) > 1:
            self.open_choices -= self._reader.finished(block)
        found = _texts_of(block, self._reader.text_mark)
        if len(found) != deltas or 0 in found:
            found = [len(text) for text in _texts(block, block.find(self._mark)) if text]
        pieces, text = len(found), sum(found)
        self._pieces += pieces
        self._text += text
        return pieces, text

    def _remember(self, blocks: list[bytes]) -> None:
        """Keep the last events, from the last block with a delta."""
        for at in range(len(blocks) - 1, -1, -1):
            if self._mark in blocks[at]:
                self._last = b"".join(blocks[at:])
                return
        self._last += b"".join(blocks)

    def _sum(self) -> None:
        counted = -(-self._text * self._density >> SCALE_BITS)
        output = self._base + (counted if counted > self._pieces else self._pieces)
        self.output = output if output < self._most else self._most
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Find how many bytes cannot be more tokens than are left before more has to be asked for."""
        left = (self.ask_at - self.output << SCALE_BITS) // self._density
        self._due_bytes = left if left < _MOST_WAITING_BYTES else _MOST_WAITING_BYTES

    def uncount(self) -> None:
        """Take the last block back: it does not go to the client."""
        self._pieces = max(0, self._pieces - self._block_pieces)
        self._text = max(0, self._text - self._block_text)
        self._last, self.open_choices = self._before, self._before_open
        self._sum()

    def _take_told(self, told: Reported) -> None:
        """Replace what was estimated by what the provider says."""
        self._told = told
        if told.usage is None:
            return
        self._take_input(_without_output(told.usage))
        if told.is_final:
            self._told_text += self._text
            self._base, self._pieces, self._text = told.usage.all_output, 0, 0

    # -- what is reserved ----------------------------------------------------------------------------------------

    def _take_input(self, usage: TokenUsage) -> None:
        self.input = usage
        rates = rates_for(self._price.tiers, usage.all_input)
        self._rate = max(rates.output, rates.reasoning)
        self._input_femtos = (
            usage.input * rates.input + usage.cache_read * rates.cache_read + usage.cache_write * rates.cache_write
            + usage.cache_write_1h * rates.cache_write_1h + usage.audio_input * rates.audio_input
            + usage.image_input * (rates.input if rates.image_input < 0 else rates.image_input)
            + (self._price.request_nanos + self._fee_nanos) * FEMTOS_PER_NANO
        )  # fmt: skip
        self._cover()

    def _cover(self) -> None:
        covered = self._held_tokens - self.input.all_input
        if self._rate:
            covered = min(covered, (self._held_nanos * FEMTOS_PER_NANO - self._input_femtos) // self._rate)
        covered = max(covered, 0)
        self.covered = covered
        self.ask_at = NEVER if covered >= self._most else covered - min(covered, CHUNK_TOKENS) // 5
        self._look_ahead()

    def wanted(self, chunk_tokens: int) -> tuple[int, int]:
        """Return tokens and nano-USD that `chunk_tokens` more than there are so far take beyond what is held."""
        aim = min(self.output + chunk_tokens, self._most)
        tokens = self.input.all_input + aim - self._held_tokens
        nanos = -(-(self._input_femtos + aim * self._rate) // FEMTOS_PER_NANO) - self._held_nanos
        return max(tokens, 0), max(nanos, 0)

    @property
    def held(self) -> tuple[int, int]:
        """Tokens and nano-USD that are reserved for the request."""
        return self._held_tokens, self._held_nanos

    def extended(self, tokens: int, nanos: int) -> None:
        """Take that the reservation has grown."""
        self._held_tokens += tokens
        self._held_nanos += nanos
        self._cover()

    def put_off(self, tokens: int) -> None:
        """Ask again after `tokens` more, or when nothing is left of what is reserved, if something is."""
        later = self.output + tokens
        self.ask_at = min(later, self.covered) if self.output < self.covered else later
        self._look_ahead()

    @property
    def is_complete(self) -> bool:
        """Whether the provider has said all: there is nothing to extend or to cut any more."""
        return self._reader.is_complete

    # -- its end -------------------------------------------------------------------------------------------------

    def fitting(self, block: bytes) -> bytes:
        """Return the events at the front of the last counted `block` that the reservation covers; count only them."""
        self.uncount()
        fits: list[bytes] = []
        for event in split_events(block):
            self.count(event)
            self._catch_up()
            if self.output > self.covered:
                self.uncount()
                break
            fits.append(event)
        return b"".join(fits)

    @property
    def last(self) -> bytes:
        """The last events that went to the client, from the last one that had text."""
        self._catch_up()
        return self._last

    @property
    def text_bytes(self) -> int:
        """Bytes of text so far, as JSON has them."""
        self._catch_up()
        return self._told_text + self._text

    @property
    def likely(self) -> int:
        """Output tokens that the stream probably had so far: what to charge where it broke off."""
        self._catch_up()
        if not self._is_known and self._told.usage is None:
            return -(-self._other // _LIKELY_BYTES_PER_TOKEN)
        counted = -(-self._text // _LIKELY_BYTES_PER_TOKEN)
        return min(self._base + max(counted, self._pieces), self._most)

    @property
    def usage(self) -> TokenUsage:
        """What to charge for a stream that was cut off: never less than was delivered, never more than is reserved."""
        return _with_output(self.input, min(self.output, self.covered))


def _texts_of(block: bytes, mark: bytes) -> list[int]:
    """Return the lengths of the texts that begin with `mark`."""
    _, *rest = block.split(mark)
    if _BACKSLASH not in block:
        return [text.find(b'"') for text in rest]
    found = []
    for text in rest:
        end = text.find(b'"')
        while end > 0 and text[end - 1] == _BACKSLASH:
            end = text.find(b'"', end + 1)
        found.append(max(end, 0))
    return found


def _without_output(usage: TokenUsage) -> TokenUsage:
    return TokenUsage(
        usage.input, 0, usage.cache_read, usage.cache_write, usage.cache_write_1h, 0, usage.audio_input, 0,
        usage.image_input,
    )  # fmt: skip


def _with_output(usage: TokenUsage, output: int) -> TokenUsage:
    return TokenUsage(
        usage.input, output, usage.cache_read, usage.cache_write, usage.cache_write_1h, 0, usage.audio_input, 0,
        usage.image_input,
    )  # fmt: skip
