"""The history's HTTP side: SQL, spend reports, pages of usage, ledgers, decisions, status, health, metrics.

Adapts FastAPI. Blocking work runs in the framework's threads (plain `def` routes); the sink's loop goes on meanwhile.
Every `/v1` path wants the admin token. Errors are `{"error": {"message", "field"?, "problems"?}}`.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, SecretStr

from meter.sink import audit_routes, cost_routes, refusals
from meter.sink.auditor import Auditor
from meter.sink.core import audit, avoided, ledger, newest, report, usage_pages
from meter.sink.core.errors import BadQuery, StoreUnavailable
from meter.sink.lane import LaneStatus
from meter.sink.refusals import Refused
from meter.sink.repair import Repairer
from meter.sink.store import Store
from meter.sink.telemetry import Metrics
from schemas.quota import hour_text

FIRST_ROW = "SELECT * FROM enforcement_decisions FINAL WHERE id = {id:UUID} LIMIT 1"
COUNT = "SELECT sum(rows) FROM system.parts WHERE active AND database = currentDatabase() AND table = {name:String}"


class History(Protocol):
    """What the API shows; the composition root is one."""

    store: Store
    metrics: Metrics
    auditor: Auditor
    repairer: Repairer

    def waiting(self) -> list[str]:
        """Return what is missing before queries can be answered from up-to-date tables."""

    def is_open(self) -> bool:
        """Return whether the store answers queries."""

    def lanes(self) -> list[LaneStatus]:
        """Return the partitions."""


class SqlRequest(BaseModel):
    """One query."""

    model_config = ConfigDict(extra="forbid")

    query: str
    format: Literal["json", "csv", "table-rows"] = "json"


def application(history: History, token: SecretStr) -> FastAPI:
    """Return the routes over `history`; `token` is what `/v1` asks for."""
    app = FastAPI(title="Tollway history", docs_url=None, redoc_url=None, openapi_url=None)
    refusals.add(app)
    _health(app, history)
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(_guard(token)), Depends(_open(history))])
    _queries(guarded, history)
    _reports(guarded, history)
    _accounts(guarded, history)
    audit_routes.add(guarded, history.auditor, history.repairer, lambda path: _asking(history, path))
    cost_routes.add(guarded, lambda: history.store, lambda path: _asking(history, path), _faulty)
    app.include_router(guarded)
    return app


def _health(app: FastAPI, history: History) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the loop turns."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether the schema is up to date and every partition has its position."""
        lacks = history.waiting()
        return JSONResponse({"ready": not lacks, "waiting": lacks}, 503 if lacks else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in the Prometheus text format."""
        return Response(generate_latest(history.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _guard(token: SecretStr) -> Callable[[Request], None]:
    wanted = token.get_secret_value().encode()

    def guard(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), wanted):
            raise Refused(401, "the admin token is missing or wrong: send Authorization: Bearer <token>")

    return guard


def _open(history: History) -> Callable[[], None]:
    def check() -> None:
        if not history.is_open():
            lacks = history.waiting() or ["the store"]  # it may have opened since
            raise Refused(503, f"the history is starting; it waits for {', '.join(lacks)}", waiting=lacks)

    return check


@contextmanager
def _asking(history: History, path: str) -> Iterator[None]:
    began = time.monotonic()
    outcome = "failed"
    try:
        yield
        outcome = "ok"
    except BadQuery as error:
        outcome = "refused"
        raise Refused(400, str(error), "query") from error
    except StoreUnavailable as error:
        raise Refused(503, f"the store does not answer: {error}; try again") from error
    except Refused:
        outcome = "refused"
        raise
    finally:
        history.metrics.queries.labels(path, outcome).inc()
        history.metrics.query_seconds.labels(path).observe(time.monotonic() - began)


def _queries(app: APIRouter, history: History) -> None:
    @app.post("/sql")
    def sql(request: SqlRequest) -> Response:
        """Answer one read-only statement."""
        with _asking(history, "sql"):
            if request.format == "csv":
                return PlainTextResponse(history.store.ask(request.query, "CSVWithNames"), media_type="text/csv")
            found = _result(history.store.ask(request.query, "JSONCompact"))
        rows = found["data"]
        if request.format == "table-rows":
            rows = [["" if value is None else _text(value) for value in row] for row in rows]
        columns = [column["name"] for column in found["meta"]]
        return JSONResponse({"columns": columns, "types": [column["type"] for column in found["meta"]], "rows": rows})

    @app.get("/report/spend")
    def spend(by: str = "org", since: str | None = None, until: str | None = None) -> dict[str, Any]:
        """Sum up what was spent in [since, until)."""
        query = report.parse(by, since, until)
        if isinstance(query, list):
            raise _faulty(query)
        with _asking(history, "report"):
            rows = history.store.rows(query.sql(), query.parameters())
            if len(rows) > report.MAX_ROWS:
                raise Refused(422, f"by: {by!r} gives more than {report.MAX_ROWS} rows; group by less, or narrow "
                              "since and until", "by")  # fmt: skip
            found = report.answer(query, rows)
        return {**asdict(found), "since": _iso(query.since), "until": _iso(query.until)}

    @app.get("/usage")
    def usage(
        since: str | None = None, until: str | None = None, after: str | None = None, limit: int = 50_000,
        org: str | None = None,
    ) -> Response:  # fmt: skip
        """Return events of [since, until) in the order of admission: a JSON list a line, and how to go on."""
        page = usage_pages.parse(since, until, after, limit, org)
        if isinstance(page, list):
            raise _faulty(page)
        with _asking(history, "usage"):
            hours = history.store.rows(usage_pages.HOURS, page.span)
            end_ms = page.end_ms(hours)
            lines = history.store.lines(page.sql(), page.parameters(end_ms))
        return Response(page.closed(lines, end_ms), media_type="application/x-ndjson")


def _reports(app: APIRouter, history: History) -> None:
    @app.get("/report/avoided")
    def avoided_cost(by: str = "rule", since: str | None = None, until: str | None = None) -> dict[str, Any]:
        """Sum up what decisions of [since, until) did and saved."""
        query = avoided.parse(by, since, until)
        if isinstance(query, list):
            raise _faulty(query)
        with _asking(history, "avoided"):
            rows = history.store.rows(query.sql(), query.parameters())
            if len(rows) > report.MAX_ROWS:
                raise Refused(422, f"by: {by!r} gives more than {report.MAX_ROWS} rows; group by less, or narrow "
                              "since and until", "by")  # fmt: skip
            found = avoided.answer(query, rows)
        return {**asdict(found), "since": _iso(query.since), "until": _iso(query.until)}


def _faulty(faults: list[report.Fault]) -> Refused:
    problems = [f"{fault.field}: {fault.message}" for fault in faults]
    return Refused(422, "; ".join(problems), faults[0].field, problems)


def _accounts(app: APIRouter, history: History) -> None:
    @app.get("/ledger")
    def ledgers(exact: bool = False) -> dict[str, Any]:
        """Return integer sums by organisation and day, by run, and by run and hour since the beginning of yesterday.

        `exact`: from every event instead of the rollups. That these are what the events add up to is what the audit is
        for.
        """
        by_day = ledger.BY_DAY if exact else ledger.ROLLUP_BY_DAY
        by_run = ledger.RAW_BY_RUN if exact else ledger.BY_RUN
        by_hour = ledger.RAW_BY_HOUR if exact else ledger.BY_HOUR
        since_s = newest.since_s(int(time.time()))
        with _asking(history, "ledger"):
            rows = history.store.rows
            return {
                "events": ledger.by_day(rows(by_day)) + ledger.by_run(rows(by_run)),
                "rollups": ledger.by_day(rows(ledger.ROLLUP_BY_DAY)),
                "actors": ledger.by_day(rows(ledger.ACTORS_BY_DAY)),
                "hours": ledger.by_hour(rows(by_hour, {"since": since_s})),
                "hours_from": hour_text(since_s // audit.HOUR_S),
            }

    @app.get("/decisions/{decision_id}")
    def decision(decision_id: str) -> dict[str, Any]:
        """Return why a request was refused."""
        try:
            wanted = str(uuid.UUID(decision_id))
        except ValueError as error:
            raise Refused(422, f"decision_id: {decision_id!r} is not an id; use that of the refusal, such as "
                          "0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55", "decision_id") from error  # fmt: skip
        with _asking(history, "decision"):
            names = [name for (name, *_) in history.store.rows("DESCRIBE TABLE enforcement_decisions")]
            found = history.store.rows(FIRST_ROW, {"id": wanted})
        if not found:
            raise Refused(404, f"decision {wanted} is not in the history (yet: refusals arrive within seconds)")
        return {name: _json(value) for name, value in zip(names, found[0], strict=True)}

    @app.get("/status")
    def status() -> dict[str, Any]:
        """Return positions, lag, counts, the engine's version and the number of rows."""
        lanes = history.lanes()
        with _asking(history, "status"):
            sizes = {
                name: int(history.store.rows(COUNT, {"name": name})[0][0] or 0)
                for name in ("usage_events", "enforcement_decisions", "usage_hourly", "usage_daily_actor")
            }
        return {
            "engine": history.store.version,
            "ready": not history.waiting(),
            "waiting": history.waiting(),
            "partitions": [asdict(lane) for lane in lanes],
            "lag": sum(lane.lag for lane in lanes),
            "waiting_rows": sum(lane.waiting_rows for lane in lanes),
            "batch_age_ms": max((lane.batch_age_ms for lane in lanes), default=0),
            "rows_inserted": sum(lane.counts.rows for lane in lanes),
            "duplicates_dropped": sum(lane.counts.duplicates for lane in lanes),
            "gaps": sum(lane.counts.gaps for lane in lanes),
            "undecodable": sum(lane.counts.undecodable for lane in lanes),
            "set_aside": sum(lane.counts.rejected for lane in lanes),
            "lost_offsets": sum(lane.counts.lost for lane in lanes),
            "stored_rows": sizes,
        }


def _result(body: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise BadQuery("the statement gives no table: ask for one with SELECT") from error
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, uuid.UUID | Decimal) else value
