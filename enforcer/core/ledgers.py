"""Where the meter's ledger differs: from what replicas told, and from the history's sums by hour, run and day. Pure.

Theory
------
Compared are only sums of the same records. Of the meter, what an entry of a run says is of the entry's fence, and so
are its hours: a snapshot has hours before runs. Of the history, all sums are of the audit's position.

* A run: where it has told both the same, or where the history is further on and has nothing of it from there. Sums of
  a run only grow with its records, so the same word is the same record.
* An hour of a run: where the run can be compared; or where all of the hour that one has is below where the other has
  come to. Then neither has events of it that the other has not had, whatever has come since. So the hours of a replica
  that never rests are compared as soon as they are over.
* A day of an organisation: where that holds for every hour of the day of every run in every partition.

What is on its way is none of these. The narrowest is named: of a run whose hours tell what differs, the hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from enforcer.core.quota import Shard
from schemas.audits import Audit, Difference, HourSums, RunSums
from schemas.quota import LedgerState, Place, hour_key, hour_of, run_key
from schemas.usage import Totals

TOLD_AND_METER, METER_AND_HISTORY = "told ≠ meter", "meter ≠ history"
HOURS_A_DAY = 24
_EPOCH = date(1970, 1, 1)
_NOTHING = Totals()


class Sides(NamedTuple):
    """One run in one partition, as both have it."""

    key: str
    entry: LedgerState
    fence: int
    """The meter's entry, and its hours, are the sums below this offset."""
    hours: Mapping[int, LedgerState]
    """The meter's, as of that fence; those that are further on are `ahead`."""
    ahead: frozenset[int]
    run: RunSums | None
    theirs: Mapping[int, HourSums]
    """The history's."""

    @property
    def since(self) -> int | None:
        """From which hour on the meter has all."""
        return self.entry.hours_from


def of_shard(shard: Shard, audit: Audit | None) -> Iterator[Difference]:
    """Yield where one partition differs, by run, and by run and hour: the earliest hour first."""
    for run in _runs(shard, audit):
        entry, below = run.entry, Place(0, 0, 0, run.fence - 1)
        hours = [] if audit is None or not shard.whole else list(_hours(run, audit))
        yield from hours
        if entry.told is not None and entry.told != entry.totals:
            yield _difference(TOLD_AND_METER, run.key, entry.told, entry.totals, shard.partition, below)
        if hours or audit is None or run.run is None or run.run.sums == entry.totals:
            continue
        if _are_of_one_record(run, audit):
            yield _difference(METER_AND_HISTORY, run.key, entry.totals, run.run.sums, shard.partition, below)


def of_days(shards: Sequence[Shard], audits: Mapping[int, Audit]) -> Iterator[Difference]:
    """Yield the organisations and days that differ, of days of which both have had the same."""
    told = [audits[shard.partition] for shard in shards if shard.partition in audits]
    begins = [audit.days_from for audit in told if audit.days_from is not None]
    is_one = len({audit.at_ms for audit in told}) == 1
    between = all(shard.whole and shard.fence == shard.settled_fence for shard in shards)
    if len(begins) < len(shards) or not is_one or not between:  # a day has no hours where all of it came late
        return
    theirs: dict[int, dict[str, Totals]] = {}
    for audit in told:
        for one in audit.days:
            theirs.setdefault(one.day, {})[one.org] = one.sums
    ours = _days(shards, max(begins))
    runs = [(audits[shard.partition], list(_runs(shard, audits[shard.partition]))) for shard in shards]
    for day in sorted(day for day in ours.keys() | theirs.keys() if day >= max(begins)):
        if all(_is_settled(run, audit, day) for audit, some in runs for run in some):
            yield from _of_day(day, ours.get(day, {}), theirs.get(day, {}))


def _runs(shard: Shard, audit: Audit | None) -> Iterator[Sides]:
    """Yield every run of a partition that the meter knows; and, where all it has is known, those that it should."""
    known: dict[str, tuple[int, LedgerState]] = {}
    hours: dict[str, dict[int, tuple[int, LedgerState]]] = {}
    for key, held in shard.ledger.items():
        if key.startswith("instance="):
            found = hour_of(key)
            if found is None:
                known[key] = held
            else:
                hours.setdefault(found[0], {})[found[1]] = held
    theirs: dict[str, dict[int, HourSums]] = {}
    told: dict[str, RunSums] = {}
    if audit is not None:
        told = {run_key(run.instance, run.epoch): run for run in audit.runs}
        for one in audit.hours:
            theirs.setdefault(run_key(one.instance, one.epoch), {})[one.hour] = one
    for key in hours.keys() - known.keys():  # its entry is in a part of the snapshot that is still to come
        known[key] = (-1, LedgerState(key, _NOTHING, None))
    if shard.whole:
        for key in sorted(theirs.keys() - known.keys()):  # the meter has nothing of it
            known[key] = (shard.settled_fence, LedgerState(key, _NOTHING, None, hours_from=0))
    for key, (fence, entry) in known.items():
        of_run = hours.get(key, {})
        ours = {hour: one for hour, (_, one) in of_run.items()}
        ahead = frozenset(hour for hour, (at, _) in of_run.items() if at > fence)
        yield Sides(key, entry, fence, ours, ahead, told.get(key), theirs.get(key, {}))


