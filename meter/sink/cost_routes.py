"""Routes of what costs are computed anew from: pages of events with raw usage, and days by model and group."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from meter.sink.core import cost_pages, day_costs, usage_pages
from meter.sink.core.report import Fault
from meter.sink.store import Store

Asking = Callable[[str], AbstractContextManager[None]]
Faulty = Callable[[list[Fault]], Exception]


def add(app: APIRouter, store: Callable[[], Store], asking: Asking, faulty: Faulty) -> None:
    """Add them.

    Args:
        app: of guarded routes.
        store: the store, once it is open.
        asking: counts a query, and turns its faults into answers.
        faulty: makes an answer of what is wrong with parameters.
    """

    @app.get("/costs")
    def costs(
        since: str | None = None, until: str | None = None, after: str | None = None, limit: int = 50_000,
        org: str | None = None, provider: str | None = None, model: str | None = None, team: str | None = None,
        key: str | None = None,
    ) -> Response:  # fmt: skip
        """Return events with raw usage and corrections, in the order of admission: a JSON list a line."""
        equal = {"org": org, "provider": provider, "model": model, "team": team, "key": key}
        found = cost_pages.ask(since, until, after, limit, equal)
        if isinstance(found, list):
            raise faulty(found)
        with asking("costs"):
            end_ms = found.page.end_ms(store().rows(usage_pages.HOURS, found.page.span))
            lines = store().lines(found.sql(), found.parameters(end_ms))
        return Response(found.closed(lines, end_ms), media_type="application/x-ndjson")

    @app.get("/costs/days")
    def days(provider: str, since: str, until: str, exported: str | None = None) -> Response:
        """Return a provider's costs by day, model and group, a JSON list a line; the last line has names."""
        found = day_costs.ask(provider, since, until, exported)
        if isinstance(found, list):
            raise faulty(found)
        with asking("days"):
            lines = store().lines(found.sql(), found.parameters())
            names = day_costs.models(store().rows(day_costs.MODELS, found.parameters()))
        last: dict[str, Any] = {"columns": list(day_costs.COLUMNS), "models": names}
        return Response(lines + json.dumps(last).encode() + b"\n", media_type="application/x-ndjson")
