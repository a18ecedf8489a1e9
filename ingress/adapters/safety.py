"""How safe the log of a replica is, and how large it may become: settings, as the parts that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from ingress.adapters.spool import Bound
from ingress.adapters.syncer import Syncer
from ingress.adapters.wal import SEGMENT_BYTES, Wal
from ingress.settings import Fsync, IngressSettings

GIB = 1024**3
MOST_SEGMENTS = 16
"""The bound is this many segments at least: only whole ones are folded or deleted."""


class Safety(NamedTuple):
    """The settings of the log."""

    fsync: Fsync = "none"
    fsync_ms: int = 100
    bound: Bound = Bound(2 * GIB, 24 * 3_600)

    @classmethod
    def of(cls, settings: IngressSettings) -> Self:
        """Return what `settings` say."""
        return cls(settings.fsync, settings.fsync_ms, Bound(settings.spool_max_bytes, settings.spool_max_age_s))

    @property
    def segment_bytes(self) -> int:
        """How large a file of the log becomes."""
        return min(SEGMENT_BYTES, self.bound.max_bytes // MOST_SEGMENTS)

    @property
    def power_loss(self) -> str:
        """What a loss of power may take."""
        return {
            "none": "what the system has not written by itself: 30 s and more on many systems",
            "interval": f"what was written in the last {self.fsync_ms} ms, and the sync under way",
            "always": "nothing that a provider or a client has seen",
        }[self.fsync]

    def syncer_of(self, wal: Wal, on_fault: Callable[[BaseException], None]) -> Syncer | None:
        """Return what syncs a log; None if nothing does."""
        if self.fsync == "none":
            return None
        always = self.fsync == "always"
        return Syncer(wal.directory, lambda: wal.descriptor, on_fault, self.fsync_ms, always=always)


DEFAULT_SAFETY = Safety()
