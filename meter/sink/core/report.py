"""Spend reports: which table answers a question, the query, and totals that foot exactly. Pure.

Every measure is the sum of a column that the ledger and both rollups share, so the answer is the same whichever of
them gives it; the smallest one that can is asked. Money is a sum of decimals, and unknown cost is never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

DIMENSIONS = (
    "org", "project", "team", "user", "key", "provider", "model", "operation", "status", "day", "hour",
)  # fmt: skip
MAX_ROWS = 100_000
_HOURLY = frozenset({"org", "project", "team", "provider", "model", "operation", "status", "day", "hour"})
_DAILY = frozenset({"org", "project", "team", "user", "key", "provider", "model", "day"})

_INPUT = (
    "tokens_input + t.tokens_cache_read + t.tokens_cache_write + t.tokens_cache_write_1h + t.tokens_audio_input"
    " + t.tokens_image_input"
)
_TOKENS = {
    "input_tokens": f"sum(t.{_INPUT})",
    "output_tokens": "sum(t.tokens_output + t.tokens_reasoning + t.tokens_audio_output + t.tokens_image_output)",
    "cache_read_tokens": "sum(t.tokens_cache_read)",
}
_ROLLUP = {
    "events": "sum(t.events) - sum(t.adjustments)",
    "requests": "sum(t.requests)",
    "unpriced_requests": "greatest(0, sum(t.unpriced_requests) - sum(t.first_priced_events))",
    **_TOKENS,
    "cost": "sum(t.cost_usd)",
    "charge": "sum(t.charge_usd)",
    "priced": "sum(t.priced_events)",
    "adjusted": "sum(t.adjusted_usd)",
}
_ADJUSTMENT = "t.kind = 'adjustment'"
_LEDGER = {
    "events": f"sumIf(t.stands_for, NOT ({_ADJUSTMENT}))",
    "requests": "sum(t.charge_requests)",
    "unpriced_requests": (
        "greatest(0, sumIf(t.charge_requests, t.cost_usd IS NULL)"
        f" - sumIf(t.stands_for, {_ADJUSTMENT} AND has(t.flags, 'first_price')))"
    ),
    **_TOKENS,
    "cost": "sum(ifNull(t.cost_usd, toDecimal64(0, 9)))",
    "charge": "sum(t.charge_usd)",
    "priced": "sumIf(t.stands_for, t.cost_usd IS NOT NULL)",
    "adjusted": f"sumIf(ifNull(t.cost_usd, toDecimal64(0, 9)), {_ADJUSTMENT})",
}
COUNTED = ("events", "requests", "unpriced_requests", *_TOKENS)
MEASURES = (*COUNTED, "cost_usd", "charge_usd", "adjusted_usd")
"""The columns after the dimensions. `events` are attempts; what corrections of costs add is within `cost_usd`, and by
itself in `adjusted_usd`."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a parameter: its name, and value and remedy in words."""

    field: str
    message: str


@dataclass(frozen=True)
class SpendQuery:
    """A question about spend: by which dimensions, and the half-open time [since, until)."""

    by: tuple[str, ...]
    since: datetime | None
    until: datetime | None

    @property
    def table(self) -> str:
        """The smallest table that answers."""
        asked = frozenset(self.by)
        bounds = [bound for bound in (self.since, self.until) if bound is not None]
        if asked <= _HOURLY and all(bound == bound.replace(minute=0, second=0, microsecond=0) for bound in bounds):
            return "usage_hourly"
        if asked <= _DAILY and all(
            bound == bound.replace(hour=0, minute=0, second=0, microsecond=0) for bound in bounds
        ):
            return "usage_daily_actor"
        return "usage_events"

    def sql(self) -> str:
        """Return the query: dimensions, then measures, one row more than may be returned."""
        table = self.table
        measures = _LEDGER if table == "usage_events" else _ROLLUP
        moment = {"usage_hourly": "t.hour", "usage_daily_actor": "t.day", "usage_events": "t.occurred_at"}[table]
        columns = [f"{_dimension(name, moment)} AS by_{name}" for name in self.by]
        columns += [f"{expression} AS the_{name}" for name, expression in measures.items()]
        limits = []
        kind = "Date" if table == "usage_daily_actor" else "DateTime64(3, 'UTC')"
        if self.since is not None:
            limits.append(f"{moment} >= {{since:{kind}}}")
        if self.until is not None:
            limits.append(f"{moment} < {{until:{kind}}}")
        final = " FINAL" if table == "usage_events" else ""
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        names = ", ".join(f"by_{name}" for name in self.by)
        timed = {"day", "hour"} & set(self.by)
        order = names if timed else f"the_cost DESC, the_requests DESC, {names}"
        return (
            f"SELECT {', '.join(columns)} FROM {table} AS t{final}{where}"  # noqa: S608 - our own names; bounds are bound
            f" GROUP BY {names} HAVING the_events != 0 OR the_adjusted != 0 OR the_charge != 0"
            f" ORDER BY {order} LIMIT {MAX_ROWS + 1}"
        )

    def parameters(self) -> dict[str, Any]:
        """Return what the query is bound to."""
        bounds = {name: bound for name, bound in (("since", self.since), ("until", self.until)) if bound is not None}
        if self.table == "usage_daily_actor":
            return {name: bound.date() for name, bound in bounds.items()}
        return {name: bound.strftime("%Y-%m-%d %H:%M:%S.%f")[:23] for name, bound in bounds.items()}


