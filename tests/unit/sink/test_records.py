"""What of the records goes into the table."""

from __future__ import annotations

from typing import Any

import pytest

from meter.sink.core.records import choose, decisions_entry, place, usage_entry
from meter.sink.core.watermarks import Watermarks
from schemas.codec import encode_decisions, encode_record
from schemas.errors import DecodeError
from schemas.usage import Evict
from tests.history_builders import a_batch, a_decision, an_event


def test_events_are_placed_by_offset_and_number() -> None:
    """Each event knows its record and its place within it, events that are none of ours counted."""
    first, second = an_event(), an_event()
    chosen = choose([usage_entry(7, 99, a_batch([first, b"\x01", second], seq=1))], Watermarks(complete=True))
    assert [(found.event, found.offset, found.number, found.seq, found.logged_ms) for found in chosen.events] == [
        (first, 7, 0, 1, 99), (second, 7, 2, 1, 99),
    ]  # fmt: skip
    assert chosen.undecodable == 1


@pytest.mark.parametrize("field", ["charge_requests", "charge_tokens", "charge_nanos"])
def test_charges_below_nothing_are_left_out(field: str) -> None:
    """The meter leaves such events out, so the history does."""
    fields: dict[str, Any] = {field: -1}
    chosen = choose([usage_entry(0, 0, a_batch([an_event(**fields)]))], Watermarks(complete=True))
    assert (chosen.events, chosen.undecodable) == ([], 1)


def test_duplicates_and_gaps_are_counted() -> None:
    """What does not count is counted as such."""
    entries = [usage_entry(offset, 0, a_batch([an_event()], seq)) for offset, seq in enumerate((1, 1, 3))]
    chosen = choose(entries, Watermarks(complete=True))
    assert (len(chosen.events), chosen.duplicates, chosen.gaps) == (1, 1, 1)


def test_evictions_have_no_rows() -> None:
    """The meter's own records pass by."""
    entry = usage_entry(3, 0, encode_record(Evict("a", 1, "silent")))
    assert (entry.record, entry.rows) == (None, 0)
    assert choose([entry], Watermarks()).events == []


def test_what_is_no_record_is_refused() -> None:
    """Other bytes, and records of the other topic, are DecodeErrors."""
    for value in (b"", b"garbage", encode_decisions([])):
        with pytest.raises(DecodeError):
            usage_entry(0, 0, value)
    with pytest.raises(DecodeError):
        decisions_entry(0, 0, a_batch())


def test_decisions_are_placed_too() -> None:
    """Each decision knows where it is."""
    decisions = [a_decision(), a_decision()]
    placed = place([decisions_entry(4, 9, encode_decisions(decisions))])
    assert [(found.decision, found.offset, found.number) for found in placed] == [
        (decisions[0], 4, 0),
        (decisions[1], 4, 1),
    ]
