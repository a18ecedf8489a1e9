"""Routes of temporary increases and frozen scopes, beside those of policies and keys."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from enforcer.answers import as_json, made, refuse
from enforcer.core.control import ControlState
from enforcer.core.overrides import FROZEN, GRANTED, RELEASED, REVOKED, Wish, describe_freeze, describe_increase
from enforcer.errors import Refusal
from enforcer.overrides import OverridePlane
from enforcer.requests import FreezeBody, IncreaseBody, read_body
from enforcer.telemetry import Telemetry
from schemas.overrides import Increase

MAX_TEXT = 2_000


def add(
    app: FastAPI, plane: OverridePlane, state: ControlState, telemetry: Telemetry, clock: Callable[[], int]
) -> None:
    """Add them to the application."""
    _increases(app, plane, state, telemetry, clock)
    _freezes(app, plane, state, telemetry)


def _increases(
    app: FastAPI, plane: OverridePlane, state: ControlState, telemetry: Telemetry, clock: Callable[[], int]
) -> None:
    def shown(found: Increase) -> object:
        return describe_increase(found, state.policy, clock())

    @app.post("/v1/increases")
    async def grant(request: Request) -> Response:
        """Grant a temporary increase."""
        body = await read_body(request, IncreaseBody)
        if isinstance(body, Refusal):
            return refuse(body)
        wish = Wish(
            **body.model_dump(exclude={"actor", "amount"}), amount=None if body.amount is None else str(body.amount)
        )
        return made(await plane.grant(wish, body.actor), shown, telemetry, GRANTED, 201)

    @app.get("/v1/increases")
    async def listed() -> Response:
        """Return all increases, the oldest first; expired ones too, until they are revoked."""
        found = sorted(state.increases.values(), key=lambda increase: (increase.created_ms, increase.id))
        return as_json({"increases": [shown(increase) for increase in found]})

    @app.delete("/v1/increases/{increase_id}")
    async def revoke(increase_id: str, actor: str = "api", reason: str = "") -> Response:
        """End an increase."""
        found = await plane.revoke(increase_id, reason[:MAX_TEXT], actor[:128] or "api")
        return made(found, shown, telemetry, REVOKED)


def _freezes(app: FastAPI, plane: OverridePlane, state: ControlState, telemetry: Telemetry) -> None:
    @app.post("/v1/freezes")
    async def freeze(request: Request) -> Response:
        """Freeze a scope."""
        body = await read_body(request, FreezeBody)
        if isinstance(body, Refusal):
            return refuse(body)
        return made(await plane.freeze(body.scope, body.reason, body.actor), describe_freeze, telemetry, FROZEN, 201)

    @app.get("/v1/freezes")
    async def listed() -> Response:
        """Return what is frozen, the oldest first."""
        found = sorted(state.freezes.values(), key=lambda freeze: (freeze.created_ms, freeze.scope))
        return as_json({"freezes": [describe_freeze(freeze) for freeze in found]})

    @app.delete("/v1/freezes")
    async def release(scope: str = "", actor: str = "api", reason: str = "") -> Response:
        """Release a scope."""
        found = await plane.release(scope, reason[:MAX_TEXT], actor[:128] or "api")
        return made(found, describe_freeze, telemetry, RELEASED)
