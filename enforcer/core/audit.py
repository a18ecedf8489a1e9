"""The audit chain: one writer, each entry sealed over the hash of the one before, checked entry by entry on reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from enforcer.core.overrides import is_override
from schemas.audit import FIRST, AuditEntry, broken_link
from schemas.keys import VirtualKey
from schemas.policy import PolicyRecord

POSTING_BEGUN, POSTING_ENDED = "adjustments.begin", "adjustments.end"
"""Actions of postings of corrections."""
KEY_CREATED, KEY_MOVED = "key.create", "key.move"
KEPT_ENTRIES = 1_000
"""The newest entries that are held to be shown; the topic has all."""


class Chain:
    """The chain as far as it has been read."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last entry, 0 before the first."""
        self.hash = FIRST
        self.broken_at: int | None = None
        """Number of the first entry whose hash or link does not hold."""
        self.recent: deque[AuditEntry] = deque(maxlen=KEPT_ENTRIES)
        self.overrides: dict[str, str] = {}
        """Subject → last action, of increases and freezes."""
        self.last_posting = 0
        """Number of the last entry that announced corrections of costs; 0 before the first."""
        self.owners: dict[str, dict[str, Any]] = {}
        """Key → whom it belonged to by its last entry that says so."""
        self._seen: set[tuple[str, str]] = set()
        self._subjects: set[str] = set()

    def append(self, entry: AuditEntry) -> None:
        """Take in the next entry of the topic; a broken one is noted and does not end the chain."""
        linked = entry.previous == self.hash and broken_link([_first(entry)]) is None
        if not linked and self.broken_at is None:
            self.broken_at = entry.number
        self.number, self.hash = entry.number, entry.hash
        self.recent.append(entry)
        if entry.action == POSTING_BEGUN:
            self.last_posting = entry.number
        if entry.action in (KEY_CREATED, KEY_MOVED):
            self.owners[entry.subject] = dict(entry.detail.get("after", entry.detail))
        if is_override(entry.subject):
            self.overrides[entry.subject] = entry.action
        else:
            self._seen.add((entry.action, entry.subject))
            self._subjects.add(entry.subject)

    def next(self, now_ms: int, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> AuditEntry:
        """Return the entry that would come next, sealed."""
        return AuditEntry(self.number + 1, now_ms, actor, action, subject, dict(detail), self.hash).sealed()

    def has_subject(self, subject: str) -> bool:
        """Tell whether anything of `subject` is in the chain."""
        return subject in self._subjects

    def has(self, subject: str, *actions: str) -> bool:
        """Tell whether one of `actions` on `subject` is in the chain."""
        return any((action, subject) in self._seen for action in actions)


def _first(entry: AuditEntry) -> AuditEntry:
    """Return the entry as the first of a chain with the same content, so that its own hash can be checked alone."""
    if entry.sealed().hash != entry.hash:
        return entry
    return AuditEntry(entry.number, entry.at_ms, entry.actor, entry.action, entry.subject, entry.detail, FIRST).sealed()


def missing(
    chain: Chain, policies: Iterable[PolicyRecord], keys: Iterable[VirtualKey]
) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return (actor, action, subject, detail) of changes on the topics that a crash kept from the chain."""
    found: list[tuple[str, str, str, dict[str, Any]]] = []
    recovered = {"recovered": True}
    for record in policies:
        subject = policy_subject(record.version)
        if not chain.has(subject, "policy.apply", "policy.rollback"):
            detail = {"version": record.version, "sha256": record.sha256, "note": record.note, **recovered}
            found.append((record.applied_by, "policy.apply", subject, detail))
    for key in keys:
        if key.source != "issued":
            continue
        if not chain.has(key.id, "key.create"):
            found.append(("unknown", "key.create", key.id, {**owner(key), **recovered}))
        said = chain.owners.get(key.id)
        if said is not None and any(said.get(name, value) != value for name, value in owner(key).items()):
            found.append(("unknown", KEY_MOVED, key.id, {"after": owner(key), **recovered}))
        if key.revoked_ms is not None and not chain.has(key.id, "key.revoke"):
            found.append(("unknown", "key.revoke", key.id, {**owner(key), **recovered}))
    return found


def policy_subject(version: int) -> str:
    """Return what entries call a policy version."""
    return f"policy/{version}"


def owner(key: VirtualKey) -> dict[str, Any]:
    """Return whom a key belongs to, as entries say it."""
    return {name: getattr(key, name) for name in ("org", "project", "team", "user", "name", "source", "tags")}
