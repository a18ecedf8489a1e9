"""Request bodies by what an operation takes: a JSON object, a form, either of them, or anything."""

from __future__ import annotations

from typing import Any

from ingress.core.head import RequestHead
from ingress.core.multipart import read_form
from ingress.core.protocols import Operation
from ingress.core.strict_json import read_object

WANTED = {
    "json": "'content-type: application/json' and no content-encoding",
    "form": "'content-type: multipart/form-data' with a boundary, and no content-encoding",
    "either": "'content-type: application/json', or multipart/form-data with a boundary, and no content-encoding",
    "anything": "no content-encoding",
}
"""What a request must have, by what its operation takes."""


def takes(operation: Operation, head: RequestHead) -> bool:
    """Tell whether an operation takes bodies of the kind that a head announces."""
    kind = operation.takes
    if kind == "json" or kind == "anything":
        return head.is_json or kind == "anything"
    return bool(head.boundary) or (kind == "either" and head.is_json)


def read_fields(operation: Operation, head: RequestHead, body: bytes) -> dict[str, Any]:
    """Return the fields of a body; `InputError` says what is wrong with it."""
    if operation.takes == "json":
        return read_object(body)
    if operation.takes == "anything":
        return {}
    return read_form(body, head.boundary) if head.boundary else read_object(body)
