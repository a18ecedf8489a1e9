"""The route that moves a key, beside those that create, list and revoke keys."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from pydantic import Field

from enforcer.answers import made, refuse
from enforcer.control import Change, ControlPlane, key_record
from enforcer.core.audit import KEY_MOVED
from enforcer.core.control import ControlState
from enforcer.core.key_moves import Move, described, moved, problems
from enforcer.errors import Refusal, field_problem, invalid, missing
from enforcer.requests import Actor, Body, Text, read_body
from enforcer.telemetry import Telemetry
from schemas.keys import VirtualKey


class MoveBody(Body):
    """`POST /v1/keys/{id}/move`: what is left out or null stays as it is."""

    project: Text | None = None
    team: Text | None = None
    user: Text | None = None
    tags: dict[Text, Text] = Field(default_factory=dict)
    """Set, or with an empty text taken away."""
    actor: Actor = "api"


def add(app: FastAPI, plane: ControlPlane, telemetry: Telemetry) -> None:
    """Add it to the application."""

    @app.post("/v1/keys/{key_id}/move")
    async def move(key_id: str, request: Request) -> Response:
        """Let a key belong to somebody else from now on."""
        body = await read_body(request, MoveBody)
        if isinstance(body, Refusal):
            return refuse(body)
        wish = Move(**body.model_dump(exclude={"actor"}))

        def decide(state: ControlState, now_ms: int, _: bytes) -> Change | Refusal | VirtualKey:
            known = state.keys.get(key_id)
            if known is None:
                return missing(f"there is no key {key_id!r}", "list them with: tollway keys list")
            if found := problems(state.policy, known, wish, now_ms):
                return invalid([field_problem(*problem) for problem in found], "the key cannot be moved")
            key = moved(known, wish)
            if key == known:
                return known
            return Change([key_record(key)], KEY_MOVED, key.id, described(known, key), key)

        return made(await plane.change(decide, body.actor), _shown, telemetry, KEY_MOVED)


def _shown(key: VirtualKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in key.__struct_fields__}
