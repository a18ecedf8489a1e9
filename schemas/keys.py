"""Virtual keys as the `keys` topic holds them: hashes and attributes, never secrets."""

from __future__ import annotations

import msgspec


class VirtualKey(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.key/1", omit_defaults=True):
    """A credential that Tollway issued. A revoked key stays on the topic, so that its use can be named."""

    id: str
    hash: str
    """`sha256:` and 64 hex digits of the secret."""
    org: str
    project: str = ""
    team: str = ""
    user: str = ""
    name: str = ""
    models: tuple[str, ...] = ("*",)
    """Globs of the served models this key may use."""
    tags: dict[str, str] = {}
    created_ms: int = 0
    expires_ms: int | None = None
    revoked_ms: int | None = None
    source: str = "issued"
    """`issued` by `tollway keys create`, or `policy` where the document lists it."""
    tier: int | None = None
    """0 is the most important, 2 the least; None is that of the organisation."""
