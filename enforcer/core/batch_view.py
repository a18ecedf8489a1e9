"""What the API says of batches: plain values, amounts exact, every field named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from enforcer.core.decisions import usd_text
from schemas.batches import Book
from schemas.codec import decode_attribution

OVER, UNDER_WAY = "over", "under way"


def listed(books: Iterable[Book], org: str | None, provider: str | None, most: int) -> list[dict[str, Any]]:
    """Return batches of an organisation and a provider, or of all, the newest first."""
    found: list[dict[str, Any]] = []
    for book in sorted(books, key=lambda book: (-book.first_seen_ms, book.provider, book.batch_id)):
        if len(found) >= most:
            break
        if provider in (None, book.provider):
            described = describe(book)
            if org in (None, described["owner"]["org"]):
                found.append(described)
    return found


def describe(book: Book) -> dict[str, Any]:
    """Return what is known of a batch; amounts in nano-USD and as text, times in unix ms."""
    owner = decode_attribution(book.attribution)
    return {
        "batch": book.batch_id,
        "provider": book.provider,
        "owner": {
            "org": owner.org, "project": owner.project, "team": owner.team, "user": owner.user, "key": owner.key_id,
        },
        "is_created_here": book.is_owned,
        "state": OVER if book.is_over else UNDER_WAY,
        "operation": book.operation,
        "model": book.model,
        "first_seen_ms": book.first_seen_ms,
        "ended_ms": book.ended_ms or None,
        "answered": book.total_requests,
        "charged_by": book.charged or None,
        "requests": book.requests,
        "tokens": book.tokens,
        "cost_nanos": book.cost_nanos,
        "cost_usd": usd_text(book.cost_nanos),
        "unpriced": book.unpriced,
    }  # fmt: skip
