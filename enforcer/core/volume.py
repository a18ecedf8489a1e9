"""Volume discounts: what a month's use makes of them, once the month is over.

While a month runs, its requests are priced with the discounts that a contract gives without any volume, so every
replica prices alike and nothing depends on when something was counted. When the month is over its use is known; the
step that it reached becomes an entry for that month, and repricing posts the difference. Closing a month again with
the same use changes nothing; with another use (late events) it corrects the month's entry.
"""

from __future__ import annotations

import msgspec

from enforcer.core.book import Book
from enforcer.core.price_changes import Stamp
from schemas.prices import Discount, PriceEntry, Volume

NOTHING_OFF = (Discount(0),)
"""Says the list price, where no discount at all would be a withdrawal."""


def volume_entries(book: Book) -> list[PriceEntry]:
    """Return the newest entry with volume discounts of each series, by the order of recording."""
    newest = {held.entry.series: held.entry for held in book.entries.values() if held.entry.volume is not None}
    return list(newest.values())


def reached(volume: Volume, plain: tuple[Discount, ...], used: int) -> tuple[Discount, ...]:
    """Return the discounts of a month with so much use."""
    found = plain
    for step in volume.steps:
        if used > step.above:
            found = step.discounts
    return found


def closing(
    book: Book, entry: PriceEntry, start_ms: int, end_ms: int, used: int, stamp: Stamp
) -> list[PriceEntry]:  # fmt: skip
    """Return what makes the book say what a month costs whose use is known.

    Args:
        book: all entries.
        entry: with volume discounts; the whole of its series is meant.
        start_ms: of the month.
        end_ms: of the month, exclusive.
        used: tokens, or nano-USD at list prices, as the entry counts.
        stamp: of the new entries.
    """
    assert entry.volume is not None
    begins = min(
        held.entry.valid_from_ms for held in book.versions(entry.series) if held.entry.volume is not None
    )  # fmt: skip
    if entry.valid_to_ms is not None:
        end_ms = min(end_ms, entry.valid_to_ms)
    if max(start_ms, begins) >= end_ms:
        return []
    closed = msgspec.structs.replace(
        entry, id="", valid_from_ms=max(start_ms, begins), valid_to_ms=end_ms, volume=None,
        discounts=reached(entry.volume, entry.discounts, used) or NOTHING_OFF, recorded_ms=stamp.recorded_ms,
        recorded_by=stamp.actor, reason=stamp.reason,
    ).sealed()  # fmt: skip
    now = book.in_force(closed.series, closed.valid_from_ms)
    if now is not None and (now.discounts, now.volume, now.valid_to_ms) == (closed.discounts, None, end_ms):
        return []
    after = book.in_force(entry.series, end_ms)
    if after is None or after.valid_from_ms == end_ms:
        return [closed]
    goes_on = msgspec.structs.replace(
        after, id="", valid_from_ms=end_ms, recorded_ms=stamp.recorded_ms, recorded_by=stamp.actor, reason=stamp.reason
    )
    return [closed, goes_on.sealed()]
