"""Sends what earlier runs have left on the log, under their own names, epochs and seqs; then deletes it.

Old before new within a partition, record after record; a run's log goes when its last partition is through. What was
sent already is recognised by its seq, so it does no harm to begin again from the start, here or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ingress.adapters.journal import encode_decision_batch
from ingress.adapters.recovery import Backlog
from schemas.crash_points import crash_here


class Deliverer(Protocol):
    """What brings records to the broker."""

    async def deliver(self, topic: str, partition: int, value: bytes) -> int:
        """Return the record's offset once the broker has it (-1 if it had it already); waits as long as it takes."""


class Replay:
    """Logs of earlier runs on their way to the broker."""

    def __init__(
        self, backlogs: list[Backlog], producer: Deliverer, usage_topic: str, decisions_topic: str, partitions: int,
        now_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        """Prepare to send.

        Args:
            backlogs: oldest first.
            producer: delivers in order what is delivered in order.
            usage_topic: with the prefix.
            decisions_topic: with the prefix.
            partitions: `run` is called for each of them.
            now_ms: the wall clock.
        """
        self._backlogs = backlogs
        self._producer = producer
        self._usage, self._decisions = usage_topic, decisions_topic
        self._left = [partitions] * len(backlogs)
        self._now_ms = now_ms
        self.since_ms = min((int(b.segments[0].path.stat().st_mtime * 1000) for b in backlogs if b.segments), default=0)
        """When the oldest of them may have been written."""
        self.records = 0
        """Sent so far."""

    @property
    def is_done(self) -> bool:
        """Whether the broker has everything."""
        return not any(self._left)

    @property
    def size(self) -> int:
        """Bytes that are still on disk."""
        return sum(backlog.size for backlog in self._backlogs)

    async def run(self, partition: int) -> None:
        """Send everything of one partition."""
        for index, backlog in enumerate(self._backlogs):
            if partition < backlog.partitions:
                for record in backlog.records(partition, self._now_ms()):
                    await self._producer.deliver(self._usage, partition, record.value)
                    self.records += 1
                    crash_here("ingress.replaying")
                for decisions in backlog.decisions(partition):
                    await self._producer.deliver(self._decisions, partition, encode_decision_batch(decisions))
            self._left[index] -= 1
            if not self._left[index]:
                crash_here("ingress.replayed")
                backlog.delete()
