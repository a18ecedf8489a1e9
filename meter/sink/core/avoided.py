"""What decisions did and saved: counts and cost avoided, by any attributes. Pure: the query, and its answer.

`avoided_usd` is what requests that were refused, downgraded or ended would have cost by their estimates;
`would_avoid_usd` is the same of requests that went on because the rule only looks (`soft`, `shadow`) or because they
waited. A client that tries again is refused again, and counts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from meter.sink.core.report import MAX_ROWS, Fault, parse_moment
from schemas.decisions import AVOIDING

DIMENSIONS = (
    "org", "project", "team", "user", "key", "model", "rule", "measure", "action", "reason", "tier", "day", "hour",
)  # fmt: skip
MEASURES = ("decisions", "requests", "avoided_usd", "would_avoid_usd")
_COLUMNS = {
    "key": "t.key_id",
    "day": "toDate(t.decided_at, 'UTC')",
    "hour": "toStartOfHour(toDateTime(t.decided_at, 'UTC'))",
}
_AVOIDING = ", ".join(f"'{action}'" for action in sorted(AVOIDING))


@dataclass(frozen=True)
class AvoidedQuery:
    """A question about decisions: by which dimensions, and the half-open time [since, until)."""

    by: tuple[str, ...]
    since: datetime | None
    until: datetime | None

    def sql(self) -> str:
        """Return the query: dimensions, then measures, one row more than may be returned."""
        columns = [f"{_COLUMNS.get(name, f't.{name}')} AS by_{name}" for name in self.by]
        bounds = [
            f"t.decided_at {sign} {{{name}:DateTime64(3, 'UTC')}}"
            for name, sign, bound in (("since", ">=", self.since), ("until", "<", self.until))
            if bound is not None
        ]
        where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
        names = ", ".join(f"by_{name}" for name in self.by)
        order = names if {"day", "hour"} & set(self.by) else f"the_avoided DESC, the_decisions DESC, {names}"
        return (
            f"SELECT {', '.join(columns)}, toInt64(count()) AS the_decisions,"  # noqa: S608 - our own names
            " toInt64(uniqExact(t.request_id)) AS the_requests,"
            f" sumIf(t.cost_avoided_usd, t.action IN ({_AVOIDING})) AS the_avoided,"
            f" sumIf(t.cost_avoided_usd, t.action NOT IN ({_AVOIDING})) AS the_would"
            f" FROM enforcement_decisions AS t FINAL{where} GROUP BY {names} ORDER BY {order} LIMIT {MAX_ROWS + 1}"
        )

    def parameters(self) -> dict[str, str]:
        """Return what the query is bound to."""
        bounds = (("since", self.since), ("until", self.until))
        return {name: bound.strftime("%Y-%m-%d %H:%M:%S.%f")[:23] for name, bound in bounds if bound is not None}


@dataclass(frozen=True)
class AvoidedReport:
    """The answer: columns, rows in their order, and the sums of the rows."""

    columns: list[str]
    rows: list[list[Any]]
    totals: dict[str, Any]


def parse(by: str, since: str | None, until: str | None) -> AvoidedQuery | list[Fault]:
    """Return the question that the parameters ask, or everything that is wrong with them."""
    faults: list[Fault] = []
    names = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip()))
    allowed = ", ".join(DIMENSIONS)
    if not names:
        faults.append(Fault("by", f"{by!r} names nothing to group by; name some of {allowed}, with commas"))
    for name in names:
        if name not in DIMENSIONS:
            faults.append(Fault("by", f"{name!r} is not a column to group by; use some of {allowed}"))
    bounds: dict[str, datetime | None] = {}
    for field, text in (("since", since), ("until", until)):
        try:
            bounds[field] = parse_moment(text) if text else None
        except ValueError:
            told = f"{text!r} is not a date or time; write 2026-11-01 or 2026-11-01T12:00:00Z (UTC)"
            faults.append(Fault(field, told))
    first, last = bounds.get("since"), bounds.get("until")
    if first and last and first >= last:
        faults.append(Fault("until", f"{until!r} is not after since={since!r}; the time is [since, until)"))
    return faults or AvoidedQuery(names, first, last)


def answer(query: AvoidedQuery, found: Iterable[Sequence[Any]]) -> AvoidedReport:
    """Return the report of a query's result; amounts are exact decimals as text."""
    rows: list[list[Any]] = []
    decisions, requests, avoided, would = 0, 0, Decimal(0), Decimal(0)
    for row in found:
        *names, count, distinct, saved, might = row
        rows.append([*(_plain(name) for name in names), int(count), int(distinct), _usd(saved), _usd(might)])
        decisions, requests = decisions + int(count), requests + int(distinct)
        avoided, would = avoided + Decimal(saved), would + Decimal(might)
    sums = (decisions, requests, _usd(avoided), _usd(would))
    return AvoidedReport([*query.by, *MEASURES], rows, dict(zip(MEASURES, sums, strict=True)))


def _usd(amount: Any) -> str:
    return f"{Decimal(amount):.9f}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value
