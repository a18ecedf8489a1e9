"""What can be wrong with a record of the log without being a fault of the meter."""

from __future__ import annotations

import enum
from typing import NamedTuple


class FaultKind(enum.StrEnum):
    """What is to be done about it."""

    UNDECODABLE = "undecodable"
    """No record of ours: to the dead letters."""
    INVALID = "invalid"
    """A record of which a part breaks its contract; the rest was applied: to the dead letters."""
    GAP = "gap"
    """Records before this one are missing: held back, reported, and expected to be sent again in order."""


class Fault(NamedTuple):
    """A fault and its reason, in words for an operator."""

    kind: FaultKind
    reason: str

    @property
    def is_dead_letter(self) -> bool:
        """Whether the record belongs on the dead-letter topic."""
        return self.kind is not FaultKind.GAP