def _hours(run: Sides, audit: Audit) -> Iterator[Difference]:
    if run.since is None or audit.hours_from is None:
        return
    since = max(run.since, audit.hours_from)
    for hour in sorted(hour for hour in run.hours.keys() | run.theirs.keys() if hour >= since):
        one, two = run.hours.get(hour), run.theirs.get(hour)
        ours, theirs = one.totals if one else _NOTHING, two.sums if two else _NOTHING
        if ours != theirs and _is_of_the_same(run, audit, hour):
            places = [side.place for side in (one, two) if side is not None and side.place is not None]
            key = hour_key(run.key, hour)
            yield _difference(METER_AND_HISTORY, key, ours, theirs, audit.partition, _together(places))


def _is_of_the_same(run: Sides, audit: Audit, hour: int) -> bool:
    """Whether the sums of an hour that both have all of are of the same records."""
    if hour in run.ahead:
        return False
    if run.run is not None and _are_of_one_record(run, audit):
        return True
    one, two = run.hours.get(hour), run.theirs.get(hour)
    ours = -1 if one is None or one.place is None else one.place.last_offset
    return ours < audit.position and (two is None or two.place.last_offset < run.fence)


def _are_of_one_record(run: Sides, audit: Audit) -> bool:
    if run.run is None or run.entry.told is None:
        return False
    if run.run.told == run.entry.told:
        return True
    return audit.position >= run.fence > run.run.last_offset >= 0


def _is_settled(run: Sides, audit: Audit, day: int) -> bool:
    """Whether both have had the same of a run and a day."""
    begin, end = day * HOURS_A_DAY, (day + 1) * HOURS_A_DAY
    if run.run is not None and _are_of_one_record(run, audit):
        return not any(begin <= hour < end for hour in run.ahead)
    if run.since is None or audit.hours_from is None or begin < max(run.since, audit.hours_from):
        return False
    hours = (hour for hour in run.hours.keys() | run.theirs.keys() if begin <= hour < end)
    return all(_is_of_the_same(run, audit, hour) for hour in hours)


def _days(shards: Sequence[Shard], since: int) -> dict[int, dict[str, Totals]]:
    """Return the meter's sums by day, from one on, and organisation, those of all partitions together."""
    found: dict[int, dict[str, Totals]] = {}
    begin = _iso(since)
    for shard in shards:
        for key, (_, entry) in shard.ledger.items():
            org, _, text = key.rpartition("/day=")
            if org.startswith("org=") and text >= begin:
                day = (date.fromisoformat(text) - _EPOCH).days
                into = found.setdefault(day, {}).setdefault(org.removeprefix("org="), Totals())
                into.include(entry.totals)
    return found


def _of_day(day: int, ours: Mapping[str, Totals], theirs: Mapping[str, Totals]) -> Iterator[Difference]:
    for org in sorted(ours.keys() | theirs.keys()):
        one, two = ours.get(org, _NOTHING), theirs.get(org, _NOTHING)
        if one != two:
            yield Difference(METER_AND_HISTORY, f"org={org}/day={_iso(day)}", _fields(one, two))


def _iso(day: int) -> str:
    return (_EPOCH + timedelta(day)).isoformat()


def _together(places: Sequence[Place]) -> Place:
    """Return the range of all places."""
    return Place(
        min(place.first_seq for place in places), max(place.last_seq for place in places),
        min(place.first_offset for place in places), max(place.last_offset for place in places),
    )  # fmt: skip


def _difference(ledgers: str, key: str, one: Totals, two: Totals, partition: int, place: Place) -> Difference:
    return Difference(
        ledgers, key, _fields(one, two), partition, place.first_seq, place.last_seq, place.first_offset,
        place.last_offset,
    )  # fmt: skip


def _fields(one: Totals, two: Totals) -> dict[str, list[int]]:
    return {
        name: [left, right]
        for name in Totals.__struct_fields__
        if (left := getattr(one, name)) != (right := getattr(two, name))
    }
