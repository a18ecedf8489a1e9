"""The history's ledgers against each other and against what replicas told: queries, and where they differ. Pure.

Compared are, of a span of whole hours, the events (each once) with the rollups by run and hour, by organisation and
hour and, of whole days, by organisation and day; and of whole runs, what the last record told with the rollup by run.
All of it is read while no batch is under way, so both sides of a comparison are of the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from meter.sink.core.books import Books, Entry
from meter.sink.core.ledger import FIELDS
from meter.sink.core.watermarks import Run
from schemas.audits import Difference, RunSums
from schemas.quota import hour_key, hour_text, run_key
from schemas.usage import Totals

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
KEPT_S = 390 * DAY_S
"""Events are kept for 400 days, rollups for longer: what is older is not compared, and never rebuilt."""
MAX_DIFFERENCES = 100
RUNS_TOLD = 200
"""Runs of a partition that an audit tells of, the last heard of first."""

_INPUT = (
    "tokens_input + {0}.tokens_cache_read + {0}.tokens_cache_write + {0}.tokens_cache_write_1h"
    " + {0}.tokens_audio_input + {0}.tokens_image_input"
)
_OUTPUT = "tokens_output + {0}.tokens_reasoning + {0}.tokens_audio_output + {0}.tokens_image_output"
_ROLLUP = (
    f"sum(t.events), sum(t.requests), sum(t.{_INPUT.format('t')}), sum(t.{_OUTPUT.format('t')}), sum(t.cost_usd),"
    " sum(t.unpriced_events), sum(t.charge_usd)"
)
_LEDGER = (
    "sum(t.events), sum(t.requests), sum(t.input_tokens), sum(t.output_tokens), sum(t.cost_usd), sum(t.unpriced),"
    " sum(t.charge_usd)"
)
_LEDGER_MORE = "sum(t.rows), sum(t.digest), min(t.first_seq), max(t.last_seq), min(t.first_offset), max(t.last_offset)"
_RUN = "src_log, src_topic, src_partition, instance, epoch"
_SINCE = "toDateTime({since:Int64}, 'UTC')"
_UNTIL = "toDateTime({until:Int64}, 'UTC')"
# The type of a column has to be met: against a DateTime the engine leaves out the part of the last second of a month.
_HOURS = f"t.hour >= {_SINCE} AND t.hour < {_UNTIL}"
_LIMITS = "SETTINGS max_execution_time = 60, do_not_merge_across_partitions_select_final = 1"
# Names and expressions are this module's own; bounds are bound.
EVENTS = f"""
    SELECT {_RUN}, t.org, toUnixTimestamp(toStartOfHour(toDateTime(t.occurred_at, 'UTC'))) AS hour,
        sum(t.stands_for), sum(t.charge_requests), sum(t.{_INPUT.format("t")}), sum(t.{_OUTPUT.format("t")}),
        sum(ifNull(t.cost_usd, toDecimal64(0, 9))), sumIf(t.stands_for, t.cost_usd IS NULL), sum(t.charge_usd),
        toInt64(count()), sum(cityHash64(t.id)), min(t.seq), max(t.seq), min(t.src_offset), max(t.src_offset)
    FROM usage_events AS t FINAL
    WHERE t.occurred_at >= toDateTime64({{since:Int64}}, 3, 'UTC')
        AND t.occurred_at < toDateTime64({{until:Int64}}, 3, 'UTC')
    GROUP BY {_RUN}, t.org, hour {_LIMITS}
"""  # noqa: S608
RUN_HOURS = f"""
    SELECT {_RUN}, toUnixTimestamp(t.hour), {_LEDGER}, {_LEDGER_MORE}
    FROM usage_ledger_hourly AS t WHERE {_HOURS} GROUP BY {_RUN}, t.hour {_LIMITS}
"""  # noqa: S608
ORG_HOURS = f"""
    SELECT t.org, toUnixTimestamp(t.hour), {_ROLLUP} FROM usage_hourly AS t WHERE {_HOURS}
    GROUP BY t.org, t.hour {_LIMITS}
"""  # noqa: S608
ORG_DAYS = f"""
    SELECT t.org, t.day, {_ROLLUP} FROM usage_daily_actor AS t
    WHERE t.day >= toDate({_SINCE}, 'UTC') AND t.day < toDate({_UNTIL}, 'UTC') GROUP BY t.org, t.day {_LIMITS}
