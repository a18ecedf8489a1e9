"""The fold of the control topics: what is read is what is believed."""

from __future__ import annotations

import pytest

from enforcer.core.control import ControlState
from enforcer.core.policy import candidate, record
from schemas.blocks import BlockEntry
from schemas.codec import encode_json
from schemas.errors import DecodeError
from schemas.keys import VirtualKey
from schemas.topics import ALERTS_SENT, BLOCKS, KEYS, POLICY
from tests.unit.enforcer.enforcer_parts import DOCUMENT, no_prices, with_amount


def _entry(until_s: int) -> BlockEntry:
    return BlockEntry("r", "org=a", "block", "budget_exhausted", "cost", 1, 1, "w", 0, until_s, 1)


def test_the_highest_version_is_in_force_in_whatever_order_they_come() -> None:
    """An older version, read later, does not replace a newer one."""
    state = ControlState()
    for number, text in ((2, with_amount("7 USD")), (1, DOCUMENT)):
        version = record(candidate(text, no_prices), number, 0, "me", "")
        state.apply(POLICY, version.key.encode(), encode_json(version))
    assert state.version == 2
    assert state.budgets.by_name["team-month"].amount == 7_000_000_000
    before = state.before(2)
    assert before is not None
    assert before.policy.budgets[0].amount == 100_000_000_000
    assert state.unpriced == ["gpt-4o-mini"]


def test_an_older_block_entry_never_replaces_a_newer_one() -> None:
    """By the end of the window; a tombstone lifts."""
    state = ControlState()
    for until_s in (20, 10):
        state.apply(BLOCKS, b"r/org=a", encode_json(_entry(until_s)))
    assert state.blocks["r/org=a"].until_s == 20
    state.apply(BLOCKS, b"r/org=a", None)
    state.apply(BLOCKS, b"r/org=a", None)
    assert state.blocks == {}


def test_markers_and_keys_are_taken_as_they_are() -> None:
    """The last record of a key wins; a marker may be removed."""
    state = ControlState()
    for revoked_ms in (None, 5):
        state.apply(KEYS, b"k", encode_json(VirtualKey("k", "h", "acme", revoked_ms=revoked_ms)))
    assert state.keys["k"].revoked_ms == 5
    state.apply(ALERTS_SENT, b"a", b"12")
    assert state.sent == {"a": 12}
    state.apply(ALERTS_SENT, b"a", None)
    assert state.sent == {}


@pytest.mark.parametrize(("topic", "value"), [(POLICY, b"{}"), (KEYS, None), (BLOCKS, b"nonsense")])
def test_what_is_none_of_ours_is_a_fault(topic: object, value: bytes | None) -> None:
    """The control plane does not skip what it cannot read."""
    with pytest.raises(DecodeError):
        ControlState().apply(topic, b"k", value)  # type: ignore[arg-type]  # a table of topics
