"""Keys that move: what changes, what cannot, and what the audit chain has of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enforcer.core.audit import KEY_CREATED, KEY_MOVED, Chain, missing, owner
from enforcer.core.diff import Document
from enforcer.core.key_moves import Move, described, moved, problems
from enforcer.core.policy import read
from schemas.keys import VirtualKey
from tests.unit.enforcer.enforcer_parts import DOCUMENT

KEY = VirtualKey("key_1", "sha256:" + "0" * 64, "acme", team="search", user="ada", tags={"env": "prod", "app": "web"})


@pytest.fixture
def document() -> Document:
    """Return the policy of these tests."""
    return read(DOCUMENT)


@pytest.mark.parametrize(
    ("move", "changed"),
    [
        (Move(team="ml"), {"team": "ml"}),
        (Move(user="", project="chat"), {"user": "", "project": "chat"}),
        (Move(tags={"env": "dev", "app": ""}), {"tags": {"env": "dev"}}),
        (Move(), {}),
    ],
)
def test_only_what_is_named_changes(move: Move, changed: dict[str, Any]) -> None:
    """The secret's hash, the id, the organisation and all that is left out stay."""
    assert moved(KEY, move) == msgspec.structs.replace(KEY, **changed)


def test_what_cannot_be_moved_is_told_with_a_remedy(document: Document) -> None:
    """Unknown teams, keys of the document, revoked and expired keys."""
    assert problems(document.policy, KEY, Move(team="search"), 0) == []
    ((field, value, _),) = problems(document.policy, KEY, Move(team="nobody"), 0)
    assert (field, value) == ("team", "nobody")
    for key, word in (
        (msgspec.structs.replace(KEY, source="policy"), "apply the document"),
        (msgspec.structs.replace(KEY, revoked_ms=5), "revoked"),
        (msgspec.structs.replace(KEY, expires_ms=5), "expired"),
    ):
        ((_, value, remedy),) = problems(document.policy, key, Move(team="search"), 10)
        assert value == "key_1"
        assert word in remedy
    assert problems(None, KEY, Move(), 0)


def test_a_move_that_a_crash_kept_from_the_chain_is_completed_once() -> None:
    """The chain says whom a key belonged to; a key that says otherwise was moved."""
    chain, after = Chain(), moved(KEY, Move(team="ml"))
    for action, detail in ((KEY_CREATED, owner(KEY)), (KEY_MOVED, described(KEY, after))):
        assert [lack[1] for lack in missing(chain, [], [KEY])] == ([KEY_CREATED] if action == KEY_CREATED else [])
        if action == KEY_MOVED:
            ((_, what, subject, said),) = missing(chain, [], [after])
            assert (what, subject, said["after"]["team"], said["recovered"]) == (KEY_MOVED, "key_1", "ml", True)
        chain.append(chain.next(0, "ann", action, "key_1", detail))
    assert missing(chain, [], [after]) == []
