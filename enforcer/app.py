"""The admin API: routes to answers. Knows FastAPI; decides nothing."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from enforcer.adjust import AdjustPlane
from enforcer.adjust_routes import add as add_adjustments
from enforcer.answers import as_json as _json
from enforcer.answers import made as _made
from enforcer.answers import refuse as _refuse
from enforcer.control import Applied, ControlPlane, unknown_version
from enforcer.core import decisions, policy, reports
from enforcer.core.keys import Wish
from enforcer.errors import Refusal, missing
from enforcer.key_routes import add as add_moves
from enforcer.override_routes import add as add_overrides
from enforcer.overrides import OverridePlane
from enforcer.price_routes import add as add_prices
from enforcer.prices import PricePlane
from enforcer.requests import ApplyBody, KeyBody, RollbackBody, read_body
from enforcer.services import Services, plain
from enforcer.telemetry import Telemetry
from schemas.errors import TransportError
from schemas.ids import parse_id

Call = Callable[[Request], Awaitable[Response]]
MAX_LISTED = 1_000

_log = structlog.get_logger("enforcer.api")


def build(
    services: Services, control: ControlPlane, adjust: AdjustPlane, telemetry: Telemetry, token: str
) -> FastAPI:  # fmt: skip
    """Return the application. `token` is what callers of `/v1` must bear."""
    app = FastAPI(title="Tollway enforcer", docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, services, telemetry, token)
    _health(app, services, telemetry)
    _changes(app, control, telemetry)
    _versions(app, services)
    _keys(app, services, control, telemetry)
    add_moves(app, control, telemetry)
    add_overrides(app, OverridePlane(control), services.views.control, telemetry, services.clock)
    add_adjustments(app, adjust, telemetry)
    add_prices(app, PricePlane(control, services.clock), services.views.control, telemetry)
    _readings(app, services)
    _decisions(app, services)
    return app


def _guard(app: FastAPI, services: Services, telemetry: Telemetry, token: str) -> None:
    expected = f"Bearer {token}".encode()

    @app.middleware("http")
    async def guard(request: Request, call: Call) -> Response:
        if not request.url.path.startswith("/v1"):
            return await call(request)
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            refusal = Refusal(401, "no valid admin token; send it as Authorization: Bearer TOKEN")
            return JSONResponse(refusal.body(), 401, {"WWW-Authenticate": "Bearer"})
        lacks = services.waiting()
        if lacks and request.url.path != "/v1/status":
            message = f"not ready: {', '.join(lacks)}; try again in a moment"
            return _refuse(Refusal(503, message, waiting=lacks), {"Retry-After": "1"})
        return await call(request)

    @app.exception_handler(TransportError)
    async def away(request: Request, error: TransportError) -> Response:
        telemetry.count("transport_faults", "changes")
        _log.warning("not done", path=request.url.path, error=str(error))
        return _refuse(Refusal(503, f"{error}; look before you try again"), {"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def fault(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}; see the enforcer's README for all paths"
        return _refuse(Refusal(error.status_code, message))


def _health(app: FastAPI, services: Services, telemetry: Telemetry) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the loop turns."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether all topics have been read to their end."""
        lacks = services.waiting()
        return JSONResponse({"ready": not lacks, "waiting": lacks}, 503 if lacks else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in the Prometheus text format."""
        return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)


def _changes(app: FastAPI, control: ControlPlane, telemetry: Telemetry) -> None:
    @app.post("/v1/policy")
    async def apply(request: Request) -> Response:
        """Plan or apply a document."""
        body = await read_body(request, ApplyBody)
        if isinstance(body, Refusal):
            return _refuse(body)
        made = await control.apply(body.document, body.note, body.actor, body.dry_run, body.base_version)
        return _made(made, _applied, telemetry, None if body.dry_run else "policy.apply")

    @app.post("/v1/policy/rollback")
    async def rollback(request: Request) -> Response:
        """Apply the document of an earlier version again."""
        body = await read_body(request, RollbackBody)
        if isinstance(body, Refusal):
            return _refuse(body)
        made = await control.rollback(body.version, body.note, body.actor, body.base_version)
        return _made(made, _applied, telemetry, "policy.rollback")


def _versions(app: FastAPI, services: Services) -> None:
    state = services.views.control

    @app.get("/v1/policy")
    async def current() -> Response:
        """Return the version in force."""
        if state.current is None:
            return _refuse(missing("no policy is in force", "apply one with: tollway policy apply FILE"))
        return _json({**policy.details(state.current), "unpriced": state.unpriced})

    @app.get("/v1/policy/history")
    async def history() -> Response:
        """Return all versions without their documents, the newest first."""
        versions = [policy.summary(state.versions[number]) for number in sorted(state.versions, reverse=True)]
        return _json({"versions": versions, "current": state.version})

    @app.get("/v1/policy/{version}")
    async def one(version: str) -> Response:
        """Return a version."""
        found = state.versions.get(int(version)) if version.isdecimal() else None
        if found is None:
            number = int(version) if version.isdecimal() else 0
            return _refuse(unknown_version(number, state))
        return _json(policy.details(found))

    @app.get("/v1/audit")
    async def audit(limit: str = "100") -> Response:
        """Return the newest audit entries, the newest last, and whether the whole chain holds."""
        count = min(int(limit), MAX_LISTED) if limit.isdecimal() else 100
        entries = [plain(entry) for entry in list(state.audit.recent)[-count:]] if count else []
        return _json({"entries": entries, "total": state.audit.number, "broken_at": state.audit.broken_at})


def _keys(app: FastAPI, services: Services, control: ControlPlane, telemetry: Telemetry) -> None:
    @app.post("/v1/keys")
    async def create(request: Request) -> Response:
        """Issue a key; the answer is the only place that its secret is ever in."""
        body = await read_body(request, KeyBody)
        if isinstance(body, Refusal):
            return _refuse(body)
        fields = body.model_dump(exclude={"actor", "models"})
        made = await control.create_key(Wish(models=tuple(body.models), **fields), body.actor)
        return _made(made, plain, telemetry, "key.create", 201)

    @app.get("/v1/keys")
    async def listed() -> Response:
        """Return all keys, the oldest first."""
        keys = sorted(services.views.control.keys.values(), key=lambda key: (key.created_ms, key.id))
        return _json({"keys": [_key(key) for key in keys]})

    @app.delete("/v1/keys/{key_id}")
    async def revoke(key_id: str, actor: str = "api") -> Response:
        """Revoke a key."""
        made = await control.revoke_key(key_id, actor[:128] or "api")
        return _made(made, _key, telemetry, "key.revoke")


def _readings(app: FastAPI, services: Services) -> None:
    views = services.views

    @app.get("/v1/usage")
    async def usage(org: str | None = None, rule: str | None = None) -> Response:
        """Return the rows of the current windows."""
        return _json({"rows": services.usage(org, rule)})

    @app.get("/v1/budgets")
    async def budgets() -> Response:
        """Return every scope of every budget in its current window, and the budgets themselves."""
        return _json({"budgets": services.budgets(), "rules": reports.rules(views.control.policy)})

    @app.get("/v1/limits")
    async def limits() -> Response:
        """Return every counter of every limit in its current windows, its scopes added up."""
        return _json({"limits": services.limits()})

    @app.get("/v1/ledger")
    async def ledger() -> Response:
        """Return the sums that no rule has a part in."""
        return _json({"rows": reports.ledger(views.quota), "hours": reports.hours(views.quota)})

    @app.get("/v1/blocks")
    async def blocks() -> Response:
        """Return the block entries in force."""
        entries = views.control.blocks
        return _json({"blocks": [{"key": key, **plain(entries[key])} for key in sorted(entries)]})

    @app.get("/v1/alerts")
    async def alerts() -> Response:
        """Return the newest alerts, the newest last."""
        return _json({"alerts": [plain(alert) for alert in views.control.alerts], "sent": len(views.control.sent)})

    @app.get("/v1/status")
    async def status() -> Response:
        """Return versions, counts, staleness and lag."""
        return _json(services.status())


def _decisions(app: FastAPI, services: Services) -> None:
    @app.get("/v1/decisions")
    async def listed(
        org: str = "", team: str = "", rule: str = "", action: str = "", reason: str = "", since_ms: str = "0",
        limit: str = "100",
    ) -> Response:  # fmt: skip
        """Return decisions that are held, the newest first."""
        number = {name: int(text) for name, text in (("since_ms", since_ms), ("limit", limit)) if text.isdecimal()}
        if len(number) < 2:
            return _refuse(Refusal(422, "since_ms and limit are numbers that are not below 0", "since_ms"))
        most = min(number["limit"], MAX_LISTED)
        wanted = decisions.Wanted(org, team, rule, action, reason, number["since_ms"], most)
        return _json({"decisions": services.decisions(wanted), "complete": services.decisions_complete})

    @app.get("/v1/decisions/{decision_id}")
    async def decision(decision_id: str) -> Response:
        """Return why a request was refused."""
        return _decision(services, decision_id)


def _decision(services: Services, text: str) -> Response:
    try:
        decision_id = parse_id(text)
    except ValueError:
        return _refuse(Refusal(422, f"{text!r} is not a decision id; it is in the refusal and in its header "
                               "x-tollway-decision-id", "id"))  # fmt: skip
    found = services.views.decisions.find(decision_id)
    if found is not None:
        return _json(decisions.describe(found))
    if not services.decisions_complete:
        return _refuse(Refusal(503, "decisions are still being read; try again in a moment"), {"Retry-After": "1"})
    held = f"the newest {decisions.KEPT_DECISIONS:,} of the last days are held here"
    return _refuse(missing(f"decision {text} is not known ({held})", "look for it on the topic `decisions`"))


def _applied(made: Applied) -> dict[str, Any]:
    planned = plain(made.plan)
    identical = planned.pop("identical")
    message = (
        f"the document and its prices are those of version {made.version}; nothing to apply" if identical
        else f"version {made.version} would be made" if made.dry_run else f"version {made.version} is in force"
    )  # fmt: skip
    return {
        "version": made.version, "applied": made.applied, "dry_run": made.dry_run, "unchanged": identical,
        "sha256": made.sha256, "message": message, **planned,
    }  # fmt: skip


def _key(key: Any) -> dict[str, Any]:
    """Return a key with all of its fields, those at their defaults too."""
    return {name: getattr(key, name) for name in key.__struct_fields__}
