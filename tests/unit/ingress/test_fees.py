"""Tools of the provider's: what a request that offers them holds, and what may come beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from ingress.core.ask import Ask
from ingress.core.fees import MOST_USES, NO_FEES, Fees, fees_of
from ingress.core.learned import Learned
from ingress.core.providers.openai import OpenAIStream
from ingress.core.reserving import Reservation
from ingress.core.streaming import Outflow
from schemas.money import Price, Rates

PRICE = Price("t", "v", (Rates(0, 1_000_000, 0, 0, 0, 2_000_000, 0, 0, 0),), 7, {"web_search": 10**10})
"""10,000 nano-USD a search."""
SEARCH = {"type": "web_search_20260209", "name": "web_search"}


class FakePlan:
    """What a reservation needs of a plan."""

    max_output_tokens = 100
    reserve_price = PRICE
    cuts_off = True

    def __init__(self, is_strict: bool = False) -> None:
        self.is_strict = is_strict


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, {}),
        ({"tools": []}, {}),
        ({"tools": "web_search"}, {}),
        ({"tools": [{"type": "function", "name": "web_search"}, {"name": "x"}, 1, {"type": 2}]}, {}),
        ({"tools": [SEARCH]}, {"web_search": MOST_USES}),
        ({"tools": [{**SEARCH, "max_uses": 3}, {"type": "custom"}]}, {"web_search": 3}),
        ({"tools": [{**SEARCH, "max_uses": -1}]}, {"web_search": MOST_USES}),
        ({"tools": [{"type": "web_search_preview"}], "max_tool_calls": 4}, {"web_search": 4}),
        (
            {"tools": [{"type": "file_search"}, {"type": "code_interpreter"}], "max_tool_calls": 2},
            {"file_search": 2, "code_session": 2},
        ),
    ],
)
def test_fees_are_those_of_the_tools_that_are_offered(fields: dict[str, Any], most: dict[str, int]) -> None:
    """As often as the request allows; functions of the client's own cost nothing."""
    found = fees_of(fields)
    assert (found.most, found.once) == (most, dict.fromkeys(most, 1))
    assert (found is NO_FEES) is (not most)


def _reserve(fees: Fees, *, is_strict: bool = False) -> Reservation:
    ask = Ask("m", True, 50)
    return Reservation(ask, FakePlan(is_strict), b"x" * 100, Learned().of("k", "m"), True, fees)


def test_one_use_is_held_and_the_rest_is_part_of_the_bound() -> None:
    """A strict rule holds all of them."""
    plain, fees = _reserve(NO_FEES), fees_of({"tools": [{**SEARCH, "max_uses": 3}]})
    found = _reserve(fees)
    assert found.nanos - plain.nanos == found.fee_nanos == 10_000
    assert found.miss_nanos - plain.miss_nanos == found.fees_beyond_nanos == 20_000
    assert found.tokens == plain.tokens
    strict = _reserve(fees, is_strict=True)
    assert strict.nanos - _reserve(NO_FEES, is_strict=True).nanos == 30_000
    assert strict.fees_beyond_nanos == 0


def test_what_is_held_for_fees_is_not_spent_on_words() -> None:
    """A stream has as many tokens before it asks for more as it has without tools."""
    ask, flows = Ask("m", True, 50), []
    for fees in (NO_FEES, fees_of({"tools": [SEARCH]})):
        flows.append(Outflow(ask, _reserve(fees), PRICE, OpenAIStream(False)))
    assert flows[0].covered == flows[1].covered > 0
    assert flows[0].wanted(1_000) == flows[1].wanted(1_000)
