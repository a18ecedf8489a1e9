"""OpenAI's files and batches: passed through for an account, and counted as requests that cost nothing by themselves.

Neither names a model: the policy says with which entry under `models` they are sent, by its `operations`. What the
requests of a batch used stands in the batch once it is over (`usage`, of batches created since September 2025), and in
each line of its files, whose answers are those of the operations by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingress.core.ask import Ask
from ingress.core.batches import UNREAD, Witness, count_in, has_id, line_of, ms_of, objects_in, text_in
from ingress.core.expected import LATER, NOTHING
from ingress.core.holding import BytesReader
from ingress.core.providers import openai, openai_images, responses
from ingress.core.providers.openai_usage import NO_USAGE, report
from ingress.core.reported import ERROR_ANSWER, Reported
from ingress.core.sse import ERROR_MARK
from schemas.batches import BatchSeen, Line
from schemas.operations import OPERATIONS
from schemas.tokens import NO_TOKENS

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)
_OVER = {
    "completed": "completed_at", "failed": "failed_at", "expired": "expired_at", "cancelled": "cancelled_at",
}  # fmt: skip
"""States in which nothing more is done for a batch, and the member that says since when."""
_FILES = ("output_file_id", "error_file_id")
_WITHOUT_OUTPUT = frozenset({"embeddings", "moderations"})


class _Response(msgspec.Struct):
    status_code: Any = None
    body: msgspec.Raw = NO_USAGE


class _Line(msgspec.Struct):
    custom_id: Any = None
    response: _Response | msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Body(msgspec.Struct):
    object: Any = None
    created: Any = None
    created_at: Any = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    results: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_READERS: dict[str, tuple[str, Callable[[bytes], Reported]]] = {
    "chat.completion": ("chat.completions", openai.read_answer),
    "response": ("responses", responses.read_answer),
    "response.compaction": ("responses.compact", responses.read_answer),
    "text_completion": ("completions", openai.read_answer),
    "list": ("embeddings", openai.read_embedded),
}
"""By what an answer says that it is: its operation, and what reads its usage."""


def read_passed(fields: dict[str, Any]) -> Ask:
    """Understand a request that names no model."""
    return Ask("", output_tokens=0, is_free=True, expected=NOTHING)


def read_created(fields: dict[str, Any]) -> Ask:
    """Understand a request that creates a batch: nothing is known of its cost, but a budget must not be used up."""
    return Ask("", output_tokens=0, is_free=True, expected=LATER)


def prepare(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body as it is."""
    return body


def read_answer(body: bytes) -> Reported:
    """Return what an answer reports: no usage of its own, whatever usage of other requests stands in it."""
    return Reported(is_final=False, failed=ERROR_ANSWER if ERROR_MARK in body[:64] and openai.is_failure(body) else "")


class NoEvents(BytesReader):
    """Reads an answer that should be no stream of events: not at all."""

    __slots__ = ()


# -- batches -----------------------------------------------------------------------------------------------------------


def batches_in(body: bytes, witness: Witness, is_created: bool) -> list[BatchSeen]:
    """Return the batches that an answer describes."""
    found = [item for item in objects_in(body) if item.get("object") == "batch" and has_id(item)]
    return [_seen(item, witness, is_created) for item in found]


def _seen(item: dict[str, Any], witness: Witness, is_created: bool) -> BatchSeen:
    ended = _OVER.get(text_in(item, "status"))
    operation = _operation_of(text_in(item, "endpoint"))
    requests = count_in(item.get("request_counts"), "completed")
    reported = None if ended is None else _total(item, operation)
    return BatchSeen(
        witness.provider, item["id"], witness.seen_ms, witness.attribution, is_created, operation, ended is not None,
        0 if ended is None else ms_of(item.get(ended)), tuple(filter(None, (text_in(item, name) for name in _FILES))),
        text_in(item, "model"), None if reported is None else reported.usage, requests,
        () if reported is None else reported.flags,
    )  # fmt: skip


def _operation_of(endpoint: str) -> str:
    """Return the name of the operation that a batch is for; empty if it has none here."""
    name = endpoint.removeprefix("/v1/").replace("/", ".")
    return name if name in OPERATIONS["openai"] else ""


def _total(item: dict[str, Any], operation: str) -> Reported | None:
    """Return what all of a batch used; None if it does not say it, or not so that all of it can be believed."""
    usage = item.get("usage")
    if not isinstance(usage, dict):
        return None
    has_output = operation not in _WITHOUT_OUTPUT
    reported = report(item.get("model"), msgspec.json.encode(usage), None, None, has_output)
    return reported if reported.is_final and reported.usage is not None and reported.usage.total else None


# -- lines of results --------------------------------------------------------------------------------------------------


def read_line(raw: bytes) -> Line | None:
    """Return what a line of a file of results used; None if nothing, `UNREAD` if it is no such line."""
    try:
        line = _decode_line(raw)
    except _FAULTS:
        return UNREAD
    if line.response is msgspec.UNSET and line.error is msgspec.UNSET:
        return UNREAD
    response = line.response
    if response is msgspec.UNSET or response is None:
        return None
    body = bytes(response.body)
    is_answer = response.status_code is None or (type(response.status_code) is int and response.status_code < 300)
    if body == b"null" or not (is_answer or b'"usage"' in body):
        return None
    operation, occurred_ms, reported = _answer_in(body)
    if reported.usage is None and (not is_answer or reported.failed) and not reported.units:
        return None
    return line_of(line.custom_id, reported, operation, occurred_ms)


def _answer_in(raw: bytes) -> tuple[str, int, Reported]:
    """Return operation, moment and report of the answer that a line holds."""
    try:
        body = _decode_body(raw)
    except _FAULTS:
        return "", 0, openai.read_answer(raw)
    occurred_ms = ms_of(body.created) or ms_of(body.created_at)
    if type(body.object) is str and body.object in _READERS:
        operation, read = _READERS[body.object]
        return operation, occurred_ms, read(raw)
    if body.object is None and body.data is not msgspec.UNSET:
        return "", occurred_ms, _images_in(raw)
    if body.object is None and body.results is not msgspec.UNSET:
        return "moderations", occurred_ms, openai.read_moderated(raw)
    return "", occurred_ms, openai.read_answer(raw)


def _images_in(raw: bytes) -> Reported:
    """Return the report of images: tokens where they are told, else how many images there are."""
    reported = openai_images.read_answer(raw)
    if reported.usage is not None and reported.usage.total:
        return msgspec.structs.replace(reported, units={})
    return msgspec.structs.replace(reported, usage=NO_TOKENS) if reported.units else reported
