"""Virtual keys as the `keys` topic has them, found by the hash of their secret. Outlives policies; knows none."""

from __future__ import annotations

from schemas.keys import VirtualKey

_PREFIX = "sha256:"


def hash_of(text: str) -> bytes:
    """Return the 32 bytes of `sha256:` and 64 hex digits; ValueError if `text` is not that."""
    if not text.startswith(_PREFIX) or len(text) != len(_PREFIX) + 64:
        raise ValueError(f"{text!r} is no key hash: write sha256: and the 64 hex digits of the secret's SHA-256")
    return bytes.fromhex(text[len(_PREFIX) :])


class Keyring:
    """All virtual keys, those that are revoked or expired too."""

    __slots__ = ("_hashes", "by_hash")

    def __init__(self) -> None:
        self.by_hash: dict[bytes, VirtualKey] = {}
        self._hashes: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self.by_hash)

    def put(self, key_id: str, key: VirtualKey | None) -> None:
        """Set the key with this id, or remove it with None; ValueError if its hash is none."""
        digest = None if key is None else hash_of(key.hash)
        old = self._hashes.pop(key_id, None)
        if old is not None and self.by_hash[old].id == key_id:
            del self.by_hash[old]
        if key is not None and digest is not None:
            self._hashes[key_id] = digest
            self.by_hash[digest] = key
