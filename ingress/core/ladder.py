"""The ladder of a rule: which rung a use of so much of a limit stands on, and what that does to a request.

A rung begins *beyond* its percentage, this request included: with `100%: block` a request that fills the limit exactly
goes on, and the next one is refused. The highest rung that has begun applies. Beyond 100 % a request never simply goes
on: where no rung refuses, `block` is understood. A limit that nothing enforces is written as `mode: soft`.

Knows no rows, no clock, no policy document: percentages, amounts and names only.
"""

from __future__ import annotations

from typing import NamedTuple

Rungs = tuple[tuple[int, str], ...]
"""(percent of the limit, action) in any order."""

BLOCK: Rungs = ((100, "block"),)
"""What a rule does that says nothing else."""
REFUSING = frozenset({"block", "queue", "downgrade"})
"""Actions beyond which a request does not simply go on."""
MAX_PACE_MS = 2_000
"""The longest that a throttled request is kept: a throttle is not a wall."""


class Judged(NamedTuple):
    """What one rule says of one request."""

    action: str = ""
    """`throttle`, `queue`, `downgrade` or `block`: what has to happen before the request may go on; empty: nothing."""
    note: str = ""
    """`warn`, `soft`, `shadow` or `grace`: what is to be recorded of a request that goes on."""
    rung: str = ""
    """The rung itself: what a shadow or soft rule would have done."""


GOES_ON = Judged()


def begins_at(percent: int, limit: int) -> int:
    """Return the largest use of `limit` that is not yet on a rung at `percent`."""
    return percent * limit // 100


def rung(rungs: Rungs, used: int, limit: int) -> str:
    """Return the action of the highest rung that `used` (this request included) is beyond; empty below all of them."""
    best, found = -1, ""
    for percent, action in rungs:
        if percent > best and used > begins_at(percent, limit):
            best, found = percent, action
    return "block" if used > limit and found not in REFUSING else found


def free_room(rungs: Rungs, used: int, limit: int) -> int:
    """Return how much may still be used before any rung begins; 0 beyond the first. What a fast path may give away."""
    first = min((percent for percent, _ in rungs), default=100)
    return max(0, begins_at(min(first, 100), limit) - used)


def seen_limit(limit: int, withheld_percent: int) -> int:
    """Return the part of `limit` that a tier sees from which `withheld_percent` is kept for more important ones."""
    return limit - withheld_percent * limit // 100


def grace_limit(limit: int, grace_percent: int, tier: int) -> int:
    """Return how far `tier` may go: tier 0 beyond the limit by the rule's grace, nobody else."""
    return limit + (grace_percent * limit // 100 if tier == 0 else 0)


def judge(
    rungs: Rungs, used: int, limit: int, *, mode: str = "enforce", grace_percent: int = 0, tier: int = 1,
    passed: frozenset[str] = frozenset(),
) -> Judged:  # fmt: skip
    """Return what a rule does to a request that brings the use of `limit` to `used`.

    Args:
        rungs: of the rule.
        used: this request included.
        limit: that the request's tier sees.
        mode: `enforce`; `soft` never refuses, warns and records; `shadow` records only.
        grace_percent: how far tier 0 may go beyond the limit.
        tier: of the request; 0 is the most important.
        passed: actions that this request has gone through already, or that it cannot do: `throttle` once it has
            waited, `downgrade` where there is no other model for it. Up to the limit it then goes on with a warning.
    """
    found = rung(rungs, used, limit)
    if not found:
        return GOES_ON
    if mode == "shadow":
        return Judged(note="shadow", rung=found) if found != "warn" else GOES_ON
    if mode == "soft":
        return Judged(note="soft" if found != "warn" else "warn", rung=found)
    if found == "warn":
        return Judged(note="warn", rung=found)
    if found in passed:
        if used <= limit:
            return Judged(note="warn", rung=found)
        found = "block"
    if limit < used <= grace_limit(limit, grace_percent, tier):
        return Judged(note="grace", rung=found)
    return Judged(action=found, rung=found)


def interval_ms(asked: int, room: int, left_ms: int) -> int:
    """Return how long `asked` takes if the `room` that is left is spread evenly over the `left_ms` that are left."""
    if asked <= 0 or left_ms <= 0:
        return 0
    return min(asked * left_ms // room, left_ms) if room > 0 else left_ms


class Pacer:
    """When the next throttled request of each row may go on."""

    __slots__ = ("_longest_ms", "_most", "_next_ms")

    def __init__(self, most: int = 4_096, longest_ms: int = MAX_PACE_MS) -> None:
        """Let nobody wait longer than `longest_ms`, and remember `most` rows: those whose time is over go first."""
        self._longest_ms = longest_ms
        self._next_ms: dict[str, int] = {}
        self._most = most

    def __len__(self) -> int:
        """Return how many rows are remembered."""
        return len(self._next_ms)

    def delay_ms(self, row: str, interval_ms: int, now_ms: int) -> int:
        """Return how long a request of `row` waits, whose own share of the time left is `interval_ms`."""
        due = self._next_ms
        at_ms = min(max(due.get(row, 0), now_ms) + interval_ms, now_ms + self._longest_ms)
        if row not in due and len(due) >= self._most:
            self._forget(now_ms)
        due[row] = at_ms
        return at_ms - now_ms

    def _forget(self, now_ms: int) -> None:
        due = self._next_ms
        for row in [row for row, at_ms in due.items() if at_ms <= now_ms]:
            del due[row]
        while len(due) >= self._most:
            del due[next(iter(due))]