def _dimension(name: str, moment: str) -> str:
    if name == "key":
        return "t.key_id"
    if name == "day":
        return moment if moment == "t.day" else f"toDate({moment}, 'UTC')"
    if name == "hour":
        return moment if moment == "t.hour" else f"toStartOfHour(toDateTime({moment}, 'UTC'))"
    return f"t.{name}"


def parse(by: str, since: str | None, until: str | None) -> SpendQuery | list[Fault]:
    """Return the question that the parameters ask, or everything that is wrong with them."""
    faults: list[Fault] = []
    names = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip()))
    allowed = ", ".join(DIMENSIONS)
    if not names:
        faults.append(Fault("by", f"{by!r} names nothing to group by; name some of {allowed}, with commas"))
    for name in names:
        if name not in DIMENSIONS:
            faults.append(Fault("by", f"{name!r} is not a column to group by; use some of {allowed}"))
    bounds = {}
    for field, text in (("since", since), ("until", until)):
        try:
            bounds[field] = parse_moment(text) if text else None
        except ValueError:
            faults.append(
                Fault(field, f"{text!r} is not a date or time; write 2026-11-01 or 2026-11-01T12:00:00Z (UTC)")
            )
    first, last = bounds.get("since"), bounds.get("until")
    if first and last and first >= last:
        faults.append(Fault("until", f"{until!r} is not after since={since!r}; the time is [since, until)"))
    return faults or SpendQuery(names, first, last)


def parse_moment(text: str) -> datetime:
    """Return the time of an ISO date (its midnight) or date-time, in UTC if it names no zone; ValueError otherwise."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if not 1970 <= moment.year < 2100:
        raise ValueError(text)
    return moment


@dataclass(frozen=True)
class SpendReport:
    """The answer: columns, rows in their order, and the sums of the rows."""

    columns: list[str]
    rows: list[list[Any]]
    totals: dict[str, Any]


def answer(query: SpendQuery, found: Iterable[Sequence[Any]]) -> SpendReport:
    """Return the report of a query's result. Amounts are exact decimals as text, None where the cost is unknown."""
    width = len(query.by)
    rows: list[list[Any]] = []
    sums = [0] * len(COUNTED)
    cost, charge, adjusted, priced = Decimal(0), Decimal(0), Decimal(0), 0
    for row in found:
        counted = [int(value) for value in row[width : width + len(COUNTED)]]
        row_cost, row_charge, row_priced, row_adjusted = row[width + len(COUNTED) :]
        rows.append(
            [_plain(value) for value in row[:width]]
            + counted
            + [_known(row_cost, row_priced, counted), _usd(row_charge), _usd(row_adjusted)]
        )
        sums = [total + value for total, value in zip(sums, counted, strict=True)]
        cost, charge, adjusted = cost + row_cost, charge + row_charge, adjusted + row_adjusted
        priced += int(row_priced)
    totals = dict(zip(COUNTED, sums, strict=True))
    money = {"cost_usd": _known(cost, priced, sums), "charge_usd": _usd(charge), "adjusted_usd": _usd(adjusted)}
    return SpendReport([*query.by, *MEASURES], rows, {**totals, **money})


def _known(cost: Decimal, priced: int, counted: Sequence[int]) -> str | None:
    unpriced = counted[COUNTED.index("unpriced_requests")]
    return None if unpriced and not priced else _usd(cost)


def _usd(amount: Decimal) -> str:
    return f"{amount:.9f}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value
