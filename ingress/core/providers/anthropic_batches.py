"""Anthropic's message batches: passed through for an account; what their requests used stands in the results.

A batch that has ended names an address of its results, which is the provider's own. It is made to lead here, so that
results are seen; requests that were not answered (errored, canceled, expired) are billed by nobody.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ingress.core.batches import UNREAD, Witness, count_in, has_id, line_of, objects_in, text_in
from ingress.core.providers import anthropic
from ingress.core.providers.anthropic_usage import NO_USAGE
from ingress.core.reported import ERROR_ANSWER, Reported
from ingress.core.sse import ERROR_MARK
from schemas.batches import BatchSeen, Line

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)
_MESSAGES = "messages"


class _Result(msgspec.Struct):
    type: Any = None
    message: msgspec.Raw = NO_USAGE


class _Line(msgspec.Struct):
    custom_id: Any = None
    result: _Result | msgspec.UnsetType = msgspec.UNSET


class _Kind(msgspec.Struct):
    type: Any = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_any = msgspec.json.Decoder().decode


def read_answer(body: bytes) -> Reported:
    """Return what an answer reports: no usage of its own."""
    try:
        has_failed = ERROR_MARK in body[:64] and _decode_kind(body).type == "error"
    except _FAULTS:
        has_failed = False
    return Reported(is_final=False, failed=ERROR_ANSWER if has_failed else "")


def batches_in(body: bytes, witness: Witness, is_created: bool) -> list[BatchSeen]:
    """Return the batches that an answer describes."""
    found = [item for item in objects_in(body) if item.get("type") == "message_batch" and has_id(item)]
    return [_seen(item, witness, is_created) for item in found]


def _seen(item: dict[str, Any], witness: Witness, is_created: bool) -> BatchSeen:
    return BatchSeen(
        witness.provider, item["id"], witness.seen_ms, witness.attribution, is_created, _MESSAGES,
        item.get("processing_status") == "ended", _ms_of(text_in(item, "ended_at")),
        requests=count_in(item.get("request_counts"), "succeeded"),
    )  # fmt: skip


def read_line(raw: bytes) -> Line | None:
    """Return what a line of results used; None if nothing, `UNREAD` if it is no such line."""
    try:
        line = _decode_line(raw)
    except _FAULTS:
        return UNREAD
    if line.result is msgspec.UNSET:
        return UNREAD
    message = bytes(line.result.message)
    is_answer = line.result.type == "succeeded"
    if not is_answer and (message == b"null" or b'"usage"' not in message):
        return None
    reported = anthropic.read_answer(message)
    if reported.usage is None and not is_answer:
        return None
    return line_of(line.custom_id, reported, _MESSAGES)


def lead_here(body: bytes, url: str) -> bytes:
    """Return an answer whose addresses of results are below `url`, which is this gateway's; else it is the same."""
    if b'"results_url"' not in body:
        return body
    try:
        found = _decode_any(body)
    except _FAULTS:
        return body
    page = found.get("data") if isinstance(found, dict) else None
    items = page if isinstance(page, list) else [found]
    is_changed = False
    for item in items:
        if isinstance(item, dict) and item.get("results_url") and has_id(item):
            item["results_url"] = f"{url}/v1/messages/batches/{item['id']}/results"
            is_changed = True
    return msgspec.json.encode(found) if is_changed else body


def _ms_of(moment: str) -> int:
    """Return a moment of RFC 3339 as unix milliseconds; 0 for anything else."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return 0
    return 0 if at.tzinfo is None else max(0, int(at.timestamp() * 1000))
