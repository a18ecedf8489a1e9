"""What is said once in a while only: a scope that is being warned must not write a decision a request."""

from __future__ import annotations


class Sparing:
    """Tells whether something is due to be said, at most once in `every_ms` per key."""

    __slots__ = ("_due_ms", "_every_ms", "_most")

    def __init__(self, every_ms: int = 60_000, most: int = 4_096) -> None:
        """Remember `most` keys; beyond that the oldest are forgotten, and may be said again."""
        self._due_ms: dict[str, int] = {}
        self._every_ms = every_ms
        self._most = most

    def is_due(self, key: str, now_ms: int) -> bool:
        """Tell whether `key` has not been said for long enough; if so, it is said now."""
        due = self._due_ms
        if now_ms < due.get(key, now_ms):
            return False
        due.pop(key, None)
        if len(due) >= self._most:
            del due[next(iter(due))]
        due[key] = now_ms + self._every_ms
        return True
