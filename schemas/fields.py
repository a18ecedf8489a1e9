"""The words of the policy document: names, durations, percents, amounts, attributes, and what they become.

Durations become milliseconds or seconds, percents whole numbers, money nano-USD, local times minutes of a day.
"""

from __future__ import annotations

import fnmatch
import re
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from schemas.money import parse_rate, parse_usd
from schemas.windows import Span, parse_span

ATTRIBUTES = ("org", "project", "team", "user", "key", "model", "provider", "route", "env", "tier")
"""What rules match on and count per, beside `tags.<name>`. `env` is short for `tags.env`."""

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_MODEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")
_DURATION = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)$")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME = re.compile(r"^([01]?\d|2[0-4]):([0-5]\d)$")
DAY_MINUTES = 24 * 60


def matching(pattern: re.Pattern[str], remedy: str) -> AfterValidator:
    """Return a validator that takes text of `pattern` and refuses other text with `remedy`."""

    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def _duration_ms(value: Any) -> Any:
    if not isinstance(value, str):
        return _no_bool(value)
    match = _DURATION.match(value)
    if match is None:
        raise ValueError("write a duration such as 500ms, 30s, 5m, 1h or 7d")
    return int(Decimal(match["number"]) * _UNITS_MS[match["unit"]])


def _percent(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        value = value[:-1]
    try:
        return int(_no_bool(value))
    except (TypeError, ValueError) as error:
        raise ValueError("write whole percents, such as 50% or 90%") from error


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except Exception as error:
        raise ValueError("name an IANA time zone such as UTC or Europe/Berlin") from error
    return value


def _attribute(value: str) -> str:
    if value in ATTRIBUTES or (value.startswith("tags.") and len(value) > 5):
        return value
    raise ValueError(f"use one of {', '.join(ATTRIBUTES)} or tags.<name>")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else value


def _globs(value: Any) -> Any:
    value = _listed(value)
    if isinstance(value, list | tuple):
        return tuple(str(glob) if isinstance(glob, int) and not isinstance(glob, bool) else glob for glob in value)
    return value


def _no_empty_negation(value: tuple[str, ...]) -> tuple[str, ...]:
    if "!" in value:
        raise ValueError('write a glob behind "!", such as "!gpt-4o-mini"')
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("write a number")
    return value


def _minutes(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 60:
        # YAML 1.1 reads 22:30 without quotes as 22 * 60 + 30, which is just what is meant.
        minutes = value
    else:
        match = _TIME.match(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('write a local time in quotes, such as "06:00" or "22:30"; "24:00" is the end of the day')
        minutes = int(match[1]) * 60 + int(match[2])
    if not 0 <= minutes <= DAY_MINUTES:
        raise ValueError('write a local time between "00:00" and "24:00"')
    return minutes


def clock_text(minutes: int) -> str:
    """Return minutes of a day as `22:30`."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def glob_match(globs: tuple[str, ...], value: str) -> bool:
    """Tell whether `value` is one of `globs` and none of those behind `!`; case matters."""
    wanted = [glob for glob in globs if not glob.startswith("!")]
    if wanted and not any(fnmatch.fnmatchcase(value, glob) for glob in wanted):
        return False
    return not any(fnmatch.fnmatchcase(value, glob[1:]) for glob in globs if glob.startswith("!"))


Name = Annotated[str, matching(_NAME, "use lower-case letters, digits, dot, dash and underscore, 63 at most")]
ModelName = Annotated[str, matching(_MODEL, "use letters, digits and . _ : / @ -, 128 at most")]
Milliseconds = Annotated[int, BeforeValidator(_duration_ms), Field(gt=0)]
Percent = Annotated[int, BeforeValidator(_percent), Field(gt=0, le=1000)]
Part = Annotated[int, BeforeValidator(_percent), Field(ge=0, le=100)]
"""A percentage of the whole: 0 to 100."""
Factor = Annotated[int, BeforeValidator(_percent), Field(ge=0, le=100_000)]
"""A percentage that something is multiplied by; 0 % closes it."""
Usd = Annotated[int, BeforeValidator(lambda value: parse_usd(_no_bool(value))), Field(ge=0)]
Rate = Annotated[int, BeforeValidator(lambda value: parse_rate(_no_bool(value)))]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1 << 53)]
Globs = Annotated[tuple[str, ...], BeforeValidator(_globs), Field(min_length=1), AfterValidator(_no_empty_negation)]
Attribute = Annotated[str, AfterValidator(_attribute)]
Zone = Annotated[str, AfterValidator(_zone)]
Tier = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=2)]
"""0 is the most important."""
PeriodText = Annotated[Span, PlainValidator(parse_span), PlainSerializer(str)]
TimeOfDay = Annotated[int, PlainValidator(_minutes), PlainSerializer(clock_text)]
"""Minutes since local midnight."""


class DocumentPart(BaseModel):
    """A part of the document: it cannot be changed, and a field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyProblems(ValueError):
    """Problems of a part or between parts, each (path, value, remedy); paths begin at the part that raises."""

    def __init__(self, problems: list[tuple[str, Any, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path}: {value!r}: {remedy}" for path, value, remedy in problems))
