"""Reads the ledgers of the deployment: rows of the history, its sums and rollups, the meter's, what was told.

Compares sums here, by itself: `tollway verify` is one of the things under test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx

from tests.faults.account import FIELDS, Event, add, difference
from tests.faults.deployment import INGRESSES, Deployment

REST_S = 60.0
"""So long after the last fault was lifted, all ledgers have to be equal."""
SETTLE_S = 5.0
"""Ledgers that are equal and lack something get so long to become complete."""
POLL_S = 0.05
_COLUMNS = (
    "toString(id), key_id, org, kind, stands_for, status, usage_source, input_tokens, tokens_cache_read, "
    "output_tokens, toString(cost_usd), charge_requests, charge_tokens, toString(charge_usd), toString(request_id), "
    "attempt, model"
)

Ledgers = dict[str, dict[str, dict[str, int]]]
"""By name of the ledger and account."""


@dataclass
class Reading:
    """All sums at one moment."""

    waiting: str = ""
    """What is still on its way, in words; empty if nothing is."""
    days: Ledgers = field(default_factory=dict)
    """Meter, raw rows and both rollups by organisation and day."""
    runs: Ledgers = field(default_factory=dict)
    """Meter, raw rows and what was told by replica and epoch."""
    in_flight: str = ""
    """A budget that is not what was charged, or that still holds something for requests in flight."""

    @property
    def problem(self) -> str:
        """Return what keeps the ledgers from being at rest and equal; empty if they are."""
        told = self.runs.get("told", {})
        known = {name: {run: sums for run, sums in ledger.items() if run in told} for name, ledger in self.runs.items()}
        return self.waiting or difference(self.days) or difference(known) or self.in_flight


async def read(deployment: Deployment) -> Reading:
    """Return what all ledgers say now."""
    try:
        waiting = await _waiting(deployment)
        if waiting:
            return Reading(waiting)
        meter, stored, budgets = await asyncio.gather(
            deployment.get("enforcer", "/v1/ledger"),
            deployment.get("history", "/v1/ledger"),
            deployment.get("enforcer", "/v1/budgets"),
        )
    except httpx.HTTPError as error:
        return Reading(f"no answer: {type(error).__name__}")
    days, runs = _split(meter["rows"], "totals")
    raw_days, raw_runs = _split(stored["events"], "totals")
    _, told = _split([row for row in meter["rows"] if row["told"] is not None], "told")
    rollups = {name: _split(stored[name], "totals")[0] for name in ("rollups", "actors")}
    return Reading(
        "",
        {"meter": days, "history": raw_days, **rollups},
        {"told": told, "meter": runs, "history": raw_runs},
        _budgets(budgets["budgets"], days),
    )


async def _waiting(deployment: Deployment) -> str:
    statuses = await asyncio.gather(*(deployment.status(role) for role in INGRESSES))
    for role, status in zip(INGRESSES, statuses, strict=True):
        wal = status["wal"]
        if not wal["replayed"]:
            return f"{role} replays an earlier run"
        if wal["unsent_events"] or wal["open_admissions"] or status["requests"]["in_flight"]:
            return f"{role}: {wal['unsent_events']} events unsent, {wal['open_admissions']} requests open"
    history = await deployment.get("history", "/v1/status")
    if history["waiting"]:
        return f"the history waits for {history['waiting'][0]}"
    if history["lag"] or history["waiting_rows"]:
        return f"the history has {history['lag']} records and {history['waiting_rows']} rows to go"
    return ""


def _split(rows: Sequence[Any], part: str) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Return the sums of ledger rows by day and by run; rows of one account in several partitions add."""
    days: dict[str, dict[str, int]] = {}
    runs: dict[str, dict[str, int]] = {}
    for row in rows:
        ledger = runs if row["key"].startswith("instance=") else days
        add(ledger.setdefault(row["key"], dict.fromkeys(FIELDS, 0)), row[part])
    return days, runs


def _budgets(budgets: Sequence[Any], days: dict[str, dict[str, int]]) -> str:
    """Return which budget differs from what the ledger has charged to its organisation; empty if none does."""
    charged: dict[str, int] = {}
    for account, sums in days.items():
        org = account.removeprefix("org=").partition("/")[0]
        charged[org] = charged.get(org, 0) + sums["charge_nanos"]
    for budget in budgets:
        org = budget["attributes"]["org"]
        if budget["settled"] != charged.get(org, 0):
            return f"budget of {org}: {budget['settled']} settled, {charged.get(org, 0)} charged"
        if budget["inflight"]:
            return f"budget of {org}: {budget['inflight']} held for requests in flight, and there are none"
    return ""


async def events_since(deployment: Deployment, since_ms: int) -> list[Event]:
    """Return every row of requests that were admitted since `since_ms`, duplicates included."""
    query = f"SELECT {_COLUMNS} FROM tollway.usage_events WHERE toUnixTimestamp64Milli(occurred_at) >= {since_ms}"
    return [_event(row) for row in await deployment.sql(query)]


def _event(row: Sequence[Any]) -> Event:
    event_id, key, org, kind, stands_for, status, source, *counts, cost, requests, tokens, charge = row[:-3]
    request_id, attempt, model = row[-3:]
    given, cached, output = map(int, counts)
    return Event(
        event_id, key, org, kind, int(stands_for), status, source, given, cached, output,
        None if cost is None else _nanos(cost), int(requests), int(tokens), _nanos(charge),
        request_id, int(attempt), model,
    )  # fmt: skip


def _nanos(text: str) -> int:
    return int(Decimal(text).scaleb(9))


async def at_rest(deployment: Deployment, is_complete: Callable[[Reading], Awaitable[bool]]) -> tuple[Reading, float]:
    """Wait until all ledgers are equal and `is_complete` says so, or time is up.

    Returns:
        The last reading, and when (`time.monotonic()`) the ledgers were equal for good.
    """
    began = time.monotonic()
    equal_at: float | None = None
    while True:
        found = await read(deployment)
        now = time.monotonic()
        if found.problem:
            equal_at = None
        else:
            equal_at = now if equal_at is None else equal_at
            if await is_complete(found) or now - equal_at > SETTLE_S:
                return found, equal_at
        if now - began > REST_S:
            return found, now
        await asyncio.sleep(POLL_S)
