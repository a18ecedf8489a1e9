"""Laws of keys: following a document twice changes nothing, and what works is what it lists, but for revocations."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.core.keys import follow, revoked, works
from schemas.keys import VirtualKey
from schemas.policy import Policy
from tests.unit.enforcer.enforcer_parts import DOCUMENT, policy

IDS = ("a", "b", "c")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.frozensets(st.sampled_from(IDS))),
        st.tuples(st.just("revoke"), st.frozensets(st.sampled_from(IDS), min_size=1, max_size=1)),
    ),
    max_size=8,
)


@functools.cache
def _listing(ids: frozenset[str]) -> Policy:
    lines = [f"  - {{id: {key}, hash: 'sha256:{key * 64}', org: acme}}" for key in sorted(ids)]
    return policy(DOCUMENT + ("keys:\n" + "\n".join(lines) + "\n" if lines else ""))


@settings(max_examples=60)
@given(steps)
def test_working_keys_are_the_listed_ones_but_those_revoked_by_hand(path: list[tuple[str, frozenset[str]]]) -> None:
    """Over any history of documents and revocations; a key listed anew works again."""
    keys: dict[str, VirtualKey] = {}
    current: Policy | None = None
    by_hand: set[str] = set()
    listed: frozenset[str] = frozenset()
    for now_ms, (kind, ids) in enumerate(path, start=1):
        if kind == "revoke":
            touched = ids & listed
            keys |= {key: revoked(keys[key], now_ms) for key in touched}
            by_hand |= touched
            continue
        published = follow(current, _listing(ids), now_ms, keys, now_ms)
        keys |= {key.id: key for key in published}
        assert follow(current, _listing(ids), now_ms, keys, now_ms + 1) == []
        by_hand &= ids & listed
        current, listed = _listing(ids), ids
        assert {key.id for key in keys.values() if works(key, now_ms)} == listed - by_hand
