"""The history's ledgers, in the form that the meter's have: integer sums by organisation and day, and by run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from schemas.quota import hour_key, run_key

FIELDS = ("events", "requests", "input_tokens", "output_tokens", "cost_nanos", "unpriced", "charge_nanos")
"""As `schemas.usage.Totals` has them."""

_INPUT = (
    "tokens_input + t.tokens_cache_read + t.tokens_cache_write + t.tokens_cache_write_1h + t.tokens_audio_input"
    " + t.tokens_image_input"
)
_OUTPUT = "tokens_output + t.tokens_reasoning + t.tokens_audio_output + t.tokens_image_output"
_RAW = f"""
    sum(t.stands_for), sum(t.charge_requests), sum(t.{_INPUT}), sum(t.{_OUTPUT}),
    sum(ifNull(t.cost_usd, toDecimal64(0, 9))), sumIf(t.stands_for, t.cost_usd IS NULL), sum(t.charge_usd)
"""
_ROLLUP = f"""
    sum(t.events), sum(t.requests), sum(t.{_INPUT}), sum(t.{_OUTPUT}),
    sum(t.cost_usd), sum(t.unpriced_events), sum(t.charge_usd)
"""
# Names and expressions are this module's own.
BY_DAY = f"SELECT t.org, toDate(t.occurred_at, 'UTC') AS day, {_RAW} FROM usage_events AS t FINAL GROUP BY t.org, day"  # noqa: S608
RAW_BY_RUN = f"SELECT t.instance, t.epoch, {_RAW} FROM usage_events AS t FINAL GROUP BY t.instance, t.epoch"  # noqa: S608
BY_RUN = """
    SELECT t.instance, t.epoch, sum(t.events), sum(t.requests), sum(t.input_tokens), sum(t.output_tokens),
        sum(t.cost_usd), sum(t.unpriced), sum(t.charge_usd)
    FROM usage_ledger_hourly AS t GROUP BY t.instance, t.epoch
"""
_SINCE = "toDateTime({since:Int64}, 'UTC')"
RAW_BY_HOUR = f"""
    SELECT t.instance, t.epoch, toUnixTimestamp(toStartOfHour(toDateTime(t.occurred_at, 'UTC'))) AS hour, {_RAW}
    FROM usage_events AS t FINAL WHERE t.occurred_at >= toDateTime64({{since:Int64}}, 3, 'UTC')
    GROUP BY t.instance, t.epoch, hour
"""  # noqa: S608
BY_HOUR = f"""
    SELECT t.instance, t.epoch, toUnixTimestamp(t.hour), sum(t.events), sum(t.requests), sum(t.input_tokens),
        sum(t.output_tokens), sum(t.cost_usd), sum(t.unpriced), sum(t.charge_usd)
    FROM usage_ledger_hourly AS t WHERE t.hour >= {_SINCE} GROUP BY t.instance, t.epoch, t.hour
"""  # noqa: S608
ROLLUP_BY_DAY = f"SELECT t.org, toDate(t.hour, 'UTC') AS day, {_ROLLUP} FROM usage_hourly AS t GROUP BY t.org, day"  # noqa: S608
ACTORS_BY_DAY = f"SELECT t.org, t.day, {_ROLLUP} FROM usage_daily_actor AS t GROUP BY t.org, t.day"  # noqa: S608

Account = dict[str, Any]
"""`key` and `totals`."""


def by_day(rows: Iterable[Sequence[Any]]) -> list[Account]:
    """Return accounts `org=<org>/day=<YYYY-MM-DD>` of rows (org, day, sums…), in the order of their keys."""
    return _accounts((f"org={org}/day={_iso(day)}", sums) for org, day, *sums in rows)


def by_run(rows: Iterable[Sequence[Any]]) -> list[Account]:
    """Return accounts `instance=<id>/epoch=<n>` of rows (instance, epoch, sums…), in the order of their keys."""
    return _accounts((run_key(str(instance), int(epoch)), sums) for instance, epoch, *sums in rows)


def by_hour(rows: Iterable[Sequence[Any]]) -> list[Account]:
    """Return accounts `instance=<id>/epoch=<n>/hour=<YYYY-MM-DDTHHZ>` of rows (instance, epoch, unix s, sums…)."""
    return _accounts(
        (hour_key(run_key(str(instance), int(epoch)), int(hour) // 3_600), sums)
        for instance, epoch, hour, *sums in rows
    )


def _accounts(found: Iterable[tuple[str, Sequence[Any]]]) -> list[Account]:
    return [
        {"key": key, "totals": {name: _integer(name, value) for name, value in zip(FIELDS, sums, strict=True)}}
        for key, sums in sorted(found)
    ]


def _integer(name: str, value: Any) -> int:
    return int(Decimal(value).scaleb(9)) if name.endswith("_nanos") else int(value)


def _iso(day: date) -> str:
    return day.isoformat()
