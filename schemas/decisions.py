"""Why a request was refused: a record from which the refusal can be recomputed."""

from __future__ import annotations

import msgspec

from schemas.quota import NO_WEIGHT, Weight
from schemas.usage import Attribution


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """One refusal, with the row that refused and what the replica knew of it."""

    id: bytes
    request_id: bytes
    decided_ms: int
    instance: str
    action: str
    """`refuse`; other rungs of the ladder come later."""
    reason: str
    """`rpm`, `tpm`, `budget`, `blocked`, `key_revoked`, `unknown_model`, …"""
    attribution: Attribution
    rule: str = ""
    measure: str = ""
    scope: str = ""
    row: str = ""
    limit: int = 0
    """In the measure's unit."""
    used: int = 0
    """Settled and in flight everywhere at the fence, and own admissions since."""
    asked: int = 0
    room: int = 0
    weight: Weight = NO_WEIGHT
    fence: int = 0
    staleness_ms: int = 0
    resets_at_s: int = 0
    retry_after_s: int = 0
    overshoot_bound: int = 0
    """In the measure's unit; what may be used beyond the limit at worst."""
