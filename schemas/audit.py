"""Control-plane changes as the `audit` topic holds them: each entry carries the hash of the one before."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.audit/1"):
    """One change: who did what to what, and a hash over the entry and its predecessor."""

    number: int
    at_ms: int
    actor: str
    action: str
    """`policy.apply`, `policy.rollback`, `key.create`, `key.revoke`, …"""
    subject: str
    detail: dict[str, Any]
    previous: str
    """Hash of the entry before, 64 zeros for the first."""
    hash: str = ""

    def sealed(self) -> AuditEntry:
        """Return this entry with its hash: SHA-256 over its canonical JSON with an empty hash."""
        bare = msgspec.structs.replace(self, hash="")
        digest = hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
        return msgspec.structs.replace(self, hash=digest)


FIRST = "0" * 64


def broken_link(entries: list[AuditEntry]) -> int | None:
    """Return the number of the first entry whose hash or link does not hold, or None if all do."""
    previous = FIRST
    for entry in entries:
        if entry.previous != previous or entry.sealed().hash != entry.hash:
            return entry.number
        previous = entry.hash
    return None
