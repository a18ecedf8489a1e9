"""Block entries: what the enforcer publishes on `blocks` when a budget is used up, and lifts with a tombstone."""

from __future__ import annotations

import msgspec


class BlockEntry(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.block/1", omit_defaults=True):
    """A scope of a rule that may not go on. The topic's key is `rule/scope`."""

    rule: str
    scope: str
    action: str
    """`block`"""
    reason: str
    """`budget_exhausted`, …"""
    measure: str
    limit: int
    used: int
    window: str
    since_ms: int
    until_s: int
    """The window's end; the entry means nothing from then on, tombstone or not."""
    policy_version: int

    @property
    def key(self) -> str:
        """The record's key on the topic."""
        return f"{self.rule}/{self.scope}"
