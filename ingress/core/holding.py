"""Reserves what a request may come to at most, where its body does not say it in text; and counts nothing on the way.

Both take the places of `reserving.Reservation` and `streaming.Outflow`: an answer in images or sound has no text to
count, so all of it is reserved at once, and it is never cut off.
"""

from __future__ import annotations

from ingress.core.cutoff import CutOff
from ingress.core.expected import Expected, holds_tokens, most_nanos
from ingress.core.learned import Profile
from ingress.core.plan import Plan
from ingress.core.reported import NOTHING_REPORTED
from ingress.core.reserving import Reservation, Shortage
from ingress.core.streaming import NEVER, Outflow
from schemas.tokens import TokenUsage


class MediaReservation(Reservation):
    """What one request holds that is not text."""

    __slots__ = ()

    def __init__(self, expected: Expected, plan: Plan, profile: Profile) -> None:
        """Hold the most that the request may come to with `plan`; nobody learns from its bytes."""
        self.profile = profile
        self._price = plan.reserve_price
        self._writes_cache = self._is_cut_off = self._can_shrink = False
        self.prompt_bytes = self.miss_tokens = self.miss_nanos = self.fee_nanos = self.fees_beyond_nanos = 0
        self.input_tokens = self.output_tokens = 0
        self.nanos = expected.least_nanos
        if not expected.is_nothing:
            if holds_tokens(plan.price, expected):
                self.input_tokens, self.output_tokens = expected.most.all_input, expected.most.all_output
            self.nanos = most_nanos(expected, plan.price, plan.reserve_price)
        self.most_tokens = self.output_tokens
        self.tokens = self.input_tokens + self.output_tokens

    def shrink_to(self, short: Shortage) -> bool:
        """Never hold less: there is nothing that was only assumed of the output."""
        return False


class MediaFlow(Outflow):
    """An answer that flows by uncounted."""

    __slots__ = ()

    def __init__(self, expected: Expected) -> None:
        """Begin an answer of which all is reserved."""
        self.output, self.ask_at = 0, NEVER
        self.claimed = None
        self.input = TokenUsage(expected.most.all_input)
        self.open_choices = frozenset()

    def count(self, block: bytes) -> None:
        """Count nothing."""

    @property
    def text_bytes(self) -> int:
        """None."""
        return 0

    @property
    def likely(self) -> int:
        """None: `expected.charged` says what is charged."""
        return 0

    @property
    def is_complete(self) -> bool:
        """Whether no more is to be reserved: there never is."""
        return True


class BytesReader:
    """The `sse.EventReader` of an answer that is no stream of events: it reads nothing."""

    __slots__ = ()

    end_mark = usage_mark = piece_mark = text_mark = b"\0"
    reported = NOTHING_REPORTED
    is_complete = False
    failed = ""

    def is_end(self, data: bytes) -> bool:
        """Tell that it is not."""
        return False

    def take(self, data: bytes) -> bool:
        """Let it pass."""
        return False

    def note_error(self, data: bytes) -> None:
        """Note none."""

    def finished(self, block: bytes) -> frozenset[int]:
        """Return none."""
        return frozenset()

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return nothing: bytes have no way to say that they are cut off."""
        return b""
