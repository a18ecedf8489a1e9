"""Schedules: when limits are larger or smaller than the document says, by the clock, the calendar or an event.

All that a schedule decides is a function of unix seconds: whether it is in force, and until when that holds. Local
times follow the time zone through every shift: one that a day does not have is read on the clock that was not put
forward yet (02:30 is 03:30 on that night), one that it has twice is its first.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from schemas.fields import (
    DAY_MINUTES,
    DocumentPart,
    Factor,
    Globs,
    Name,
    PolicyProblems,
    TimeOfDay,
    Zone,
    clock_text,
    glob_match,
)

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FOREVER_S = 1 << 40
"""A unix second that never comes."""


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("write a moment with its UTC offset, such as 2026-11-27T00:00:00+01:00")
    return value


Moment = Annotated[datetime, AfterValidator(_aware)]


class Schedule(DocumentPart):
    """A factor on limits and budgets: on days of the week, or from one moment to another."""

    name: Name
    """Unique among schedules."""
    rules: Globs
    """Names of limits and budgets, or globs of them, that it applies to."""
    multiply: Factor
    """What their limits are multiplied by while it is in force, as a percent. Several schedules multiply each other."""
    days: tuple[Day, ...] = DAYS
    """Days of the week on which it begins; left out: all."""
    from_: TimeOfDay = Field(default=0, alias="from")
    """Local time at which it begins, such as `"22:00"`; left out: midnight. Written `from`."""
    to: TimeOfDay = DAY_MINUTES
    """Local time at which it ends, on the next day if that is not after `from`; left out: midnight."""
    timezone: Zone = "UTC"
    """IANA name; days and times are its own, daylight saving included."""
    start: Moment | None = None
    """Instead of days and times: the moment at which it begins, with a UTC offset."""
    end: Moment | None = None
    """The moment at which it ends."""

    @model_validator(mode="after")
    def _schedule_is_of_one_mind(self) -> Self:
        problems = [*self._interval_problems(), *self._time_problems()]
        if self.multiply == 100:
            problems.append(("multiply", "100%", "changes nothing; write another percent"))
        if problems:
            raise PolicyProblems(problems)
        return self

    def _interval_problems(self) -> list[tuple[str, Any, str]]:
        dated = (self.start is not None) + (self.end is not None)
        if dated == 1:
            return [("end" if self.end is None else "start", None, "give start and end, or neither")]
        if dated and self.model_fields_set & {"days", "from_", "to", "timezone"}:
            return [("start", str(self.start), "give start and end, or days, from, to and timezone, but not both")]
        if self.start is not None and self.end is not None and self.end <= self.start:
            return [("end", str(self.end), "it has to be after start")]
        return []

    def _time_problems(self) -> list[tuple[str, Any, str]]:
        found: list[tuple[str, Any, str]] = []
        if not self.days:
            found.append(("days", [], "name at least one, or leave it out"))
        if self.from_ == self.to:
            found.append(("to", clock_text(self.to), "the same as from; leave both out for whole days"))
        if self.from_ == DAY_MINUTES:
            found.append(("from", "24:00", 'that is the next day; write "00:00" and that day'))
        return found

    def applies_to(self, rule: str) -> bool:
        """Tell whether the schedule is about the rule with this name."""
        return glob_match(self.rules, rule)

    def at(self, now_s: int) -> tuple[bool, int]:
        """Return whether it is in force at unix second `now_s`, and the second until which that is so at least."""
        if self.start is not None and self.end is not None:
            intervals = [(_second(self.start), _second(self.end))]
            horizon_s = FOREVER_S
        else:
            intervals, horizon_s = self._week(now_s)
        until_s = horizon_s
        for start_s, end_s in intervals:
            if start_s <= now_s < end_s:
                return True, end_s
            if now_s < start_s:
                until_s = min(until_s, start_s)
        return False, until_s

    def _week(self, now_s: int) -> tuple[list[tuple[int, int]], int]:
        """Return the intervals that begin from two days ago to a week ahead, and the second up to which that is all."""
        zone = ZoneInfo(self.timezone)
        today = datetime.fromtimestamp(now_s, zone).date()
        days = [today + timedelta(days=ahead) for ahead in range(-2, 9)]
        intervals = [self._interval(day, zone) for day in days if DAYS[day.weekday()] in self.days]
        return [pair for pair in intervals if pair[0] < pair[1]], _moment(days[-1], 0, zone)

    def _interval(self, day: date, zone: ZoneInfo) -> tuple[int, int]:
        next_day = self.to <= self.from_
        return _moment(day, self.from_, zone), _moment(day + timedelta(days=next_day), self.to, zone)


def _moment(day: date, minutes: int, zone: ZoneInfo) -> int:
    """Return the unix second of a local time."""
    day, minutes = day + timedelta(days=minutes // DAY_MINUTES), minutes % DAY_MINUTES
    local = datetime.combine(day, time(minutes // 60, minutes % 60), zone)
    return int(local.astimezone(UTC).timestamp())


def _second(moment: datetime) -> int:
    return int(moment.timestamp())
