"""Routes of the price book: what models cost, what they cost when and since when we know, and recording prices."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from enforcer.answers import as_json, made, refuse
from enforcer.core.book import FOR_EVER
from enforcer.core.control import ControlState
from enforcer.core.price_report import describe_entry, example
from enforcer.core.pricing import describe
from enforcer.errors import Refusal
from enforcer.prices import RECORDED, PricePlane
from enforcer.requests import PricesBody, read_body
from enforcer.telemetry import Telemetry
from schemas.codec import encode_json
from schemas.money import Price

LINES = "application/x-ndjson"


def add(app: FastAPI, plane: PricePlane, state: ControlState, telemetry: Telemetry) -> None:
    """Add them to the application."""
    _recording(app, plane, telemetry)
    _reading(app, state)


def _recording(app: FastAPI, plane: PricePlane, telemetry: Telemetry) -> None:
    @app.post("/v1/prices")
    async def record(request: Request) -> Response:
        """Record what a price file says, or what the bundled list says; with `dry_run` only say what that changes."""
        body = await read_body(request, PricesBody)
        if isinstance(body, Refusal):
            return refuse(body)
        found = await plane.record(body.document, body.actor, body.reason, body.dry_run, body.base)
        return made(found, msgspec.to_builtins, telemetry, None if body.dry_run else RECORDED)


def _reading(app: FastAPI, state: ControlState) -> None:
    @app.get("/v1/prices")
    async def current() -> Response:
        """Return the prices that replicas rate with now, by model and by organisation."""
        record, policy = state.current, state.policy
        if record is None or policy is None:
            return as_json({"models": [], "version": 0, "prices_revision": 0, "entries": len(state.book)})
        models = [_shown("", name, record.prices.get(name)) for name in policy.models]
        models += [_shown(org, name, price) for org, own in record.org_prices.items() for name, price in own.items()]
        for model in models:
            found = policy.models[model["name"]]
            model |= {"provider": found.provider, "model": found.upstream or model["name"]}
        return as_json({
            "models": models, "version": record.version, "prices_revision": record.prices_revision,
            "entries": len(state.book),
        })  # fmt: skip

    @app.get("/v1/prices/history")
    async def history(model: str = "", provider: str = "", org: str | None = None, kind: str = "") -> Response:
        """Return entries of the book in the order of recording, with both times."""
        wanted = {name: value for name, value in (("provider", provider), ("kind", kind)) if value}
        found = [
            describe_entry(held)
            for held in state.book.entries.values()
            if all(getattr(held.entry, name) == value for name, value in wanted.items())
            and (not model or model in (held.entry.model, held.entry.name))
            and (org is None or held.entry.org == org)
        ]  # fmt: skip
        return as_json({"entries": found})

    @app.get("/v1/prices/book")
    async def book() -> Response:
        """Return all entries as they are on the topic, a line each, in the order of recording."""
        lines = b"\n".join(encode_json(held.entry) for held in state.book.entries.values())
        return Response(lines, media_type=LINES)

    @app.get("/v1/prices/at")
    async def at(
        provider: str, model: str, at_ms: str, known_at_ms: str = "", org: str = "", name: str = ""
    ) -> Response:
        """Return the price of a model at a moment, as the book knew it at another."""
        known = known_at_ms or str(FOR_EVER)
        if not (at_ms.isdecimal() and known.isdecimal()):
            return refuse(Refusal(422, "at_ms and known_at_ms are unix milliseconds", "at_ms"))
        price = state.book.price_at(org, provider, model, int(at_ms), int(known), name)
        return as_json(_shown(org, model, price))


def _shown(org: str, name: str, price: Price | None) -> dict[str, Any]:
    shown = None if price is None else describe(price)
    return {"org": org, "name": name, "price": shown, "example": "" if price is None else example(price)}
