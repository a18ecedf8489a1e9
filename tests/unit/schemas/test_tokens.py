"""Token classes: disjoint, and summed without omission."""

from __future__ import annotations

import msgspec
import pytest

from schemas.tokens import NO_TOKENS, TokenUsage


def test_the_total_is_the_sum_of_all_classes() -> None:
    """No class is left out of the total, nor counted in both directions."""
    fields = [field.name for field in msgspec.structs.fields(TokenUsage)]
    usage = TokenUsage(**{name: 10**index for index, name in enumerate(fields)})
    assert usage.total == int("1" * len(fields))
    assert usage.all_input + usage.all_output == usage.total


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(TokenUsage)])
def test_usage_is_plain_only_without_special_classes(name: str) -> None:
    """The rater's short cut is taken only when nothing but input and output was used."""
    assert TokenUsage(**{name: 1}).plain is (name in ("input", "output"))


def test_no_tokens_is_zero() -> None:
    """The constant for «nothing used» counts nothing."""
    assert NO_TOKENS.total == 0
