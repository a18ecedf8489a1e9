"""What is done about ledgers that differ: which steps, in which order, and what cannot be mended. Pure.

The events are believed, as far as they are all there: what is missing is read from the log again, what is there twice
becomes one, and then the rollups of the month are made anew. Rollups are never made of events that are known to lack
some: then they are the better witness, and both stay as they are. Nothing here touches limits or the meter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from meter.sink.core.watermarks import Run
from schemas.audits import Difference

ROLLUPS = ("usage_hourly", "usage_daily_actor", "usage_ledger_hourly")


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    what: str
    """`deduplicate`, `insert` or `rebuild`."""
    text: str
    month: int = 0
    partition: int = -1
    run: Run = ("", 0)
    first_offset: int = -1
    last_offset: int = -1


@dataclass(frozen=True)
class Plan:
    """What is to be done, in this order, and what nothing can be done about."""

    steps: list[Step]
    hopeless: list[str]


def plan(differences: Iterable[Difference], log_starts: dict[int, int]) -> Plan:
    """Return how to mend `differences`.

    Args:
        differences: of an audit of everything.
        log_starts: the first offset that the log still has, of each partition that can be read.
    """
    found = list(differences)
    hopeless = [different.text for different in found if not different.remedy]
    inserts, kept = [], set()
    for different in found:
        if different.remedy == "insert":
            step, why = _insert(different, log_starts)
            inserts += [step] if step is not None else []
            if why:
                hopeless.append(f"{different.text}: {why}")
                kept.add(different.month)
    twice = sorted({different.month for different in found if different.remedy == "deduplicate"})
    months = {different.month for different in found if different.month and different.remedy}
    steps = [Step("deduplicate", f"merge what is stored twice in month {month}", month) for month in twice]
    steps += inserts
    for month in sorted(months):
        if month in kept:
            hopeless.append(f"month {month}: its rollups stay as they are, because they know of events that are gone")
        else:
            steps.append(rebuild(month))
    return Plan(steps, hopeless)


def rebuild(month: int) -> Step:
    """Return the step that makes the rollups of a month anew."""
    return Step("rebuild", f"make {', '.join(ROLLUPS)} of month {month} anew from the events", month)


def _insert(different: Difference, log_starts: dict[int, int]) -> tuple[Step | None, str]:
    start = log_starts.get(different.partition)
    if start is None:
        return None, f"partition {different.partition} is not this history's to read"
    first, last = max(different.first_offset, start), different.last_offset
    if last < start:
        return None, f"the log begins at offset {start} now"
    text = (
        f"read partition {different.partition} again from offset {first} to {last} and insert what "
        f"{different.key} lacks"
    )
    step = Step("insert", text, different.month, different.partition, run_of(different.key), first, last)
    # Before its first record a run has nothing on the log: only what was there once is missed.
    lacks = different.month and start > different.first_offset
    return step, f"the log begins at offset {start} now" if lacks else ""


def run_of(key: str) -> Run:
    """Return the run in `instance=<name>/epoch=<n>`, which may go on with an hour."""
    instance, _, rest = key.rpartition("/epoch=")
    return instance.removeprefix("instance="), int(rest.partition("/")[0])


def repair_token(ids: Iterable[bytes], month: int) -> str:
    """Return the name of rows that are inserted by a repair: the same rows, the same name."""
    return f"repair/{hashlib.sha256(b''.join(sorted(ids))).hexdigest()[:32]}/{month}"


def stage_of(rollup: str) -> str:
    """Return the name of the table that a rollup is made anew in."""
    return f"repair_{rollup}"


def anew(feed: str, month: int) -> str:
    """Return the query of a feed over the events of one month, each once.

    Raises:
        ValueError: it does not read `usage_events AS e`.
    """
    head, found, tail = feed.rpartition("usage_events AS e")
    if not found or not tail.lstrip().startswith("GROUP BY"):
        raise ValueError(f"a feed is not as it was made: {feed!r}")
    return f"{head}usage_events AS e FINAL WHERE toYYYYMM(e.occurred_at) = {month}{tail}"
