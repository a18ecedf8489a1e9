"""Laws of windows: they tile time without gap or overlap, in every zone, through every shift of clocks."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.rows import RowKey, parse_row_key
from schemas.windows import Period, Window, parse_window, window_at

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Kolkata", "Asia/Beirut",
    "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia", "America/St_Johns",
)  # fmt: skip
LENGTH_S = 30 * 86_400
moments = st.integers(1_000_000_000, 2_100_000_000)


@given(st.sampled_from(list(Period)), st.sampled_from(ZONES), moments)
@example(Period.HOUR, "Australia/Lord_Howe", 1_775_314_799)
@example(Period.HOUR, "Pacific/Chatham", 1_775_311_200)
@example(Period.DAY, "Africa/Cairo", 1_777_017_600)
@example(Period.DAY, "America/Sao_Paulo", 1_541_300_400)
def test_windows_tile_time(period: Period, zone: str, at_s: int) -> None:
    """A moment is in its window, which all of its moments share, and the next one begins where it ends."""
    length_s = LENGTH_S if period is Period.ROLLING else 0
    window = window_at(period, zone, at_s, length_s)
    assert window.start <= at_s < window.end
    assert window_at(period, zone, window.start, length_s) == window
    assert window_at(period, zone, window.end - 1, length_s) == window
    assert window_at(period, zone, window.end, length_s).start == window.end
    assert window_at(period, zone, window.start - 1, length_s).end == window.start


@given(st.sampled_from(list(Period)), st.integers(0, 2**40), st.integers(1, 2**30))
def test_windows_survive_being_written_and_read(period: Period, start: int, length: int) -> None:
    """In text as in row keys."""
    window = Window(period.value, start, start + length)
    assert parse_window(str(window)) == window


@given(
    st.lists(st.tuples(st.sampled_from(["org", "team", "key", "model"]), st.text(max_size=12)), min_size=1, max_size=4)
)
def test_row_keys_survive_being_written_and_read(scope: list[tuple[str, str]]) -> None:
    """Whatever the values hold; and different scopes have different keys."""
    key = RowKey("rule", "cost", tuple(scope), Window("day", 0, 86_400))
    assert parse_row_key(key.encode()) == key
    assert key.encode().count("/") == 3
