"""Pages of what can be priced again: events with their raw usage, and what corrections have made of their cost so far.

The pages are those of `usage_pages`, cut and continued alike; only what a line holds differs. Events whose usage is
unknown, or that used nothing, are left out: nothing can be computed of them. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from meter.sink.core.report import Fault
from meter.sink.core.usage_pages import _MOMENT, _NANOS, _USAGE, Page, parse

COLUMNS = {
    "occurred_ms": "toUnixTimestamp64Milli(e.occurred_at)",
    "id": "toString(e.id)",
    "status": "e.status",
    "operation": "e.operation",
    "org": "e.org",
    "project": "e.project",
    "team": "e.team",
    "user": "e.user",
    "key": "e.key_id",
    "provider": "e.provider",
    "model": "e.model",
    "model_requested": "e.model_requested",
    "tags": "e.tags",
    "policy_version": "e.policy_version",
    "price_version": "e.price_version",
    "kind": "e.kind",
    "stands_for": "e.stands_for",
    "usage": f"[{', '.join(f'e.{name}' for name in _USAGE)}]",
    "units": "e.units",
    "service_tier": "e.service_tier",
    "cost_nanos": _NANOS.format("e.cost_usd"),
    "charge_nanos": _NANOS.format("e.charge_usd"),
    "discount_nanos": _NANOS.format("ifNull(e.list_cost_usd - e.cost_usd, toDecimal64(0, 9))"),
    "rows": "arrayFilter(key -> splitByChar('/', key)[2] = 'cost', e.row_keys)",
    "corrections": "toInt64(a.corrections)",
    "corrected_cost_nanos": _NANOS.format("a.cost"),
    "corrected_charge_nanos": _NANOS.format("a.charge"),
    "corrected_discount_nanos": _NANOS.format("a.discount"),
}
"""What a line holds, in this order. The last four are sums over the corrections of the event."""
FILTERS = ("org", "provider", "model", "team", "key")


@dataclass(frozen=True)
class CostPage:
    """A question: the events of a page that are of all given attributes, each a text that has to be equal."""

    page: Page
    equal: tuple[tuple[str, str], ...] = ()
    """(name of `FILTERS`, value)"""

    def parameters(self, end_ms: int) -> dict[str, Any]:
        """Return what the query is bound to, for a page that ends before `end_ms` at the latest."""
        return {**self.page.parameters(end_ms), **{f"is_{name}": value for name, value in self.equal}}

    def sql(self) -> str:
        """Return the query of the page."""
        span = f"e.occurred_at >= {_MOMENT.format('since')} AND e.occurred_at < {_MOMENT.format('until')}"
        more = "".join(f" AND e.{_column(name)} = {{is_{name}:String}}" for name, _ in self.equal)
        if self.page.begin.id:
            more += (
                f" AND (e.occurred_at, e.status = 'refused', e.id)"
                f" > ({_MOMENT.format('since')}, {{refused:UInt8}}, toUUID({{after:String}}))"
            )
        columns = ", ".join(f"{expression} AS the_{name}" for name, expression in COLUMNS.items())
        return f"""
            SELECT {columns} FROM (
                SELECT * FROM usage_events AS e FINAL
                WHERE {span}{more} AND e.kind != 'adjustment' AND e.usage_source IN ('provider', 'estimated')
                ORDER BY e.occurred_at, e.status = 'refused', e.id LIMIT {{most:UInt32}}
            ) AS e LEFT ANY JOIN (
                SELECT e.corrects_id AS corrects_id, count() AS corrections,
                    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost, sum(e.charge_usd) AS charge,
                    sum(ifNull(e.list_cost_usd - e.cost_usd, toDecimal64(0, 9))) AS discount
                FROM usage_events AS e FINAL
                WHERE {span} AND e.kind = 'adjustment' AND e.corrects_id != toUUID('{_NOBODY}')
                GROUP BY e.corrects_id
            ) AS a ON e.id = a.corrects_id
            ORDER BY e.occurred_at, e.status = 'refused', e.id
            SETTINGS output_format_json_quote_64bit_integers = 0
        """  # noqa: S608 - our own names; values are bound

    def closed(self, lines: bytes, end_ms: int) -> bytes:
        """Return a page with its last line: the columns of the others, and `next`, null after the last page."""
        following = self.page.next(lines, end_ms)
        last = {"columns": list(COLUMNS), "next": None if following is None else str(following)}
        return lines + json.dumps(last).encode() + b"\n"


_NOBODY = "00000000-0000-0000-0000-000000000000"


def _column(name: str) -> str:
    return "key_id" if name == "key" else name


def ask(
    since: str | None, until: str | None, after: str | None, most: int, equal: dict[str, str | None]
) -> CostPage | list[Fault]:
    """Return the question that the parameters ask, or everything that is wrong with them."""
    found = parse(since, until, after, most, equal.get("org"))
    if isinstance(found, list):
        return found
    return CostPage(found, tuple((name, value) for name, value in equal.items() if value))
