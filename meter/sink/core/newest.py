"""What an audit tells of the newest hours and days, for the meter's sums to be compared with. Pure.

Hours are by run, of one partition: they are of its position. Days are by organisation, of all partitions: only a
history that reads all of them, of one log, can say at which positions they are. Of too many, the oldest are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, TypeVar

from meter.sink.core.audit import DAY_S, HOUR_S, group
from schemas.audits import DaySums, HourSums
from schemas.ids import shard_of
from schemas.quota import Place
from schemas.usage import Totals

HOURS_TOLD = 1_500
"""Of a partition: thirty replicas, each for two days. A record on the topic holds a million bytes, this a third."""
DAYS_TOLD = 1_500
"""Of a partition's organisations: another third."""
_EPOCH = date(1970, 1, 1)

One = TypeVar("One")


class Hours(NamedTuple):
    """The hours of one partition from one on."""

    told: list[HourSums]
    since: int


class Days(NamedTuple):
    """The days of some organisations from one on; None: they cannot be told."""

    told: list[DaySums]
    since: int | None


def since_s(now_s: int) -> int:
    """Return where the newest days begin, in unix seconds: yesterday, which the meter has the hours of all day."""
    return (now_s // DAY_S - 1) * DAY_S


def hours_of(rows: Iterable[Sequence[Any]], source: tuple[str, str, int], now_s: int) -> Hours:
    """Return the hours of the partition `source` (log, topic, number) by the rows of `audit.RUN_HOURS` since then."""
    found = []
    for log, topic, partition, instance, epoch, hour, *values in rows:
        if (log, topic, int(partition)) == source:
            sums = group(values)
            found.append(HourSums(str(instance), int(epoch), int(hour) // HOUR_S, Totals(*sums.sums), Place(*sums[3:])))
    found.sort(key=lambda one: (one.hour, one.instance, one.epoch))
    return Hours(*_bounded(found, [one.hour for one in found], HOURS_TOLD, since_s(now_s) // HOUR_S))


def are_of_one_log(rows: Iterable[Sequence[Any]], sources: Collection[tuple[str, str, int]]) -> bool:
    """Return whether all rows of `audit.RUN_HOURS` are from `sources`: none of another log, or of a partition more."""
    return {(log, topic, int(partition)) for log, topic, partition, *_ in rows} <= set(sources)


def days_of(rows: Iterable[Sequence[Any]], partitions: int, now_s: int) -> Mapping[int, Days]:
    """Return the days by the rows of `audit.ORG_DAYS` since then, shared out to `partitions` by organisation."""
    found: dict[int, list[DaySums]] = {number: [] for number in range(partitions)}
    for org, day, *values in rows:
        told = DaySums(str(org), (day - _EPOCH).days, Totals(*group(values).sums))
        found[shard_of(told.org, partitions)].append(told)
    for some in found.values():
        some.sort(key=lambda one: (one.day, one.org))
    begin = since_s(now_s) // DAY_S
    return {
        number: Days(*_bounded(some, [one.day for one in some], DAYS_TOLD, begin)) for number, some in found.items()
    }


def _bounded(found: list[One], times: list[int], most: int, since: int) -> tuple[list[One], int]:
    """Return what of `found`, in the order of `times`, is not too much, and from which time on that is everything."""
    if len(found) <= most:
        return found, since
    last_left_out = times[-most - 1]
    first = next((place for place, when in enumerate(times) if when > last_left_out), len(times))
    return found[first:], last_left_out + 1
