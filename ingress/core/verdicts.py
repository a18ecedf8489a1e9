"""What admission says of a request: refused or kept waiting, and what rules have to say of one that goes on."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.quota import NO_WEIGHT, Weight


class Denied(msgspec.Struct, frozen=True):
    """Why a request may not go on, with all that a refusal and its decision record state."""

    reason: str
    """`rpm`, `tpm`, `concurrency`, `budget`, `blocked`; `detached` where this replica may not admit anything."""
    rule: str = ""
    measure: str = ""
    scope: str = ""
    row: str = ""
    limit: int = 0
    """In the measure's unit, as are `used`, `asked`, `room`, `right`, `pending` and `overshoot_bound`."""
    used: int = 0
    """Own use, everybody else's as of the fence, and what a sliding window carries."""
    asked: int = 0
    room: int = 0
    """What this replica may still admit by itself; below zero if it has used more than it had reserved."""
    weight: Weight = NO_WEIGHT
    fence: int = 0
    staleness_ms: int = 0
    resets_at_s: int = 0
    """Unix second at which the request would fit if nothing else came, at most the end of the next window for one
    that slides; for a budget the end of its window."""
    retry_after_s: int = 1
    overshoot_bound: int = 0
    """What this replica's requests in flight may use beyond their reservations at worst. It is 0 where every
    reservation is a maximum; the path tells `admit` where one is not."""
    status: int = 429
    """HTTP status: 503 for `detached`."""
    action: str = "block"
    """The rung that applies: `block`, `queue`, `throttle` or `downgrade`; of an extension, the rule's final unit."""
    may_wait: bool = False
    """Room may come: all replicas together have some, or the rung lets requests wait for it."""
    wait_ms: int = 0
    """How long the rule lets a queued request wait; of a throttled one, its even part of the time left."""
    wait_most: int = 0
    """How many may wait; 0: as many as ever may."""
    right: int = -1
    """What this replica may have in the row in all; -1 where it has a share by membership instead."""
    pending: int = 0
    """What it had in the row, settled and in flight, and of the window before as far as that counts."""
    final_unit: str = "finish"
    """What the rule says of a streamed answer that may not go on."""
    rung: str = ""
    """The rung that the use stands on; empty where only room here is short."""
    mode: str = "enforce"
    tier: int = 1
    """Of the request."""
    seen_limit: int = 0
    """The part of `limit` that its tier sees; 0 where nothing is withheld from it."""
    want: int = 0
    """Room that requests which wait at the row have asked for."""
    gone: str = ""
    """`kafka` or `meter`, where the policy refuses the tier while that is gone."""
    at_ms: int = 0
    """The moment that all of this is of, unix ms."""


class Note(NamedTuple):
    """What a rule says of a request that goes on; amounts are in the measure's unit."""

    kind: str
    """`warn`, `soft`, `shadow` or `grace`; `open` where it goes on by the allowance of a failure."""
    rung: str
    """What a soft or shadow rule would have done."""
    rule: str
    measure: str
    scope: str
    row: str
    limit: int
    used: int
    asked: int
    state: Denied | None = None
    """All that this replica knew of the row."""
