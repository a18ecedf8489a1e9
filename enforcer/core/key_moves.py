"""Moves keys within their organisation: what is used from now on belongs to somebody else, what was used stays.

Every event holds whom it belonged to when it was admitted, and the rows of limits and budgets that it was charged to;
a key that moves changes neither. Rows of a team keep what its former key has used. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enforcer.core.audit import owner
from enforcer.core.keys import ISSUED, works
from schemas.keys import VirtualKey
from schemas.policy import Policy, unknown_principals


class Move(msgspec.Struct, frozen=True):
    """What shall be another; None: as it is, an empty text: none any more."""

    project: str | None = None
    team: str | None = None
    user: str | None = None
    tags: Mapping[str, str] = {}
    """Set, or with an empty text taken away; others stay."""


def moved(key: VirtualKey, move: Move) -> VirtualKey:
    """Return the key as it shall be."""
    tags = {name: value for name, value in {**key.tags, **move.tags}.items() if value}
    given = {name: value for name in ("project", "team", "user") if (value := getattr(move, name)) is not None}
    return msgspec.structs.replace(key, tags=tags, **given)


def problems(policy: Policy | None, key: VirtualKey, move: Move, now_ms: int) -> list[tuple[str, object, str]]:
    """Return (field, value, remedy) of everything that keeps a key from being moved."""
    if key.source != ISSUED:
        remedy = "the policy document lists this key: change it there, and apply the document"
        return [("id", key.id, remedy)]
    if not works(key, now_ms):
        return [("id", key.id, "it is revoked or has expired; create another key")]
    if policy is None:
        return [("id", key.id, "no policy is in force; apply one that names the organisation first")]
    return list(unknown_principals(policy, moved(key, move)))


def described(before: VirtualKey, after: VirtualKey) -> dict[str, Any]:
    """Return a move as the audit chain has it."""
    return {"before": owner(before), "after": owner(after)}
