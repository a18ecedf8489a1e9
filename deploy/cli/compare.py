"""Compares ledgers: what clients were told, what the meter folded, what ClickHouse holds. Pure.

A ledger is a mapping from key (`org=…/day=…`, `instance=…/epoch=…` or `instance=…/epoch=…/hour=…`) to integer sums. Two
ledgers agree on a key when every sum is equal, to the nano-dollar; a key that a ledger should have and lacks counts as
zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

Sums = Mapping[str, int]
Ledger = Mapping[str, Sums]

FIELDS = ("events", "requests", "input_tokens", "output_tokens", "cost_nanos", "unpriced", "charge_nanos")
"""As `schemas.usage.Totals` has them."""
HOUR = "/hour="
NEVER = "~"
"""Behind every hour."""
METER, CLICKHOUSE, TOLD = "meter", "clickhouse", "told"
METER_KEEPS_DAYS = 38
"""The meter forgets a day 40 days after it; older days are compared between ClickHouse's own tables alone, also where
it has begun such a day anew for a correction of it."""
HISTORY_KEEPS_DAYS = 398
"""ClickHouse forgets an event after 400 days; of older days only the rollups are left."""


@dataclass(frozen=True)
class Comparison:
    """One key in every ledger that covers it."""

    key: str
    sums: Mapping[str, Sums]
    """By ledger."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Return the sums that are not the same everywhere."""
        return tuple(
            field for field in FIELDS if len({sums.get(field, 0) for sums in self.sums.values()}) > 1
        )  # fmt: skip

    @property
    def is_hour(self) -> bool:
        """Whether it is of an hour of a run, which the run has in its sums."""
        return HOUR in self.key

    @property
    def agrees(self) -> bool:
        """Whether all ledgers say the same."""
        return not self.differing

    def first_difference(self) -> str:
        """Return in words where the ledgers differ first; empty if they agree."""
        if self.agrees:
            return ""
        field = self.differing[0]
        said = ", ".join(f"{name} {sums.get(field, 0)}" for name, sums in self.sums.items())
        return f"{self.key}: {field}: {said}"


def add_up(rows: Iterable[Mapping[str, Any]], part: str) -> dict[str, dict[str, int]]:
    """Return the ledger of `part` (`totals` or `told`) of ledger rows; rows of one key in several partitions add."""
    ledger: dict[str, dict[str, int]] = {}
    for row in rows:
        given = row.get(part)
        if given is None:
            continue
        sums = ledger.setdefault(row["key"], dict.fromkeys(FIELDS, 0))
        for field in FIELDS:
            sums[field] += int(given.get(field, 0))
    return ledger


def hours(rows: Iterable[Mapping[str, Any]], meter: Ledger, clickhouse: Ledger, since: str) -> list[Comparison]:
    """Return a comparison for every hour that both keep, by run.

    Args:
        rows: the meter's ledger rows of runs; each says from which hour on the meter has all of it.
        meter: its hours, those of all partitions added up.
        clickhouse: ClickHouse's hours.
        since: the first hour that ClickHouse was asked for, as keys have it.
    """
    begins: dict[str, str] = {}
    for row in rows:
        if row["key"].startswith("instance="):
            kept = row.get("hours_from") or NEVER
            begins[row["key"]] = max(begins.get(row["key"], since), kept)
    compared = []
    for key in sorted({*meter, *clickhouse}):
        run, _, hour = key.rpartition(HOUR)
        if hour >= begins.get(run, since):
            compared.append(Comparison(key, {METER: meter.get(key, {}), CLICKHOUSE: clickhouse.get(key, {})}))
    return compared


def compare(
    meter: Ledger, told: Ledger, clickhouse: Ledger, rollups: Mapping[str, Ledger], today: date
) -> list[Comparison]:
    """Return a comparison for every key that can be compared, in the order of keys.

    `told` covers instances, `rollups` (by name) cover organisations. Days that the meter may have forgotten, and
    instances that it no longer lists, are compared without it; days that ClickHouse may have forgotten not at all.
    """
    compared = []
    for key in sorted({*meter, *told, *clickhouse, *(key for ledger in rollups.values() for key in ledger)}):
        covering = (
            _of_instance(key, meter, told, clickhouse) if key.startswith("instance=")
            else _of_day(key, meter, clickhouse, rollups, today)
        )  # fmt: skip
        if len(covering) > 1:
            compared.append(Comparison(key, {name: ledger.get(key, {}) for name, ledger in covering.items()}))
    return compared


def _of_instance(key: str, meter: Ledger, told: Ledger, clickhouse: Ledger) -> dict[str, Ledger]:
    known = {TOLD: told} if key in told else {}
    if key in meter:
        known[METER] = meter
    return {**known, CLICKHOUSE: clickhouse}


def _of_day(
    key: str, meter: Ledger, clickhouse: Ledger, rollups: Mapping[str, Ledger], today: date
) -> dict[str, Ledger]:
    day = _day(key)
    if day < today - timedelta(days=HISTORY_KEEPS_DAYS):
        return {}
    held = day >= today - timedelta(days=METER_KEEPS_DAYS)
    return {**({METER: meter} if held else {}), CLICKHOUSE: clickhouse, **rollups}


def total(comparisons: Iterable[Comparison], prefix: str) -> dict[str, dict[str, int]]:
    """Return the sums of every ledger over all keys that begin with `prefix`, hours left out."""
    totals: dict[str, dict[str, int]] = {}
    for comparison in comparisons:
        if not comparison.key.startswith(prefix) or comparison.is_hour:
            continue
        for name, sums in comparison.sums.items():
            into = totals.setdefault(name, dict.fromkeys(FIELDS, 0))
            for field in FIELDS:
                into[field] += sums.get(field, 0)
    return totals


def _day(key: str) -> date:
    try:
        return date.fromisoformat(key.rpartition("day=")[2])
    except ValueError:
        return date.max
