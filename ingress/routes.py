"""The metered routes, by the exact path; every other path belongs to the ASGI application, which forwards nothing."""

from __future__ import annotations

from ingress.core.protocols import OPERATIONS, Operation

METERED: dict[bytes, Operation] = {b"/v1" + operation.path: operation for operation in OPERATIONS}
