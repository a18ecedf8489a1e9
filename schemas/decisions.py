"""What a rule did to a request, and why: a record from which the decision can be recomputed.

With `partition`, `fence`, `instance`, `epoch` and `row`, the log below the fence gives the row's total, its limit and
the replica's right in it; `pending` and `asked` are what the replica added to that. `tollway explain` does so.
"""

from __future__ import annotations

import enum

import msgspec

from schemas.quota import NO_WEIGHT, Weight
from schemas.usage import Attribution


class Action(enum.StrEnum):
    """What was done, or what a rule said of a request that went on."""

    REFUSE = "refuse"
    QUEUE = "queue"
    """It waited for room and then went on; one that waited in vain is a `refuse` with `waited_ms`."""
    THROTTLE = "throttle"
    """It was paced, and then went on."""
    DOWNGRADE = "downgrade"
    """It went on with a cheaper model."""
    TERMINATE = "terminate"
    """Its answer was ended: what it needed more was refused."""
    WARN = "warn"
    SOFT = "soft"
    """It went on beyond a limit that never refuses."""
    SHADOW = "shadow"
    """It went on; `rung` is what the rule would have done."""
    GRACE = "grace"
    """It went on beyond the limit: tier 0."""
    OPEN = "open"
    """It went on beyond what the replica might use by itself: by the allowance for a failure of the broker or meter."""

    ODD = "odd"
    """It was served, and its provider reported usage that cannot be true; `reason` is the flag (`schemas.flags`)."""


AVOIDING = frozenset({Action.REFUSE.value, Action.DOWNGRADE.value, Action.TERMINATE.value})
"""Actions whose `cost_avoided_nanos` was avoided; of the others it is what the rule would have avoided."""


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """One decision, with the row that made it and what the replica knew of it.

    Records of earlier versions end early: what they do not hold has its default.
    """

    id: bytes
    request_id: bytes
    decided_ms: int
    instance: str
    action: str
    """An `Action`."""
    reason: str
    """`rpm`, `tpm`, `budget`, `blocked`, `key_revoked`, `unknown_model`, …"""
    attribution: Attribution
    """Versions of policy and prices included. `model_requested` is what was asked for, `model` what that stands for."""
    rule: str = ""
    measure: str = ""
    scope: str = ""
    row: str = ""
    limit: int = 0
    """In the measure's unit: the limit in force, before anything is withheld from the request's tier."""
    used: int = 0
    """Settled and in flight everywhere at the fence, own admissions since, and what a sliding window carries over."""
    asked: int = 0
    room: int = 0
    """What the replica might still admit: `right - pending`, or less if a rung or a tier's part ends before."""
    weight: Weight = NO_WEIGHT
    """The replica's part of a row that the log had not seen."""
    fence: int = 0
    staleness_ms: int = 0
    resets_at_s: int = 0
    retry_after_s: int = 0
    overshoot_bound: int = 0
    """In the measure's unit; what may be used beyond the limit at worst."""
    partition: int = -1
    """Of `usage`, whose offsets `fence` counts; -1 where nobody said."""
    epoch: int = 0
    """The run of `instance`; 0 where nobody said: the one that was a member at the fence."""
    tier: int = 1
    mode: str = "enforce"
    """`enforce`, `soft` or `shadow`."""
    rung: str = ""
    """The rung of the ladder that the use stood on: `warn`, `throttle`, `queue`, `downgrade`, `block`."""
    right: int = 0
    """What the replica might have in the row in all, as of the fence; -1 where it had a share by membership instead."""
    pending: int = 0
    """What it had there, settled and in flight, with its own part of what a sliding window carries over."""
    want: int = 0
    """Room that it had asked for, for all requests that waited; 0 if it asked for none."""
    seen_limit: int = 0
    """The part of `limit` that the request's tier sees; 0 where nothing is withheld from it."""
    waited_ms: int = 0
    """In the waiting room, or paced."""
    downgraded_to: str = ""
    """The model that it went on with."""
    cost_avoided_nanos: int = 0
    """What the request would have cost by its estimate; of a downgrade, less the estimate of what it went on with."""
