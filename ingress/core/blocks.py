"""Block entries in force, by rule and scope. Decides nothing about rows; knows no topic."""

from __future__ import annotations

from schemas.blocks import BlockEntry


class Blocks:
    """Scopes that may not go on, as the `blocks` topic has them."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[str, BlockEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, entry: BlockEntry | None) -> bool:
        """Set the entry at `rule/scope`, or lift it with None; tell whether anything changed."""
        if entry is None:
            return self._entries.pop(key, None) is not None
        changed = self._entries.get(key) != entry
        self._entries[key] = entry
        return changed

    def find(self, key: str, now_ms: int) -> BlockEntry | None:
        """Return the entry at `rule/scope` that is in force at `now_ms`."""
        entry = self._entries.get(key)
        return entry if entry is not None and now_ms < entry.until_s * 1000 else None
