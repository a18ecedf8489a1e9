"""Finds replicas that have gone silent, by the shell's own clock, and only while that silence means anything.

A replica is silent when its `seq` has not advanced. Time counts against it only while the meter demonstrably sees the
end of the log: after an outage of the broker, of the network or of the meter everyone has a full lease again.
"""

from __future__ import annotations

from collections.abc import Iterable

Run = tuple[str, int]


class LeaseWatch:
    """The silence of the members of one partition."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._seen: dict[Run, tuple[int, int]] = {}
        self._end: int | None = None

    def reset(self) -> None:
        """Forget what was seen: the end of the log is out of sight."""
        self._seen.clear()
        self._end = None

    def check(self, end: int, fence: int, members: Iterable[tuple[Run, int]], now_ms: int) -> list[Run]:
        """Return the members whose lease is over.

        `end` is the end of the log, asked of the broker just now, `fence` the fold's, `members` (run, seq), `now_ms`
        monotonic. The fold counts as caught up when it has reached the end that the check before this one saw.
        """
        before, self._end = self._end, end
        if before is None or fence < before:
            self._seen.clear()
            return []
        silent, seen = [], {}
        for run, seq in members:
            last = self._seen.get(run)
            seen[run] = last if last is not None and last[0] == seq else (seq, now_ms)
            if now_ms - seen[run][1] >= self._lease_ms:
                silent.append(run)
        self._seen = seen
        return silent
