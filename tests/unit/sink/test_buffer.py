"""When a batch is cut, and what is in it."""

from __future__ import annotations

from meter.sink.core.buffer import Buffer, Entry


def entry(offset: int, rows: int = 1) -> Entry[str]:
    """Return a record with so many rows."""
    return Entry(offset, 0, f"r{offset}", rows)


def filled(*rows: int, max_rows: int = 10, resend_to: int | None = None) -> Buffer[str]:
    """Return a buffer with records from offset 5 on."""
    buffer: Buffer[str] = Buffer(5, max_rows, 1_000, resend_to)
    for number, count in enumerate(rows):
        buffer.add(entry(5 + number, count), 100)
    return buffer


def test_a_batch_is_due_by_rows_or_by_age() -> None:
    """Enough rows, or a row that has waited long enough, make a batch; records without rows do not."""
    assert not filled(4, 5).is_due(1_099)
    assert filled(4, 6).is_due(100)
    assert filled(1).is_due(1_100)
    assert not filled(0, 0).is_due(10**9)


def test_a_batch_spans_everything_that_was_read() -> None:
    """Its range begins where the last one ended, and covers records without rows and offsets that the log lacks."""
    buffer = filled(0, 3)
    buffer.add(Entry(9, 0, None, 0), 200)
    cut = buffer.cut(300)
    assert cut is not None
    assert (cut.first, cut.last, cut.rows, [found.offset for found in cut.entries]) == (5, 9, 3, [5, 6])
    assert buffer.cut(300) is None
    buffer.add(entry(12), 300)
    later = buffer.cut(300)
    assert later is not None
    assert (later.first, later.last) == (10, 12)


def test_a_batch_does_not_grow_beyond_its_rows_by_more_than_a_record() -> None:
    """What is too much stays for the next batch, whose age begins then."""
    buffer = filled(6, 6, 6)
    cut = buffer.cut(400)
    assert cut is not None
    assert (cut.first, cut.last, cut.rows) == (5, 6, 12)
    assert (buffer.rows, buffer.first, buffer.age_ms(500)) == (6, 7, 100)


def test_a_batch_that_is_sent_again_ends_where_it_ended() -> None:
    """It is due when all of it was read, whatever its rows and age, and takes nothing beyond."""
    assert not filled(50, 50, resend_to=7).is_due(10**9)
    assert filled(50, 50, resend_to=7).cut(10**9) is None
    buffer = filled(50, 50, 50, 50, resend_to=7)
    assert buffer.is_due(100)
    cut = buffer.cut(100)
    assert cut is not None
    assert (cut.first, cut.last, cut.rows) == (5, 7, 150)
    assert (buffer.resend_to, buffer.rows, buffer.first) == (None, 50, 8)
