"""Moments as people write them: `30d`, `today`, `2027-01-01`, an ISO time. Pure: callers bring `now`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"^(?P<number>\d+)(?P<unit>[mhdw])$")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WAYS = "a span such as 12h, 30d or 4w, a date such as 2027-01-01, a time such as 2027-01-01T12:00:00Z, today or now"


def past(text: str, now: datetime) -> datetime:
    """Return the moment that `text` names, a span counting back from `now`; ValueError says how to write one."""
    return _moment(text, now, -1)


def future(text: str, now: datetime) -> datetime:
    """Return the moment that `text` names, a span counting from `now` on; ValueError if it is not after `now`."""
    moment = _moment(text, now, 1)
    if moment <= now:
        raise ValueError(f"{text!r} is {moment.isoformat()}, which is past; name a later moment")
    return moment


def _moment(text: str, now: datetime, direction: int) -> datetime:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1),
             "tomorrow": midnight + timedelta(days=1)}  # fmt: skip
    if text in named:
        return named[text]
    if match := _SPAN.match(text):
        try:
            return now + direction * timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
        except OverflowError as error:
            raise ValueError(f"{text!r} is too far away; write {WAYS}") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no moment; write {WAYS}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def unix_ms(moment: datetime) -> int:
    """Return an aware moment as unix milliseconds."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def text_of_ms(value: int | None) -> str:
    """Return unix milliseconds as `2026-11-21 10:53:00Z`, or a dash for None."""
    if value is None:
        return "-"
    return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
