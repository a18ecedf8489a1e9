"""What the deployment's own ledger says of the runs, once it has settled."""

from __future__ import annotations

import json
from typing import Any

from schemas.published import HEARTBEAT_MS, PROPAGATION_P99_MS
from tests.bound.account import Booked
from tests.e2e.stack import Stack

_EVENTS = (
    "SELECT key_id AS name, countIf(status = 'settled') AS settled, sum(charge_requests) AS requests, "
    "uniqExactIf(toStartOfMinute(occurred_at), charge_requests > 0) AS windows FROM tollway.usage GROUP BY key_id"
)
_WELL_MS = HEARTBEAT_MS + PROPAGATION_P99_MS
_EARLY = "used_value * 10 < limit_value * 9"
_REFUSALS = (
    f"SELECT key_id AS name, count() AS refusals, countIf({_EARLY} AND staleness_ms <= {_WELL_MS}) AS false_refusals, "
    f"countIf({_EARLY} AND staleness_ms > {_WELL_MS}) AS late_refusals, "
    "min(intDiv(used_value * 100, greatest(limit_value, 1))) AS lowest_percent "
    "FROM tollway.enforcement_decisions WHERE action = 'refuse' AND rule = key_id GROUP BY key_id"
)
"""A replica that has not heard of the others for longer than a heartbeat takes is not part of a healthy loop."""


def booked(stack: Stack) -> tuple[dict[str, Booked], list[str]]:
    """Return what is booked by run, and what `tollway verify` finds wrong."""
    verified = stack.json("verify")
    problems = [] if verified["ok"] is True else [f"tollway verify: {json.dumps(verified)[:2000]}"]
    found: dict[str, dict[str, int]] = {}
    for query in (_EVENTS, _REFUSALS):
        for row in _rows(stack.run("sql", query, "--format", "json")):
            counts = {name: int(value) for name, value in row.items() if name != "name"}
            found.setdefault(str(row["name"]), {}).update(counts)
    return {name: Booked(**counts) for name, counts in found.items()}, problems


def _rows(text: str) -> list[dict[str, Any]]:
    rows = json.loads(text)
    assert isinstance(rows, list)
    return rows
