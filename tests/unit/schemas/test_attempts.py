"""What the policy says of hang-ups and of providers that fail."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ingress.core.errors import FAULTS
from schemas.attempts import Drain, Fallback
from schemas.policy import Policy
from schemas.policy_file import load_policy

WHOLE: dict[str, Any] = {
    "orgs": {"acme": {}},
    "providers": {
        "p": {"protocol": "openai", "base_url": "simulated"},
        "a": {"protocol": "anthropic", "base_url": "simulated"},
    },
}


def _policy(**models: Any) -> Policy:
    return Policy.model_validate({**WHOLE, "models": {name: {"provider": "p", **m} for name, m in models.items()}})


def test_answers_are_read_on_within_a_cap_unless_the_policy_says_otherwise() -> None:
    """The defaults: 30 s and 8 MiB, for every provider; models have nothing of their own."""
    policy = _policy(big={})
    provider = policy.providers["p"]
    assert (provider.on_disconnect, provider.drain.most_time, provider.drain.most_bytes) == ("drain", 30_000, 8 << 20)
    assert (policy.models["big"].on_disconnect, policy.models["big"].drain) == (None, None)


def test_caps_are_written_with_units() -> None:
    """Durations and sizes as people write them."""
    drain = Drain.model_validate({"most_time": "2m", "most_bytes": "512 KiB"})
    assert (drain.most_time, drain.most_bytes) == (120_000, 524_288)


@pytest.mark.parametrize("wrong", [{"most_bytes": "8 MB"}, {"most_bytes": True}, {"most_bytes": 5}, {"most_time": 0}])
def test_a_cap_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Unknown units, and caps that are none."""
    with pytest.raises(ValidationError):
        Drain.model_validate(wrong)


def test_a_fallback_says_after_what() -> None:
    """YAML reads 429 as a number; a single word needs no list; left out, it is all of them."""
    only = Fallback.model_validate({"to": "b", "after": [429, "5xx"]})
    assert [only.takes_status(status) for status in (429, 500, 529, 400, 200)] == [True, True, True, False, False]
    assert not any(only.takes_fault(kind) for kind in FAULTS)
    assert Fallback.model_validate({"to": "b", "after": "timeout"}).takes_fault("idle_timeout")


def test_a_fallback_without_more_is_after_every_fault_of_a_provider() -> None:
    """All faults but those that another provider would have too: an answer, or its head, that is too large here."""
    every = Fallback(to="b")
    assert {kind for kind in FAULTS if not every.takes_fault(kind)} == {"answer_too_large", "head_too_large"}


@pytest.mark.parametrize(
    ("models", "remedy"),
    [
        ({"big": {"fallback": {"to": "none"}}}, "name a model of this document"),
        ({"big": {"fallback": {"to": "big"}}}, "round in a circle (big → big)"),
        ({"big": {"fallback": {"to": "s"}}, "s": {"fallback": {"to": "big"}}}, "round in a circle"),
        ({"big": {"fallback": {"to": "c"}}, "c": {"provider": "a"}}, "it speaks anthropic, not openai"),
        ({"big": {"fallback": {"to": "s", "after": ["4xx"]}}, "s": {}}, "Input should be"),
    ],
)
def test_a_fallback_leads_to_another_model_of_the_protocol(models: dict[str, Any], remedy: str) -> None:
    """Ways that lead nowhere, round in a circle, or to what clients cannot read, are refused with a remedy."""
    with pytest.raises(ValueError, match="fallback") as refused:
        _policy(**models)
    assert remedy in str(refused.value)


def test_a_document_in_yaml_says_all_of_it() -> None:
    """As people write it, sizes, durations and statuses without quotes included."""
    document = """
orgs: {acme: {}}
providers: {p: {protocol: openai, base_url: simulated, on_disconnect: cancel}}
models:
  big: {provider: p, on_disconnect: drain, drain: {most_time: 5s, most_bytes: 1 MiB}, fallback: {to: s, after: [429]}}
  s: {provider: p}
"""
    policy = load_policy(document)
    big = policy.models["big"]
    assert (policy.providers["p"].on_disconnect, big.on_disconnect) == ("cancel", "drain")
    assert (big.drain, big.fallback) == (Drain(most_time=5_000, most_bytes=1 << 20), Fallback(to="s", after=("429",)))
