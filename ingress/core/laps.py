"""How long the whole loop takes: from the cut of a record to the snapshot that includes it, installed here again.

Every record is a heartbeat of the loop: it goes to the log, through the meter, onto `quota.updates` and back. One that
carries usage is published at once; one that carries none waits for the next publication. Knows no clock.
"""

from __future__ import annotations

from collections import deque

from ingress.core.stats import Spread

USAGE, HEARTBEAT = "usage", "heartbeat"
MAX_OPEN = 4_096
"""Laps of a partition that may be under way; of more, the oldest are forgotten."""
SAMPLES = 1_000


class Laps:
    """Laps under way by partition, and how long those took that have ended."""

    def __init__(self, partitions: int) -> None:
        self.spreads = {USAGE: Spread(), HEARTBEAT: Spread()}
        self._recent: dict[str, deque[int]] = {kind: deque(maxlen=SAMPLES) for kind in self.spreads}
        self._open: list[deque[tuple[int, int, str]]] = [deque(maxlen=MAX_OPEN) for _ in range(partitions)]
        self._epochs = [0] * partitions

    def begin(self, partition: int, epoch: int, seq: int, now_ms: int, carries_usage: bool) -> None:
        """Take that record `seq` was cut; a new epoch counts anew."""
        if epoch < self._epochs[partition]:
            return
        if epoch > self._epochs[partition]:
            self._epochs[partition] = epoch
            self._open[partition].clear()
        self._open[partition].append((seq, now_ms, USAGE if carries_usage else HEARTBEAT))

    def end(self, partition: int, hw: int, now_ms: int) -> None:
        """Take that a snapshot was installed that includes the records of this epoch up to `hw`."""
        laps = self._open[partition]
        while laps and laps[0][0] <= hw:
            _, began_ms, kind = laps.popleft()
            took_ms = max(0, now_ms - began_ms)
            self.spreads[kind].add(took_ms)
            self._recent[kind].append(took_ms)

    def under_way_ms(self, now_ms: int) -> int:
        """Return how long ago the oldest record was cut that has not come back; 0 if all have."""
        began = min((laps[0][1] for laps in self._open if laps), default=now_ms)
        return max(0, now_ms - began)

    def quantile(self, kind: str, percent: int) -> int | None:
        """Return the nearest-rank quantile of the last laps of a kind, in ms; None before the first."""
        ordered = sorted(self._recent[kind])
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None

    def summary(self, now_ms: int) -> dict[str, int | None]:
        """Return what status shows."""
        return {
            "p50": self.quantile(USAGE, 50),
            "p99": self.quantile(USAGE, 99),
            "samples": len(self._recent[USAGE]),
            "heartbeat_p50": self.quantile(HEARTBEAT, 50),
            "heartbeat_p99": self.quantile(HEARTBEAT, 99),
            "under_way_ms": self.under_way_ms(now_ms),
        }
