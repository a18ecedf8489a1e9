"""What is not metered: health, readiness, metrics, status, the list of models; and the refusal of everything else.

FastAPI, in the same process as the hot path and apart from it. Nothing here reaches a provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ingress.core.errors import Shape, error_body
from ingress.core.head import read_head
from ingress.core.resolver import Refused, Resolver
from ingress.routes import METERED, methods_of

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_EPOCH_START = "1970-01-01T00:00:00Z"


class Insight(Protocol):
    """What the composition root tells of the process."""

    @property
    def resolver(self) -> Resolver | None:
        """The policy in force."""

    def waiting(self) -> Sequence[str]:
        """Return what is missing before requests are admitted; nothing if they are."""

    def status(self) -> dict[str, Any]:
        """Return the state of this replica, for people and `tollway status`."""

    def now_ms(self) -> int:
        """Return unix milliseconds."""


def application(insight: Insight, registry: CollectorRegistry) -> FastAPI:
    """Return the ASGI application."""
    app = FastAPI(title="Tollway ingress", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Say whether requests are admitted, and what is missing."""
        waiting = list(insight.waiting())
        return JSONResponse({"ready": not waiting, "waiting": waiting}, 503 if waiting else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Serve the catalogue of `ingress.telemetry`."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/tollway/v1/status")
    async def status() -> dict[str, Any]:
        """Serve the state of this replica."""
        return insight.status()

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """List what the key may use, as the provider whose SDK asks would."""
        return _models(insight, request, None)

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        """Describe one model."""
        return _models(insight, request, name)

    @app.api_route("/{path:path}", methods=METHODS)
    async def nothing(request: Request) -> Response:
        """Refuse every other route: nothing is forwarded unmetered."""
        return _nothing(request)

    return app


def shape_of(request: Request) -> Shape:
    """Return in whose shape the client of a request reads errors."""
    is_anthropic = "anthropic-version" in request.headers or request.url.path.startswith("/v1/messages")
    return "anthropic" if is_anthropic else "openai"


def _nothing(request: Request) -> Response:
    path, method = request.url.path, request.method
    if allowed := b", ".join(methods_of(request.scope.get("raw_path", b""))).decode():
        told = f"{method} is not allowed on {path}; use {allowed.replace(',', ' or')}."
        return _error(request, 405, "method", told, {"allow": allowed})
    served = ", ".join(sorted(name.decode() for name in METERED))
    told = (
        f"Unknown route {method} {path[:200]}: Tollway serves POST {served}, GET /v1/models, /v1/files and /v1/batches,"
        " and forwards no other."
    )
    return _error(request, 404, "unknown_route", told)


def _error(request: Request, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = error_body(shape_of(request), status, reason, message, "")
    return Response(body, status, headers, "application/json")


def _models(insight: Insight, request: Request, name: str | None) -> Response:
    resolver = insight.resolver
    if resolver is None:
        return _error(request, 503, "not_ready", "Tollway cannot list models: no policy has been read yet.")
    secret = read_head([(key.lower(), value) for key, value in request.scope["headers"]]).secret
    key = resolver.authenticate(secret, insight.now_ms())
    if isinstance(key, Refused):
        reason = key.reason if secret else "missing_key"
        return _error(request, key.status, reason, key.message)
    shape = shape_of(request)
    protocols = {title: provider.protocol for title, provider in resolver.policy.providers.items()}
    found = [
        _entry(shape, title, entry.provider)
        for title, entry in resolver.models(key)
        if protocols[entry.provider] == shape and name in (None, title)
    ]
    if name is None:
        return _json(_listing(shape, found))
    if not found:
        return _error(request, 404, "unknown_model", f"The model {name[:128]!r} is not served here to this key.")
    return _json(found[0])


def _entry(shape: Shape, name: str, provider: str) -> dict[str, Any]:
    if shape == "anthropic":
        return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH_START}
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}


def _listing(shape: Shape, found: list[dict[str, Any]]) -> dict[str, Any]:
    if shape == "anthropic":
        first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
        return {"data": found, "has_more": False, "first_id": first, "last_id": last}
    return {"object": "list", "data": found}


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
