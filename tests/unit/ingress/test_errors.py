"""Errors have the shape of the provider whose SDK will read them."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from ingress.adapters.provider.port import FaultKind
from ingress.core.errors import FAULTS, KINDS, error_body, fault_message


@pytest.mark.parametrize("reason", [*KINDS, "provider_reset", "something_new"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 429, 500, 502, 503, 504])
def test_every_reason_has_both_shapes(reason: str, status: int) -> None:
    """No reason, known or not, is told in a shape that an SDK cannot read."""
    told = msgspec.json.decode(error_body("openai", status, reason, "why", "r-1"))
    assert set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    told = msgspec.json.decode(error_body("anthropic", status, reason, "why", "r-1"))
    assert (told["type"], told["request_id"], told["error"]["message"]) == ("error", "r-1", "why")
    assert set(told["error"]) == {"type", "message"}


@pytest.mark.parametrize(
    ("reason", "status", "openai", "anthropic"),
    [
        ("missing_key", 401, ("invalid_request_error", "invalid_api_key", None), "authentication_error"),
        ("unknown_model", 404, ("invalid_request_error", "model_not_found", "model"), "not_found_error"),
        ("rpm", 429, ("rate_limit_exceeded", "rate_limit_exceeded", None), "rate_limit_error"),
        ("tpm", 429, ("rate_limit_exceeded", "rate_limit_exceeded", None), "rate_limit_error"),
        ("budget", 429, ("insufficient_quota", "insufficient_quota", None), "rate_limit_error"),
        ("blocked", 429, ("insufficient_quota", "insufficient_quota", None), "rate_limit_error"),
        ("provider_reset", 502, ("server_error", "provider_reset", None), "api_error"),
        ("provider_idle_timeout", 504, ("server_error", "provider_idle_timeout", None), "timeout_error"),
    ],
)
def test_reason_is_told_as_the_provider_would(reason: str, status: int, openai: Any, anthropic: str) -> None:
    """Types and codes are those that SDKs and their users know."""
    error = msgspec.json.decode(error_body("openai", status, reason, "why", "r"))["error"]
    assert (error["type"], error["code"], error["param"]) == openai
    assert msgspec.json.decode(error_body("anthropic", status, reason, "why", "r"))["error"]["type"] == anthropic


def test_every_fault_of_the_pool_is_told() -> None:
    """Each kind of fault has a status that blames the provider's side, and words of its own."""
    for kind in get_args(FaultKind):
        assert FAULTS[kind][0] in (502, 503, 504)
        assert fault_message("p", kind, "detail") == f"The provider 'p' {FAULTS[kind][1]} (detail)."
