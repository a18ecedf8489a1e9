"""Answers of the admin API: values and refusals as JSON, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Response
from fastapi.responses import JSONResponse

from enforcer.errors import Refusal
from enforcer.telemetry import Telemetry


def made(
    made: Any, show: Callable[[Any], Any], telemetry: Telemetry, action: str | None, status: int = 200
) -> Response:
    """Return the answer to a change: what was made, or why not; either is counted."""
    if isinstance(made, Refusal):
        telemetry.count("refused_changes", str(made.status))
        return refuse(made)
    if action is not None:
        telemetry.count("changes", action)
    return as_json(show(made), status)


def refuse(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    """Return a refusal as an answer."""
    return JSONResponse(refusal.body(), refusal.status, headers)


def as_json(value: Any, status: int = 200) -> Response:
    """Return a value as an answer."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
