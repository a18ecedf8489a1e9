"""Computes all corrections of some time before any is posted: sums to look at, corrections kept in a file.

There may be millions of them, so memory holds sums only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

import msgspec

from enforcer.core.adjustments import Adjustment, Target
from enforcer.core.repricing import Outcome, PastCost, reprice
from schemas.money import Price

TELL_EVERY = 10_000
_LENGTH_BYTES = 4
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Target, Adjustment]).decode


@dataclass
class Sums:
    """Sums over some events."""

    events: int = 0
    corrected: int = 0
    first_priced: int = 0
    unpriced: int = 0
    """Without a price for all that they used: they keep the cost that they have, or have none."""
    folded: int = 0
    """Whose cost by a price of several tiers cannot be told."""
    before_nanos: int = 0
    after_nanos: int = 0
    charge_nanos: int = 0
    """By how much the charges of limits change."""

    @property
    def difference_nanos(self) -> int:
        """By how much the costs change."""
        return self.after_nanos - self.before_nanos


@dataclass
class Preview:
    """What would be posted: in all, by model and by organisation."""

    total: Sums = field(default_factory=Sums)
    by_model: dict[str, Sums] = field(default_factory=dict)
    by_org: dict[str, Sums] = field(default_factory=dict)


class Corrections:
    """Computed corrections, kept in a temporary file that goes with this object."""

    def __init__(self) -> None:
        self.preview = Preview()
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - goes with this object

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def compute(
        self, events: Iterable[PastCost], price_of: Callable[[PastCost], Price | None],
        progress: Callable[[int], None] = lambda count: None,
    ) -> Preview:  # fmt: skip
        """Compute the corrections of `events`."""
        count = 0
        for count, event in enumerate(events, 1):
            price = price_of(event)
            found = reprice(event, price)
            if found.adjustment is not None and price is not None:
                self._keep(event.target(price.version), found.adjustment)
            for sums in self._sums_of(event):
                _count(sums, event, found.outcome, found.cost_nanos, found.adjustment)
            if count % TELL_EVERY == 0:
                progress(count)
        progress(count)
        return self.preview

    def __iter__(self) -> Iterator[tuple[Target, Adjustment]]:
        """Yield what was computed, in the order of admission."""
        self._file.seek(0)
        while head := self._file.read(_LENGTH_BYTES):
            yield _decode(self._file.read(int.from_bytes(head, "big")))

    def _keep(self, target: Target, adjustment: Adjustment) -> None:
        value = _encode((target, adjustment))
        self._file.write(len(value).to_bytes(_LENGTH_BYTES, "big") + value)

    def _sums_of(self, event: PastCost) -> tuple[Sums, Sums, Sums]:
        preview = self.preview
        model = f"{event.provider}/{event.model}"
        by_model = preview.by_model.get(model) or preview.by_model.setdefault(model, Sums())
        by_org = preview.by_org.get(event.org) or preview.by_org.setdefault(event.org, Sums())
        return preview.total, by_model, by_org


def _count(sums: Sums, event: PastCost, outcome: Outcome, cost: int | None, adjustment: Adjustment | None) -> None:
    stands_for = event.stands_for
    sums.events += stands_for
    sums.before_nanos += event.held_nanos or 0
    sums.after_nanos += cost or 0
    if outcome is Outcome.UNPRICED:
        sums.unpriced += stands_for
    elif outcome is Outcome.FOLDED:
        sums.folded += stands_for
    if adjustment is not None:
        sums.corrected += stands_for
        sums.first_priced += stands_for if adjustment.first_price else 0
        sums.charge_nanos += adjustment.charge_nanos
