"""Windows: calendar periods in a time zone, half-open, daylight saving included."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.windows import Period, Window, parse_span, parse_window, window_at


def _s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _utc(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        ("minute", "UTC", "2026-11-21T12:30:59+00:00", "2026-11-21T12:30", "2026-11-21T12:31"),
        ("hour", "UTC", "2026-11-21T12:30:00+00:00", "2026-11-21T12:00", "2026-11-21T13:00"),
        ("hour", "Asia/Kolkata", "2026-11-21T12:45:00+00:00", "2026-11-21T12:30", "2026-11-21T13:30"),
        ("day", "Europe/Berlin", "2026-11-21T23:30:00+00:00", "2026-11-21T23:00", "2026-11-22T23:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00:00+00:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("week", "UTC", "2026-11-21T12:00:00+00:00", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("month", "Europe/Berlin", "2026-10-31T23:30:00+00:00", "2026-10-31T23:00", "2026-11-30T23:00"),
        ("month", "UTC", "2024-02-29T00:00:00+00:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("quarter", "UTC", "2026-11-21T00:00:00+00:00", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("year", "UTC", "2026-12-31T23:59:59+00:00", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_a_moment_is_in_the_window_of_its_calendar(period: str, zone: str, now: str, start: str, end: str) -> None:
    """Days of 23 and 25 hours, zones with half hours, leap years, midnight elsewhere."""
    window = window_at(Period(period), zone, _s(now))
    assert (_utc(window.start), _utc(window.end)) == (start, end)


def test_the_end_of_a_window_is_in_the_next_one() -> None:
    """Half-open: no moment is in two windows."""
    window = window_at(Period.DAY, "UTC", _s("2026-11-21T12:00:00+00:00"))
    assert window_at(Period.DAY, "UTC", window.end - 1) == window
    assert window_at(Period.DAY, "UTC", window.end).start == window.end


def test_an_hour_repeated_by_daylight_saving_is_two_windows() -> None:
    """02:30 comes twice on that night, and each has its own count."""
    first, second = (window_at(Period.HOUR, "Europe/Berlin", _s(f"2026-10-25T0{hour}:30:00+00:00")) for hour in (0, 1))
    assert first.end == second.start


@pytest.mark.parametrize(
    ("zone", "around"),
    [("Australia/Lord_Howe", "2026-04-04T15:00:00+00:00"), ("Australia/Lord_Howe", "2026-10-03T15:30:00+00:00"),
     ("Pacific/Chatham", "2026-04-04T14:00:00+00:00"), ("Pacific/Chatham", "2026-09-26T14:00:00+00:00")],
)  # fmt: skip
def test_hours_leave_no_gap_where_clocks_shift_by_less_than_an_hour(zone: str, around: str) -> None:
    """Every second is in exactly the window that its own start names."""
    middle = _s(around)
    for at_s in range(middle - 2 * 3600, middle + 2 * 3600, 300):
        window = window_at(Period.HOUR, zone, at_s)
        assert window.start <= at_s < window.end
        assert window_at(Period.HOUR, zone, window.start) == window
        assert window_at(Period.HOUR, zone, window.end).start == window.end


def test_text_and_window_are_the_same() -> None:
    """What row keys carry can be read back."""
    window = Window("month", 1764547200, 1767225600)
    assert str(window) == "month@1764547200+2678400"
    assert parse_window(str(window)) == window


@pytest.mark.parametrize("text", ["", "month", "moon@1+2", "day@x+1", "day@1"])
def test_what_is_no_window_is_refused(text: str) -> None:
    """A period that does not exist, or numbers that are none."""
    with pytest.raises(ValueError):
        parse_window(text)


def test_rolling_windows_are_aligned_to_their_length() -> None:
    """Since 1970, whatever the time zone; without a length there is none."""
    span = parse_span("rolling 36h")
    window = span.window("Asia/Kolkata", 1_795_264_200)
    assert (window.start % 129_600, window.end - window.start, str(span)) == (0, 129_600, "rolling 36h")
    assert str(window) == f"rolling@{window.start}+129600"
    assert parse_window(str(window)) == window
    with pytest.raises(ValueError, match="needs its length"):
        window_at(Period.ROLLING, "UTC", 0)


@pytest.mark.parametrize("text", ["month", "rolling 30d", "rolling 90m", "rolling 5h"])
def test_spans_survive_being_written_and_read(text: str) -> None:
    """As documents say them; a span is one already."""
    assert str(parse_span(text)) == text
    assert parse_span(parse_span(text)) == parse_span(text)
