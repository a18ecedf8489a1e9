"""Caps on a single request: which one refuses, and what the client is told to change."""

from __future__ import annotations

import pytest

from ingress.core.caps import NO_CAPS, Cap, Caps, broken_cap
from ingress.core.errors import Shape

CAPS = Caps(Cap("short", 100), Cap("brief", 50), Cap("cheap", 2_000_000))


@pytest.mark.parametrize("amounts", [(100, 50, 2_000_000), (0, 0, 0)])
def test_a_request_as_large_as_its_caps_goes_on(amounts: tuple[int, int, int]) -> None:
    """Caps are the most that is allowed."""
    assert broken_cap(CAPS, "openai", "", *amounts) is None
    assert broken_cap(NO_CAPS, "openai", "", *(10**12 for _ in amounts)) is None


@pytest.mark.parametrize(
    ("amounts", "reason", "rule", "limit", "asked"),
    [
        ((101, 51, 2_000_001), "max_input_tokens", "short", 100, 101),
        ((100, 51, 2_000_001), "max_output_tokens", "brief", 50, 51),
        ((100, 50, 2_000_001), "max_cost", "cheap", 2_000_000, 2_000_001),
    ],
)
def test_one_more_is_refused(amounts: tuple[int, int, int], reason: str, rule: str, limit: int, asked: int) -> None:
    """The refusal names rule, limit and value."""
    broken = broken_cap(CAPS, "openai", "max_tokens", *amounts)
    assert broken is not None
    assert (broken.reason, broken.rule, broken.limit, broken.asked) == (reason, rule, limit, asked)
    assert f"'{rule}'" in broken.message


@pytest.mark.parametrize(
    ("shape", "given", "parameter"),
    [
        ("openai", "max_tokens", "max_tokens"),
        ("openai", "max_completion_tokens", "max_completion_tokens"),
        ("openai", "", "max_completion_tokens"),
        ("anthropic", "max_tokens", "max_tokens"),
    ],
)
def test_remedy_names_the_parameter_of_the_protocol(shape: Shape, given: str, parameter: str) -> None:
    """A client is told which field to set to what, and that leaving it out means the model's maximum."""
    broken = broken_cap(CAPS, shape, given, 1, 4_096, 1)
    assert broken is not None
    assert broken.parameter == parameter
    assert f"'{parameter}' of at most 50" in broken.message
    assert ("sets no" in broken.message) == (not given)


def test_cost_is_told_in_dollars() -> None:
    """Nano-USD are for machines."""
    broken = broken_cap(CAPS, "openai", "", 1, 1, 3_000_000)
    assert broken is not None
    assert "$" in broken.message or "USD" in broken.message
    assert (broken.measure, broken.parameter) == ("cost", "")
