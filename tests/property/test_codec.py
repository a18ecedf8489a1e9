"""Laws of the codec: what is written is read, and what was not written by it is refused, never misread."""

from __future__ import annotations

import contextlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.errors import DecodeError
from schemas.quota import LedgerState, Member, RowState, Snapshot, Weight
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Batch, Evict, Gauge, LogRecord, Totals, UsageEvent, Want

small = st.text(max_size=8)
counts = st.integers(0, 2**63 - 1)
ids = st.binary(min_size=16, max_size=16)
totals = st.builds(Totals, *([counts] * 7))
attributions = st.builds(Attribution, *([small] * 8), st.dictionaries(small, small, max_size=2), counts, small)
events = st.builds(
    UsageEvent, ids, ids, counts, small, small, counts, counts, st.integers(-1, 2**31), counts, st.booleans(), small,
    st.builds(TokenUsage, *([counts] * 8)), st.none() | counts, counts, counts, counts, small, small, ids,
    attributions.map(codec.encode_attribution), st.lists(small, max_size=3).map(codec.encode_rows),
)  # fmt: skip
limits = st.integers(-1, 2**53)
gauges = st.lists(st.builds(Gauge, small, counts, limits), max_size=3)
wants = st.lists(st.builds(Want, small, counts, counts, limits), max_size=3)
batches = st.builds(
    Batch, small, counts, counts, counts, counts, counts, st.booleans(), gauges, wants, totals,
    st.lists(events.map(lambda event: msgspec.Raw(codec.encode_event(event))), max_size=3),
)  # fmt: skip
records: st.SearchStrategy[LogRecord] = st.one_of(batches, st.builds(Evict, small, counts, small))
amounts = st.lists(counts, max_size=3)
snapshots = st.builds(
    Snapshot, counts, small, counts, counts, counts, counts, st.booleans(), counts, counts,
    st.lists(st.builds(Member, small, counts, counts, st.builds(Weight, counts, counts, counts)), max_size=2),
    st.lists(st.builds(RowState, small, counts, counts, limits, amounts, amounts), max_size=3),
    st.lists(st.builds(LedgerState, small, totals, st.none() | totals), max_size=2),
)  # fmt: skip


@given(records)
def test_records_survive_the_log(record: LogRecord) -> None:
    """Batches with their events, and evictions."""
    decoded = codec.decode_record(codec.encode_record(record))
    assert decoded == record
    assert codec.encode_record(decoded) == codec.encode_record(record)


@given(events)
def test_events_survive_within_their_batch(event: UsageEvent) -> None:
    """Attribution and rows stay encoded on the way, and decode to what they were."""
    decoded = codec.decode_event(codec.encode_event(event))
    assert codec.encode_event(decoded) == codec.encode_event(event)
    assert codec.decode_attribution(decoded.attribution) == codec.decode_attribution(event.attribution)
    assert codec.decode_rows(decoded.rows) == codec.decode_rows(event.rows)


@given(snapshots)
def test_snapshots_survive(snapshot: Snapshot) -> None:
    """Members, rows and ledgers, `told` or not."""
    assert codec.decode_snapshot(codec.encode_snapshot(snapshot)) == snapshot


@given(st.binary(max_size=60), st.sampled_from([b"", codec.USAGE_HEADER, codec.SNAPSHOT_HEADER]))
def test_bytes_of_others_are_a_decode_error_and_nothing_else(noise: bytes, header: bytes) -> None:
    """Whatever is on a topic, no other exception leaves the codec."""
    for decode in (codec.decode_record, codec.decode_snapshot, codec.decode_decisions, codec.decode_event,
                   codec.decode_attribution, codec.decode_rows):  # fmt: skip
        with contextlib.suppress(DecodeError):
            decode(header + noise)


@given(records, st.data())
def test_a_damaged_record_is_refused_or_reads_as_something_written(record: LogRecord, data: st.DataObject) -> None:
    """Cut off anywhere, a record is a DecodeError."""
    encoded = codec.encode_record(record)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    try:
        codec.decode_record(encoded[:cut])
    except DecodeError:
        return
    raise AssertionError(f"the first {cut} bytes of {len(encoded)} were taken for a record")
