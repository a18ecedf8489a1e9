"""Pages of a list, newest first, by the cursors of both APIs. Pure."""

from typing import Any
from urllib.parse import parse_qs

from deploy.simulator.wishes import BadRequest


def page_of(items: list[dict[str, Any]], target: bytes) -> dict[str, Any]:
    """Return the page of `items`, which are in the order of their creation, that the query of a target asks for.

    Raises `BadRequest`.
    """
    query = {name: values[-1] for name, values in parse_qs(target.partition(b"?")[2].decode("latin-1")).items()}
    newest = items[::-1]
    names = [item["id"] for item in newest]
    limit = query.get("limit", "20")
    if not limit.isdigit() or not 1 <= int(limit) <= 1_000:
        raise BadRequest(f"limit: {limit!r} is not a whole number from 1 to 1000")
    start, end = 0, len(newest)
    if after := query.get("after", query.get("after_id")):
        start = _place(names, after) + 1
    if before := query.get("before_id"):
        end = _place(names, before)
        start = max(start, end - int(limit))
    found = newest[start:end][: int(limit)]
    has_more = start > 0 if before else start + len(found) < end
    ends = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return {"data": found, "first_id": ends[0], "last_id": ends[1], "has_more": has_more}


def _place(names: list[str], name: str) -> int:
    if name not in names:
        raise BadRequest(f"cursor: there is no {name!r}")
    return names.index(name)
