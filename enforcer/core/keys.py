"""Virtual keys: what a new one must name, and which keys follow from the policy document.

Secrets pass through here as random bytes on their way to the one who asked, and only their hash stays.
A key that the document lists is published with source `policy` and revoked when the document drops it. A revocation
by hand outlives later versions that go on listing the key; dropping and listing it again issues it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from schemas.ids import new_secret, secret_hash
from schemas.keys import VirtualKey
from schemas.policy import KeyEntry, Policy, unknown_principals

ISSUED, LISTED = "issued", "policy"


class Wish(msgspec.Struct, frozen=True):
    """What a new key shall be, as it was asked for."""

    org: str
    project: str = ""
    team: str = ""
    user: str = ""
    name: str = ""
    models: tuple[str, ...] = ("*",)
    tags: dict[str, str] = {}
    tier: int | None = None
    """None is that of the organisation."""
    expires_ms: int | None = None


class Issued(msgspec.Struct, frozen=True):
    """A new key and its secret, which nobody will see again."""

    key: VirtualKey
    secret: str


def problems(policy: Policy | None, wish: Wish, now_ms: int) -> list[tuple[str, object, str]]:
    """Return (field, value, remedy) of everything that keeps `wish` from being issued."""
    found: list[tuple[str, object, str]] = []
    if policy is None:
        found.append(("org", wish.org, "no policy is in force; apply one that names the organisation first"))
    else:
        found += unknown_principals(policy, wish)
    if wish.expires_ms is not None and wish.expires_ms <= now_ms:
        found.append(("expires_ms", wish.expires_ms, f"it is past; now is {now_ms}"))
    if not wish.models or not all(wish.models):
        found.append(("models", list(wish.models), 'give at least one glob, such as "gpt-*"; "*" is every model'))
    return found


def issue(wish: Wish, taken: Iterable[str], now_ms: int, random: bytes) -> Issued | None:
    """Return a key for `wish` made of 38 `random` bytes; None if the id they give is taken."""
    key_id = f"key_{random[32:38].hex()}"
    if key_id in taken:
        return None
    secret = new_secret(random)
    key = VirtualKey(
        id=key_id, hash=hash_text(secret), org=wish.org, project=wish.project, team=wish.team, user=wish.user,
        name=wish.name, models=wish.models, tags=wish.tags, tier=wish.tier, created_ms=now_ms,
        expires_ms=wish.expires_ms, source=ISSUED,
    )  # fmt: skip
    return Issued(key, secret)


def hash_text(secret: str) -> str:
    """Return the hash of a secret as keys carry it."""
    return f"sha256:{secret_hash(secret.encode()).hex()}"


def revoked(key: VirtualKey, now_ms: int) -> VirtualKey:
    """Return the key as revoked; one that is revoked already stays as it is."""
    return key if key.revoked_ms is not None else msgspec.structs.replace(key, revoked_ms=now_ms)


def clashes(policy: Policy, keys: Mapping[str, VirtualKey]) -> list[str]:
    """Return a problem for each listed key whose id or hash is another key's."""
    found: list[str] = []
    owners: dict[str, str] = {key.hash: key.id for key in keys.values() if key.source == ISSUED}
    for index, entry in enumerate(policy.keys):
        known = keys.get(entry.id)
        if known is not None and known.source == ISSUED:
            found.append(f"keys.{index}.id: {entry.id!r}: an issued key has this id; use another")
        if (owner := owners.setdefault(entry.hash, entry.id)) != entry.id:
            found.append(f"keys.{index}.hash: {entry.hash!r}: the secret of key {owner!r}; give each key its own")
    return found


def follow(
    before: Policy | None, after: Policy, applied_ms: int, keys: Mapping[str, VirtualKey], now_ms: int
) -> list[VirtualKey]:
    """Return the keys to publish so that `keys` follow the document `after`, which replaced `before`.

    Doing it again returns nothing, so a start can finish what a crash interrupted.
    """
    listed_before = set() if before is None else {entry.id for entry in before.keys}
    published: list[VirtualKey] = []
    for entry in after.keys:
        known = keys.get(entry.id)
        stays_revoked = known is not None and (
            entry.id in listed_before or (known.revoked_ms is not None and known.revoked_ms > applied_ms)
        )
        key = _listed_key(entry, known, stays_revoked, now_ms)
        if key != known:
            published.append(key)
    wanted = {entry.id for entry in after.keys}
    gone = (key for key in keys.values() if key.source == LISTED and key.id not in wanted and key.revoked_ms is None)
    return published + [revoked(key, now_ms) for key in gone]


def orphans(policy: Policy, keys: Iterable[VirtualKey], now_ms: int) -> list[dict[str, str]]:
    """Return the working issued keys that name something `policy` does not have."""
    return [
        {"key": key.id, "field": field, "value": value}
        for key in keys
        if key.source == ISSUED and works(key, now_ms)
        for field, value, _ in unknown_principals(policy, key)
    ]


def works(key: VirtualKey, now_ms: int) -> bool:
    """Tell whether a key is neither revoked nor expired."""
    return key.revoked_ms is None and (key.expires_ms is None or key.expires_ms > now_ms)


def _listed_key(entry: KeyEntry, known: VirtualKey | None, stays_revoked: bool, now_ms: int) -> VirtualKey:
    return VirtualKey(
        id=entry.id, hash=entry.hash, org=entry.org, project=entry.project, team=entry.team, user=entry.user,
        name=entry.name, models=entry.models, tags=entry.tags, tier=entry.tier,
        created_ms=now_ms if known is None else known.created_ms,
        expires_ms=None if entry.expires is None else round(entry.expires.timestamp() * 1000),
        revoked_ms=known.revoked_ms if known is not None and stays_revoked else None,
        source=LISTED,
    )  # fmt: skip
