"""The metered routes, by the exact path, or by the form of those with ids.

Every other path belongs to the ASGI application, which forwards nothing.
"""

from __future__ import annotations

from ingress.core.protocols import OPERATIONS, Operation
from ingress.core.protocols_media import MEDIA_OPERATIONS, account_methods, account_operation

METERED: dict[bytes, Operation] = {b"/v1" + operation.path: operation for operation in (*OPERATIONS, *MEDIA_OPERATIONS)}
"""Posted to."""


def find(method: bytes, path: bytes) -> Operation | None:
    """Return the operation of a request; None if it belongs to the ASGI application."""
    operation = METERED.get(path)
    if operation is None:
        return account_operation(method, path)
    return operation if method == b"POST" else None


def methods_of(path: bytes) -> tuple[bytes, ...]:
    """Return the methods that a metered path takes; none if it is none."""
    return (b"POST",) if path in METERED else account_methods(path)
