"""Dead letters: records that could not be decoded, with reason and origin, as `usage.dlq` holds them."""

from __future__ import annotations

import msgspec


class DeadLetter(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.deadletter/1"):
    """A record that was set aside. Its identity is its origin, so that setting it aside twice is visible."""

    topic: str
    partition: int
    offset: int
    reason: str
    at_ms: int
    value: bytes
    """The record's bytes (base64 in JSON)."""
