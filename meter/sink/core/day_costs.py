"""What a provider's models cost by our own books, day by day: as a provider's invoice is compared with.

A day is one of UTC, by admission. What an invoice has corrected already (`corrects_id` is all zeros) is apart from the
rest, by the groups that it was divided over; so what an invoice says can be divided anew, and only what has changed is
posted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from meter.sink.core.report import Fault
from meter.sink.core.usage_pages import _NANOS

MOST_DAYS = 400
EDGE_MS = 120_000
"""An event that ends in another day than it began in, or so close before, may be in either day of an invoice."""
GROUP = ("org", "project", "team", "user", "key_id", "tags")

_INPUT = (
    "e.tokens_input + e.tokens_cache_read + e.tokens_cache_write + e.tokens_cache_write_1h + e.tokens_audio_input"
    " + e.tokens_image_input"
)
_TOKENS = f"{_INPUT} + e.tokens_output + e.tokens_reasoning + e.tokens_audio_output + e.tokens_image_output"
_SUM = "e.kind = 'adjustment' AND e.corrects_id = toUUID('00000000-0000-0000-0000-000000000000')"
_MIDNIGHT = "toUnixTimestamp64Milli(toDateTime64(toDate(e.occurred_at, 'UTC'), 3, 'UTC'))"
_BEGINS = f"toUnixTimestamp64Milli(e.occurred_at) - {_MIDNIGHT}"
_SPAN = (
    "e.provider = {provider:String} AND e.occurred_at >= toDateTime64({since:String}, 3, 'UTC')"
    " AND e.occurred_at < toDateTime64({until:String}, 3, 'UTC')"
)
_FIRST_PRICED = f"""
    SELECT e.corrects_id FROM usage_events AS e WHERE {_SPAN} AND e.kind = 'adjustment' AND has(e.flags, 'first_price')
"""  # noqa: S608 - our own names; values are bound
_UNPRICED = f"e.cost_usd IS NULL AND e.usage_source != 'unknown' AND e.id NOT IN ({_FIRST_PRICED})"
_COST = "ifNull(e.cost_usd, toDecimal64(0, 9))"
MEASURES = {
    "events": f"toInt64(sumIf(e.stands_for, NOT ({_SUM}) AND e.kind != 'adjustment'))",
    "tokens": f"sum({_TOKENS})",
    "cost_nanos": _NANOS.format(f"sumIf({_COST}, NOT ({_SUM}))"),
    "charge_nanos": _NANOS.format(f"sumIf(e.charge_usd, NOT ({_SUM}))"),
    "invoiced_nanos": _NANOS.format(f"sumIf({_COST}, {_SUM})"),
    "invoiced_charge_nanos": _NANOS.format(f"sumIf(e.charge_usd, {_SUM})"),
    "unpriced_events": f"toInt64(sumIf(e.stands_for, {_UNPRICED}))",
    "unpriced_tokens": f"sumIf({_TOKENS}, {_UNPRICED})",
    "estimated_events": "toInt64(sumIf(e.stands_for, e.usage_source = 'estimated'))",
    "estimated_nanos": _NANOS.format(f"sumIf({_COST}, e.usage_source = 'estimated')"),
    "unknown_events": "toInt64(sumIf(e.stands_for, e.usage_source = 'unknown'))",
    "unknown_nanos": _NANOS.format("sumIf(e.charge_usd, e.usage_source = 'unknown')"),
    "left_nanos": _NANOS.format(f"sumIf({_COST}, {_BEGINS} + e.duration_ms >= 86400000 - {EDGE_MS})"),
    "late_nanos": _NANOS.format(f"sumIf({_COST}, NOT ({_SUM}) AND e.logged_at >= {{exported:DateTime64(3, 'UTC')}})"),
}
"""Sums of a group. `left` may be of the next day by the provider's books; `late` came in after the export."""
COLUMNS = ("day", "model", "model_reported", *GROUP, *MEASURES, "occurred_ms", "operation", "rows", "largest_nanos")
"""Of a line. The last four are those of the group's largest event: what its corrections are booked like."""


@dataclass(frozen=True)
class DayCosts:
    """A question: the costs of a provider's models on the days of [since, until)."""

    provider: str
    since: date
    until: date
    exported: datetime

    def parameters(self) -> dict[str, Any]:
        """Return what the query is bound to."""
        return {
            "provider": self.provider,
            "since": f"{self.since.isoformat()} 00:00:00",
            "until": f"{self.until.isoformat()} 00:00:00",
            "exported": self.exported.strftime("%Y-%m-%d %H:%M:%S.%f")[:23],
        }

    def sql(self) -> str:
        """Return the query: a line a day, model, reported model and group."""
        group = ", ".join(f"e.{name} AS by_{name}" for name in GROUP)
        measures = ", ".join(f"{expression} AS the_{name}" for name, expression in MEASURES.items())
        names = ", ".join(f"by_{name}" for name in GROUP)
        real = "e.kind != 'adjustment'"
        place = f"({_COST}, e.id)"
        return f"""
            SELECT toString(toDate(e.occurred_at, 'UTC')) AS day, e.model AS by_model,
                argMaxIf(e.model_reported, {place}, {real} AND e.model_reported != '') AS reported,
                {group}, {measures},
                toUnixTimestamp64Milli(argMaxIf(e.occurred_at, {place}, {real})) AS occurred,
                argMaxIf(e.operation, {place}, {real}) AS by_operation,
                argMaxIf(arrayFilter(key -> splitByChar('/', key)[2] = 'cost', e.row_keys), {place}, {real}) AS keys,
                {_NANOS.format(f"maxIf({_COST}, {real})")} AS largest
            FROM usage_events AS e FINAL
            WHERE {_SPAN}
            GROUP BY day, by_model, {names}
            ORDER BY day, by_model, {names}
            SETTINGS output_format_json_quote_64bit_integers = 0
        """  # noqa: S608 - our own names; values are bound


def ask(provider: str, since: str, until: str, exported_ms: str | None) -> DayCosts | list[Fault]:
    """Return the question that the parameters ask, or everything that is wrong with them."""
    faults = [] if provider else [Fault("provider", "missing; name a provider of the policy")]
    days = {}
    for field, text in (("since", since), ("until", until)):
        try:
            days[field] = date.fromisoformat(text)
        except ValueError:
            faults.append(Fault(field, f"{text!r} is not a day; write 2026-11-01"))
    if len(days) == 2 and not days["since"] < days["until"] <= days["since"] + timedelta(days=MOST_DAYS):
        faults.append(Fault("until", f"{until!r} is not within {MOST_DAYS} days after since={since!r}"))
    if exported_ms is not None and not exported_ms.isdecimal():
        faults.append(Fault("exported", f"{exported_ms!r} is not a time in unix milliseconds"))
    if faults:
        return faults
    exported = datetime(2299, 1, 1, tzinfo=UTC)
    if exported_ms is not None:
        exported = datetime.fromtimestamp(int(exported_ms) / 1000, UTC)
    return DayCosts(provider, days["since"], days["until"], exported)


def models(rows: Iterable[Sequence[Any]]) -> list[dict[str, str]]:
    """Return the names that models are known by."""
    return [{"provider": str(row[0]), "model": str(row[1]), "reported": str(row[2])} for row in rows]


MODELS = f"""
    SELECT e.provider, e.model, e.model_reported FROM usage_events AS e
    WHERE {_SPAN} AND e.kind != 'adjustment'
    GROUP BY e.provider, e.model, e.model_reported ORDER BY e.model, e.model_reported
"""  # noqa: S608 - our own names; values are bound
