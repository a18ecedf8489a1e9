"""Reads past usage with its corrections from the history, page after page, the next one while one is used.

Two pages are in memory at a time. Adapts `deploy.api`; knows no price.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from deploy.api import Api
from enforcer.core.repricing import PastCost
from schemas.errors import TransportError

PAGE_EVENTS = 50_000
CHUNK_BYTES = 1 << 20
_decoder = msgspec.json.Decoder(PastCost)


def events(
    api: Api, since_ms: int, until_ms: int, filters: Mapping[str, str | None], page_events: int = PAGE_EVENTS
) -> Iterator[PastCost]:
    """Yield the events of [since, until) in the order of admission. Raises as `Api.call` does."""

    def page(after: str | None) -> bytes:
        return api.lines(
            "/v1/costs", since=str(since_ms), until=str(until_ms), after=after, limit=page_events, **filters
        )

    with ThreadPoolExecutor(1, "reprice-history") as reader:
        asked = reader.submit(page, None)
        while True:
            body = asked.result()
            end, following = _last_line(body)
            if following is not None:
                asked = reader.submit(page, following)
            yield from _decoded(body, end)
            if following is None:
                return


def _last_line(body: bytes) -> tuple[int, str | None]:
    """Return where the last line begins, and what to ask for the next page."""
    end = body.rstrip(b"\n").rfind(b"\n") + 1
    try:
        last = json.loads(body[end:])
        columns, following = last["columns"], last["next"]
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError("the history's page of costs was cut off; try again") from error
    known = list(PastCost.__struct_fields__)
    if columns != known:
        raise TransportError(
            f"the history gives the columns {', '.join(columns)}, this command reads {', '.join(known)}; "
            "let both be of one version"
        )
    return end, following


def _decoded(body: bytes, end: int) -> Iterator[PastCost]:
    at = 0
    while at < end:
        cut = end if end - at <= CHUNK_BYTES else body.index(b"\n", at + CHUNK_BYTES) + 1
        yield from _decoder.decode_lines(memoryview(body)[at:cut])
        at = cut
