"""Where the sink goes on."""

from __future__ import annotations

import pytest

from meter.sink.core.mark import Mark
from meter.sink.core.resume import Found, LogMismatch, resume
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
        pytest.param(Found(5, mark(None), 4, 0, 9), 5, None, 0, id="stopped cleanly"),
        pytest.param(Found(5, mark(None), 2, 0, 9), 5, None, 0, id="last records had no rows"),
        pytest.param(Found(5, mark(7), 4, 0, 9), 5, 7, 0, id="killed before the insert"),
        pytest.param(Found(5, mark(7), 7, 0, 9), 5, 7, 0, id="killed after the insert"),
        pytest.param(Found(5, mark(7), 6, 0, 9), 5, 7, 0, id="killed within the insert"),
        pytest.param(Found(5, mark(5), 4, 0, 9), 5, 5, 0, id="a batch of one record"),
        pytest.param(Found(8, mark(7), 7, 0, 9), 8, None, 0, id="a mark that was overtaken"),
        pytest.param(Found(5, None, 7, 0, 9), 8, None, 0, id="mark lost, rows there"),
        pytest.param(Found(None, None, 7, 0, 9), 8, None, 0, id="group forgotten, rows there"),
        pytest.param(Found(5, mark(None), 4, 7, 9), 7, None, 2, id="the log dropped records"),
        pytest.param(Found(3, mark(5), 2, 7, 9), 7, None, 4, id="the log dropped the batch in flight"),
        pytest.param(Found(3, mark(8), 2, 7, 9), 7, 8, 4, id="the log dropped part of the batch in flight"),
    ],
)
def test_position_and_what_is_sent_again(found: Found, position: int, resend_to: int | None, lost: int) -> None:
    """The sink goes on where nothing is missed, and sends again what may not be whole."""
    start = resume(found)
    assert (start.position, start.resend_to, start.lost) == (position, resend_to, lost)


@pytest.mark.parametrize(
    "found", [Found(9, mark(None), None, 0, 5), Found(None, None, 5, 0, 5), Found(3, mark(None), 7, 0, 7)]
)
def test_another_log_is_refused(found: Found) -> None:
    """Offsets that have been read and are not on the log are not guessed about."""
    with pytest.raises(LogMismatch, match="made anew or truncated"):
        resume(found)


def test_watermarks_are_exact_only_where_nothing_was_missed() -> None:
    """From the mark they are exact; with the mark, or records of the log, gone they are lower bounds."""
    assert resume(Found(5, mark(7), 4, 0, 9)).watermarks.judge(("a", 1), 5) is Judgement.GAP
    assert resume(Found(5, mark(None), 6, 0, 9)).watermarks.judge(("a", 1), 5) is Judgement.COUNTS
    assert resume(Found(5, mark(None), 4, 7, 9)).watermarks.judge(("a", 1), 5) is Judgement.COUNTS
    assert resume(Found(None, None, None, 0, 9)).watermarks.judge(("a", 1), 2) is Judgement.GAP
    assert resume(Found(4, None, None, 0, 9)).watermarks.judge(("a", 1), 2) is Judgement.COUNTS
