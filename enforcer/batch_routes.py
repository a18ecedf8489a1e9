"""The route about batches: what is known of them, and what was charged."""

from __future__ import annotations

from fastapi import FastAPI, Response

from enforcer.answers import as_json, refuse
from enforcer.batches import Batcher
from enforcer.core.batch_view import listed
from enforcer.errors import Refusal

MAX_LISTED = 1_000


def add(app: FastAPI, batcher: Batcher) -> None:
    """Add it to the application."""

    @app.get("/v1/batches")
    async def batches(org: str | None = None, provider: str | None = None, limit: str = "100") -> Response:
        """Return batches, the newest first. Before everything is read that was charged, `complete` is false."""
        if not limit.isdecimal():
            return refuse(Refusal(422, f"limit: {limit!r} is no number; write one from 0 to {MAX_LISTED}", "limit"))
        books = batcher.state.books
        found = listed(books.values(), org, provider, min(int(limit), MAX_LISTED))
        return as_json({"batches": found, "known": len(books), "complete": batcher.is_read})
