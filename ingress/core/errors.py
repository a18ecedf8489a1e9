"""Errors as clients see them: one table of reason codes, and their bodies in each provider's shape.

A client gets what it would get from the provider itself, so that unmodified SDKs raise the exception their users
know; what is Tollway's own is in the message, the code and the `x-tollway-*` headers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Shape = Literal["openai", "anthropic"]


class Kind(msgspec.Struct, frozen=True):
    """How one reason is told: OpenAI's type and code, Anthropic's type."""

    openai_type: str
    openai_code: str | None
    anthropic_type: str
    param: str | None = None


_INVALID = "invalid_request_error"
_KEY = Kind(_INVALID, "invalid_api_key", "authentication_error")
_PERMISSION = Kind(_INVALID, "model_not_found", "permission_error", "model")
_RATE = Kind("rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error")
_QUOTA = Kind("insufficient_quota", "insufficient_quota", "rate_limit_error")

KINDS: dict[str, Kind] = {
    "bad_request": Kind(_INVALID, "invalid_body", _INVALID),
    "body_too_large": Kind(_INVALID, "request_too_large", "request_too_large"),
    "upload_timeout": Kind(_INVALID, "request_timeout", "timeout_error"),
    "content_type": Kind(_INVALID, "unsupported_media_type", _INVALID),
    "missing_key": _KEY,
    "unknown_key": _KEY,
    "key_revoked": _KEY,
    "key_expired": _KEY,
    "unknown_org": Kind(_INVALID, "unknown_organization", "permission_error"),
    "unknown_model": Kind(_INVALID, "model_not_found", "not_found_error", "model"),
    "model_not_allowed": _PERMISSION,
    "frozen": Kind(_INVALID, "scope_frozen", "permission_error"),
    "wrong_operation": Kind(_INVALID, "unsupported_operation", _INVALID, "model"),
    "unknown_route": Kind(_INVALID, "unknown_url", "not_found_error"),
    "method": Kind(_INVALID, "method_not_supported", _INVALID),
    "max_input_tokens": Kind(_INVALID, "max_input_tokens", _INVALID),
    "max_output_tokens": Kind(_INVALID, "max_output_tokens", _INVALID),
    "max_cost": Kind(_INVALID, "max_cost", _INVALID),
    "rpm": _RATE,
    "tpm": _RATE,
    "concurrency": _RATE,
    "budget": _QUOTA,
    "blocked": _QUOTA,
    "stopping": Kind("server_error", "stopping", "api_error"),
    "not_ready": Kind("server_error", "not_ready", "api_error"),
    "detached": Kind("server_error", "detached", "api_error"),
    "spool_full": Kind("server_error", "spool_full", "api_error"),
    "batch_not_recorded": Kind("server_error", "batch_not_recorded", "api_error"),
    "no_credential": Kind("server_error", "provider_not_configured", "api_error"),
    "internal": Kind("server_error", "internal_error", "api_error"),
}
"""By reason code. A provider's fault has the code `provider_<fault>` and the kind below."""

_BY_STATUS: dict[int, Kind] = {
    400: KINDS["bad_request"],
    401: _KEY,
    403: _PERMISSION,
    404: KINDS["unknown_model"],
    429: _RATE,
    502: Kind("server_error", "provider_fault", "api_error"),
    503: KINDS["not_ready"],
    504: Kind("server_error", "provider_timeout", "timeout_error"),
}

FAULTS: dict[str, tuple[int, str]] = {
    "connect": (502, "could not be reached"),
    "connect_timeout": (504, "did not accept a connection in time"),
    "first_byte_timeout": (504, "did not begin its answer in time"),
    "idle_timeout": (504, "fell silent inside its answer"),
    "total_timeout": (504, "did not finish its answer in time"),
    "reset": (502, "closed the connection before answering"),
    "truncated": (502, "cut its answer short"),
    "protocol": (502, "sent an answer that is not HTTP/1.1"),
    "head_too_large": (502, "sent an answer whose head is too large"),
    "pool_exhausted": (503, "has no free connection: all that the policy's max_connections allows are busy"),
    "answer_too_large": (502, "sent an answer that is larger than this gateway takes"),
}
"""Faults of providers (`ProviderFault.kind`, and our own): the status and what a client is told."""


def kind_of(reason: str, status: int) -> Kind:
    """Return how `reason` is told; a reason that is not in the table is told by its status."""
    kind = KINDS.get(reason)
    if kind is None:
        kind = _BY_STATUS.get(status, KINDS["bad_request"] if status < 500 else KINDS["internal"])
    return kind


def error_body(shape: Shape, status: int, reason: str, message: str, request_id: str, parameter: str = "") -> bytes:
    """Return the JSON body of an error as the provider of `shape` would send it; `parameter` is of the request."""
    kind = kind_of(reason, status)
    if shape == "anthropic":
        problem = {"type": kind.anthropic_type, "message": message}
        return msgspec.json.encode({"type": "error", "error": problem, "request_id": request_id})
    code = reason if reason.startswith("provider_") else kind.openai_code
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind.openai_type, "param": parameter or kind.param, "code": code}}
    )


def fault_message(provider: str, fault: str, detail: str) -> str:
    """Return what a client is told of a provider's fault; `detail` never holds bytes of request or answer."""
    told = FAULTS.get(fault, (502, "failed"))[1]
    return f"The provider {provider!r} {told}" + (f" ({detail})." if detail else ".")