"""  # noqa: S608
RUNS = f"""
    SELECT t.instance, t.epoch, {_LEDGER}, {_LEDGER_MORE} FROM usage_ledger_hourly AS t
    WHERE t.src_log = {{log:String}} AND t.src_topic = {{topic:String}} AND t.src_partition = {{partition:Int32}}
    GROUP BY t.instance, t.epoch {_LIMITS}
"""  # noqa: S608
DAYS = f"SELECT DISTINCT toDate(t.hour, 'UTC') AS day FROM usage_ledger_hourly AS t WHERE {_HOURS} ORDER BY day"  # noqa: S608
TWICE = f"""
    SELECT month, sum(stored), sum(once) FROM (
        SELECT toYYYYMM(t.occurred_at) AS month, toInt64(count()) AS stored, toInt64(0) AS once
        FROM usage_events AS t GROUP BY month
        UNION ALL
        SELECT toYYYYMM(t.occurred_at) AS month, toInt64(0) AS stored, toInt64(count()) AS once
        FROM usage_events AS t FINAL GROUP BY month
    ) GROUP BY month HAVING sum(stored) != sum(once) ORDER BY month {_LIMITS}
"""  # noqa: S608


class Span(NamedTuple):
    """The half-open time [since, until) in unix seconds, both on the hour."""

    since: int
    until: int

    @property
    def whole_days(self) -> bool:
        """Whether it begins and ends with a day."""
        return self.since % DAY_S == 0 and self.until % DAY_S == 0


class Group(NamedTuple):
    """Sums of rows, in the order of `FIELDS`, and where they are in the log."""

    sums: tuple[int, ...]
    rows: int = 0
    digest: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_offset: int = -1
    last_offset: int = -1

    def plus(self, other: Group) -> Group:
        """Return both together."""
        return Group(
            tuple(one + two for one, two in zip(self.sums, other.sums, strict=True)),
            self.rows + other.rows, (self.digest + other.digest) % 2**64,
            min(self.first_seq, other.first_seq), max(self.last_seq, other.last_seq),
            min(self.first_offset, other.first_offset), max(self.last_offset, other.last_offset),
        )  # fmt: skip


NOTHING = Group((0,) * len(FIELDS))
Groups = Mapping[tuple[Any, ...], Group]


class Tables(NamedTuple):
    """What the tables say of a span: rows of the queries of the same names."""

    events: Sequence[Sequence[Any]]
    run_hours: Sequence[Sequence[Any]]
    org_hours: Sequence[Sequence[Any]]
    org_days: Sequence[Sequence[Any]]
    """Empty unless the span is of whole days."""


def group(values: Sequence[Any]) -> Group:
    """Return the sums in a row of a query, its key left out."""
    sums = tuple(
        int(Decimal(value).scaleb(9)) if name.endswith("_nanos") else int(value)
        for name, value in zip(FIELDS, values, strict=False)
    )
    return Group(sums, *(int(value) for value in values[len(FIELDS) :]))


def within(span: Span, tables: Tables) -> list[Difference]:
    """Return where events and rollups differ in a span, the earliest first."""
    by_run: dict[tuple[Any, ...], Group] = {}
    by_org: dict[tuple[Any, ...], Group] = {}
    by_day: dict[tuple[Any, ...], Group] = {}
    for log, topic, partition, instance, epoch, org, hour, *values in tables.events:
        found = group(values)
        day = datetime.fromtimestamp(int(hour), UTC).date()
        for sums, key in (
            (by_run, (log, topic, int(partition), instance, int(epoch), int(hour))),
            (by_org, (org, int(hour))),
            (by_day, (org, day)),
        ):
            sums[key] = found if key not in sums else sums[key].plus(found)
    run_hours = {
        (log, topic, int(partition), instance, int(epoch), int(hour)): group(values)
        for log, topic, partition, instance, epoch, hour, *values in tables.run_hours
    }
    org_hours = {(org, int(hour)): group(values) for org, hour, *values in tables.org_hours}
    differing = _differing("history ≠ usage_ledger_hourly", by_run, run_hours, _of_run, _same_rows)
    differing += _differing("history ≠ usage_hourly", by_org, org_hours, _of_org, _same_sums)
    if span.whole_days:
        org_days = {(org, day): group(values) for org, day, *values in tables.org_days}
        differing += _differing("history ≠ usage_daily_actor", by_day, org_days, _of_day, _same_sums)
    return differing[:MAX_DIFFERENCES]


def _differing(ledgers: str, events: Groups, rollup: Groups, name: Any, same: Any) -> list[Difference]:
    found = []
    for key in sorted(events.keys() | rollup.keys()):
        one, two = events.get(key, NOTHING), rollup.get(key, NOTHING)
        if not same(one, two):
            where, partition, month = name(key)
            place = two if one is NOTHING else one if two is NOTHING else one.plus(two)
            remedy = "insert" if one.rows < two.rows else "rebuild"
            found.append(Difference(ledgers, where, fields_of(one, two), partition, *place[3:], month, remedy))
    return found


def fields_of(one: Group, two: Group) -> dict[str, list[int]]:
    """Return the sums that differ, by name."""
    differing = {
        name: [left, right] for name, left, right in zip(FIELDS, one.sums, two.sums, strict=True) if left != right
    }
    return differing or {"rows": [one.rows, two.rows], "digest": [one.digest, two.digest]}


def _same_rows(one: Group, two: Group) -> bool:
    return one[:3] == two[:3]


def _same_sums(one: Group, two: Group) -> bool:
    return one.sums == two.sums


def _of_run(key: tuple[Any, ...]) -> tuple[str, int, int]:
    _, _, partition, instance, epoch, hour = key
    return hour_key(run_key(instance, epoch), hour // HOUR_S), partition, _month(hour)


def _of_org(key: tuple[Any, ...]) -> tuple[str, int, int]:
    return f"org={key[0]}/hour={hour_text(key[1] // HOUR_S)}", -1, _month(key[1])


def _of_day(key: tuple[Any, ...]) -> tuple[str, int, int]:
    day: date = key[1]
    return f"org={key[0]}/day={day.isoformat()}", -1, day.year * 100 + day.month


def _month(unix_s: int) -> int:
    moment = datetime.fromtimestamp(unix_s, UTC)
    return moment.year * 100 + moment.month


def runs_of(rows: Iterable[Sequence[Any]]) -> dict[Run, Group]:
    """Return the sums of runs by the rows of `RUNS`."""
    return {(str(instance), int(epoch)): group(values) for instance, epoch, *values in rows}


def against_told(partition: int, runs: Mapping[Run, Group], books: Books) -> list[Difference]:
    """Return the runs whose rows are not what their last record tells, and note those that agree.

    `runs` and `books` must be of the same position. A run is named with the range since the two last agreed.
    """
    found = []
    for run, entry in sorted(books.entries.items()):
        rows, told = runs.get(run, NOTHING), group_of(entry.told)
        if _same_sums(told, rows):
            books.agree(run)
        else:
            found.append(_of_told(partition, run, entry, told, rows, books.agreed.get(run)))
    return found


def apart(told: Iterable[Difference], inside: Iterable[Difference]) -> list[Difference]:
    """Return the differences to what was told of runs whose own tables agree: the others are to be mended first."""
    broken = {(found.partition, found.key.rpartition("/hour=")[0]) for found in inside}
    return [found for found in told if (found.partition, found.key) not in broken]


def _of_told(
    partition: int, run: Run, entry: Entry, told: Group, rows: Group, agreed: Entry | None
) -> Difference:  # fmt: skip
    first_seq, first_offset = (1, 0) if agreed is None else (agreed.seq + 1, agreed.offset + 1)
    if agreed is not None and agreed.seq >= entry.seq:  # rows that were there are gone, or others have come
        first_seq, first_offset = 1, 0
    return Difference(
        "told ≠ history", run_key(*run), fields_of(told, rows), partition, first_seq, entry.seq,
        first_offset, entry.offset, 0, "insert" if rows.sums[0] < told.sums[0] else "",
    )  # fmt: skip


def group_of(totals: Totals) -> Group:
    """Return what a record told as sums."""
    return Group(tuple(getattr(totals, name) for name in FIELDS))


def told_of(runs: Mapping[Run, Group], books: Books) -> list[RunSums]:
    """Return the sums of the runs that were heard of last, with what they told."""
    newest = sorted(runs.items(), key=lambda item: -item[1].last_offset)[:RUNS_TOLD]
    return [
        RunSums(*run, sums.last_seq, Totals(*sums.sums), books.entries[run].told if run in books.entries else None,
                sums.last_offset)
        for run, sums in newest
    ]  # fmt: skip


def twice(rows: Iterable[Sequence[Any]]) -> list[Difference]:
    """Return the months in which events are stored more than once, by the rows of `TWICE`."""
    return [
        Difference("history ≠ rows stored", f"month={month}", {"rows": [int(once), int(stored)]}, month=int(month),
                   remedy="deduplicate")
        for month, stored, once in rows
    ]  # fmt: skip
