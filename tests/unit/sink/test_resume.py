"""Where the sink goes on."""

from __future__ import annotations

import pytest

from meter.sink.core.mark import Mark
from meter.sink.core.resume import Found, LastRow, LogMismatch, check_same_log, resume
from meter.sink.core.watermarks import Judgement, Watermark, Watermarks

KNOWN = Watermarks({("a", 1): Watermark(3)}, complete=True)


def mark(last: int | None) -> Mark:
    """Return a mark with a batch in flight up to `last`."""
    return Mark(last, KNOWN)


@pytest.mark.parametrize(
    ("found", "position", "resend_to", "lost"),
    [
        pytest.param(Found(None, None, None, 0, 9), 0, None, 0, id="nothing was ever read"),
        pytest.param(Found(None, None, None, 4, 9), 4, None, 0, id="an older log than this history"),
        pytest.param(Found(5, mark(None), LastRow(4), 0, 9), 5, None, 0, id="stopped cleanly"),
        pytest.param(Found(5, mark(None), LastRow(2), 0, 9), 5, None, 0, id="last records had no rows"),
        pytest.param(Found(5, mark(7), LastRow(4), 0, 9), 5, 7, 0, id="killed before the insert"),
        pytest.param(Found(5, mark(7), LastRow(7), 0, 9), 5, 7, 0, id="killed after the insert"),
        pytest.param(Found(5, mark(7), LastRow(6), 0, 9), 5, 7, 0, id="killed within the insert"),
        pytest.param(Found(5, mark(5), LastRow(4), 0, 9), 5, 5, 0, id="a batch of one record"),
        pytest.param(Found(8, mark(7), LastRow(7), 0, 9), 8, None, 0, id="a mark that was overtaken"),
        pytest.param(Found(5, None, LastRow(7), 0, 9), 8, None, 0, id="mark lost, rows there"),
        pytest.param(Found(None, None, LastRow(7), 0, 9), 8, None, 0, id="group forgotten, rows there"),
        pytest.param(Found(5, None, LastRow(7, 5, 8), 0, 9), 5, 8, 0, id="mark lost, the rows know their batch"),
        pytest.param(Found(None, None, LastRow(7, 3, 7), 0, 9), 3, 7, 0, id="group forgotten, the rows know"),
        pytest.param(Found(6, None, LastRow(7, 3, 7), 0, 9), 3, 7, 0, id="set back into a batch that was inserted"),
        pytest.param(Found(2, mark(None), LastRow(7, 3, 7), 0, 9), 3, 7, 0, id="set back behind it"),
        pytest.param(Found(5, mark(6), LastRow(7, 3, 7), 0, 9), 5, 6, 0, id="the mark is the better witness"),
        pytest.param(Found(None, None, LastRow(7, 3, 7), 5, 9), 5, 7, 2, id="the log dropped part of that batch"),
        pytest.param(Found(5, mark(None), LastRow(4), 7, 9), 7, None, 2, id="the log dropped records"),
        pytest.param(Found(3, mark(5), LastRow(2), 7, 9), 7, None, 4, id="the log dropped the batch in flight"),
        pytest.param(Found(3, mark(8), LastRow(2), 7, 9), 7, 8, 4, id="the log dropped part of the batch in flight"),
    ],
)
def test_position_and_what_is_sent_again(found: Found, position: int, resend_to: int | None, lost: int) -> None:
    """The sink goes on where nothing is missed, and sends again what may not be whole."""
    start = resume(found)
    assert (start.position, start.resend_to, start.lost) == (position, resend_to, lost)


@pytest.mark.parametrize(
    "found",
    [Found(9, mark(None), None, 0, 5), Found(None, None, LastRow(5), 0, 5), Found(3, mark(None), LastRow(7), 0, 7)],
)
def test_another_log_is_refused(found: Found) -> None:
    """Offsets that have been read and are not on the log are not guessed about."""
    with pytest.raises(LogMismatch, match="made anew or truncated"):
        resume(found)


def test_watermarks_are_exact_only_where_nothing_was_missed() -> None:
    """From the mark they are exact; with the mark, or records of the log, gone they are lower bounds."""
    assert resume(Found(5, mark(7), LastRow(4), 0, 9)).watermarks.judge(("a", 1), 5) is Judgement.GAP
    assert resume(Found(5, mark(None), LastRow(6), 0, 9)).watermarks.judge(("a", 1), 5) is Judgement.COUNTS
    assert resume(Found(5, mark(None), LastRow(4), 7, 9)).watermarks.judge(("a", 1), 5) is Judgement.COUNTS
    assert resume(Found(None, None, None, 0, 9)).watermarks.judge(("a", 1), 2) is Judgement.GAP
    assert resume(Found(4, None, None, 0, 9)).watermarks.judge(("a", 1), 2) is Judgement.COUNTS


def test_a_topic_that_was_made_anew_and_has_grown_is_known_by_its_records() -> None:
    """The record at the offset of the last row is the one that was read, or nothing is read at all."""
    row = LastRow(7, 3, 7, logged_ms=1_000)
    check_same_log(row, 1_000)
    check_same_log(row, None)
    with pytest.raises(LogMismatch, match="offset 7 was written at 2000"):
        check_same_log(row, 2_000)
