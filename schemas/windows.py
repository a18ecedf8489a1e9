"""Windows: half-open intervals [start, end) of unix seconds that limits and budgets count in.

Calendar periods follow the rule's time zone, daylight saving included, so a day may have 23 or 25 hours. The window
is part of every row's key: nothing is ever reset.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Period(enum.StrEnum):
    """How long a window is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"
    ROLLING = "rolling"
    """As long as its rule says; aligned to multiples of that length since 1970, and it slides as the minute does."""


CALENDAR = tuple(period for period in Period if period not in (Period.MINUTE, Period.ROLLING))
"""Periods that follow a time zone; they end all at once."""
_ROLLING = re.compile(r"^rolling (?P<number>[1-9]\d*)(?P<unit>[mhd])$")
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}
MINUTE_S = 60
MAX_ROLLING_S = 366 * 86_400


class Window(NamedTuple):
    """A half-open interval of unix seconds and the period that it is one of."""

    period: str
    start: int
    end: int

    def __str__(self) -> str:
        """Return the text that row keys carry: `month@1764547200+2678400`."""
        return f"{self.period}@{self.start}+{self.end - self.start}"


class Span(NamedTuple):
    """What a rule counts over: a period and, if that is a rolling one, its length."""

    period: Period
    length_s: int = 0
    """Of a minute or a rolling period, which slide; 0 for periods of the calendar."""

    def __str__(self) -> str:
        """Return what the document says: `month`, `rolling 30d`."""
        if self.period is not Period.ROLLING:
            return self.period.value
        units = (*((unit, _UNITS_S[unit]) for unit in ("d", "h", "m")), ("s", 1))
        unit, length_s = next(found for found in units if self.length_s % found[1] == 0)
        return f"rolling {self.length_s // length_s}{unit}"

    @property
    def slides(self) -> bool:
        """Whether the window before counts in, less and less."""
        return self.length_s > 0

    def window(self, zone: str, now_s: int) -> Window:
        """Return the window that holds unix second `now_s`."""
        return window_at(self.period, zone, now_s, self.length_s)


MINUTE = Span(Period.MINUTE, MINUTE_S)


def parse_span(text: object) -> Span:
    """Return the span that a document says; ValueError with the remedy if it is none."""
    if isinstance(text, Span):
        return text
    if isinstance(text, str):
        if text == Period.MINUTE:
            return MINUTE
        if text in CALENDAR:
            return Span(Period(text))
        match = _ROLLING.match(text)
        length_s = int(match["number"]) * _UNITS_S[match["unit"]] if match else 0
        if 0 < length_s <= MAX_ROLLING_S:
            return Span(Period.ROLLING, length_s)
    known = ", ".join(period.value for period in (Period.MINUTE, *CALENDAR))
    raise ValueError(f'use one of {known}, or a rolling one such as "rolling 30d" (m, h or d; 366d at most)')


def parse_window(text: str) -> Window:
    """Return the window of a text made by `str(window)`; ValueError if it is none."""
    period, _, rest = text.partition("@")
    start, _, length = rest.partition("+")
    return Window(Period(period).value, int(start), int(start) + int(length))


def window_at(period: Period, zone: str, now_s: int, length_s: int = 0) -> Window:
    """Return the window of `period` in IANA time zone `zone` that holds unix second `now_s`.

    `length_s` is the length of a rolling period; ValueError if it is missing there.
    """
    if period in (Period.MINUTE, Period.ROLLING):
        length_s = MINUTE_S if period is Period.MINUTE else length_s
        if length_s <= 0:
            raise ValueError(f"a rolling period needs its length in seconds, not {length_s}")
        start = now_s - now_s % length_s
        return Window(period.value, start, start + length_s)
    if period is Period.HOUR:
        return _hour(ZoneInfo(zone), now_s)
    local = datetime.fromtimestamp(now_s, ZoneInfo(zone))
    first = _floor(period, local)
    return Window(period.value, _unix(first), _unix(_next(period, first)))


def _hour(zone: ZoneInfo, now_s: int) -> Window:
    """Return the local hour: an hour repeated by daylight saving is two, one cut by a shift of minutes is shorter."""
    offset = _offset(zone, now_s)
    start = now_s - (now_s + offset) % 3600
    end = start + 3600
    if (_offset(zone, start) - offset) % 3600:
        start = _shift(zone, start, now_s)
    if (_offset(zone, end - 1) - offset) % 3600:
        end = _shift(zone, now_s, end - 1)
    return Window(Period.HOUR.value, start, end)


def _shift(zone: ZoneInfo, before: int, after: int) -> int:
    """Return the first second with the offset of `after`, which is not that of `before`."""
    offset = _offset(zone, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == offset:
            after = middle
        else:
            before = middle
    return after


def _offset(zone: ZoneInfo, at_s: int) -> int:
    return int((datetime.fromtimestamp(at_s, zone).utcoffset() or timedelta()).total_seconds())


def _floor(period: Period, local: datetime) -> datetime:
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.DAY:
        return day
    if period is Period.WEEK:
        return _midnight(day, -day.weekday())
    first = day.replace(day=1)
    if period is Period.MONTH:
        return first
    if period is Period.QUARTER:
        return first.replace(month=3 * ((first.month - 1) // 3) + 1)
    return first.replace(month=1)


def _next(period: Period, first: datetime) -> datetime:
    if period is Period.DAY:
        return _midnight(first, 1)
    if period is Period.WEEK:
        return _midnight(first, 7)
    months = {Period.MONTH: 1, Period.QUARTER: 3, Period.YEAR: 12}[period]
    years, month = divmod(first.month - 1 + months, 12)
    return first.replace(year=first.year + years, month=month + 1)


def _midnight(day: datetime, days: int) -> datetime:
    return (day + timedelta(days=days)).replace(hour=0, fold=0)


def _unix(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())
