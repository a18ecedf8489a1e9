"""The audit chain: continued across starts, checked as it is read, completed after a crash."""

from __future__ import annotations

import msgspec

from enforcer.core.audit import Chain, missing
from schemas.audit import AuditEntry, broken_link
from schemas.keys import VirtualKey
from schemas.policy import PolicyRecord


def _chain(count: int) -> tuple[Chain, list[AuditEntry]]:
    chain, entries = Chain(), []
    for number in range(count):
        entry = chain.next(1000 + number, "me", "key.create", f"key_{number}", {"n": number})
        chain.append(entry)
        entries.append(entry)
    return chain, entries


def test_a_chain_that_was_read_again_goes_on_where_it_ended() -> None:
    """Numbers and links continue over a restart."""
    chain, entries = _chain(3)
    restored = Chain()
    for entry in entries:
        restored.append(entry)
    last = restored.next(9, "me", "key.revoke", "key_1", {})
    assert broken_link([*entries, last]) is None
    assert (last.number, restored.broken_at, chain.hash) == (4, None, restored.hash)


def test_an_altered_entry_is_noticed() -> None:
    """Changed content, with the hash left as it was."""
    _, entries = _chain(3)
    entries[1] = msgspec.structs.replace(entries[1], actor="somebody else")
    restored = Chain()
    for entry in entries:
        restored.append(entry)
    assert restored.broken_at == 2


def test_a_removed_entry_is_noticed() -> None:
    """The link of the next one does not hold."""
    _, entries = _chain(3)
    restored = Chain()
    for entry in (entries[0], entries[2]):
        restored.append(entry)
    assert restored.broken_at == 3


def test_changes_that_a_crash_kept_from_the_chain_are_found_once() -> None:
    """A version, an issued key and its revocation are named; audited ones and listed keys are not."""
    chain = Chain()
    chain.append(chain.next(1, "me", "policy.rollback", "policy/1", {}))
    chain.append(chain.next(2, "me", "key.create", "audited", {}))
    versions = [PolicyRecord(number, "", "0", 5, "ada", "why", {}) for number in (1, 2)]
    keys = [
        VirtualKey("audited", "h", "acme", revoked_ms=3),
        VirtualKey("lost", "h", "acme"),
        VirtualKey("listed", "h", "acme", source="policy"),
    ]
    found = missing(chain, versions, keys)
    assert [(actor, action, subject) for actor, action, subject, _ in found] == [
        ("ada", "policy.apply", "policy/2"),
        ("unknown", "key.revoke", "audited"),
        ("unknown", "key.create", "lost"),
    ]
    for actor, action, subject, detail in found:
        chain.append(chain.next(3, actor, action, subject, detail))
    assert missing(chain, versions, keys) == []
    assert chain.broken_at is None
