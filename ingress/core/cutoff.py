"""What a client is told when its stream is cut off because a limit or a budget ends in the middle of it.

The stream ends as if the answer had reached its maximum, which every client library takes for a normal end; each
protocol (`ingress.core.providers`) writes that in its own events. What is Tollway's own stands in one object,
`tollway`, in the last event that has a reason for the end.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.money import format_usd
from schemas.tokens import TokenUsage

CUT_OFF = "cut_off"
"""Error code of the terminal event."""


class CutOff(msgspec.Struct, frozen=True):
    """The end of one stream, as far as its protocol needs to know."""

    answer_id: str
    """For an answer that has no id of its own yet, as has `model`."""
    model: str
    now_s: int
    choices: tuple[int, ...]
    """Those that have not ended, by index."""
    usage: TokenUsage
    """Charged: what was delivered, estimated high."""
    rule: str
    measure: str
    scope: str
    limit: int
    """In the measure's unit."""
    decision_id: str

    @property
    def notice(self) -> dict[str, Any]:
        """Return the object that names the budget, and the record of the decision."""
        amount = format_usd(self.limit) if self.measure == "cost" else f"{self.limit:,} {self.measure}"
        told = (
            f"Cut off: {self.rule!r} for {self.scope} ({amount}) has nothing left for the rest of this answer. "
            f"Decision {self.decision_id}."
        )
        return {
            "code": CUT_OFF, "rule": self.rule, "scope": self.scope, "measure": self.measure, "limit": amount,
            "decision_id": self.decision_id, "message": told,
        }  # fmt: skip
