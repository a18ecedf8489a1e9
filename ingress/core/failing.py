"""What a replica does while the broker or the meter is gone: which of the two it is, and what the policy says then.

For as long as the broker acknowledges its records, a replica keeps what it may use by itself, meter or no meter: that
is exact, whatever happens. A replica that the broker has not heard of for `SELF_FENCE_MS` has to take its part for
given away. What applies then, and once a dependency has been gone for longer than the policy's `after`, is a row of
the policy's `failure` table by tier. `open` adds its allowance to what the replica may use by itself, which is nothing
once its part may be given away: so what goes beyond a limit is the allowance, whoever was given what. Knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.failure import DependencyName, Failure, FailureMode
from schemas.published import SELF_FENCE_MS

if TYPE_CHECKING:
    from ingress.core.admission import Shard
    from ingress.core.rows import Row

TIERS = (0, 1, 2)


def missing(shard: Shard, failure: Failure, now_ms: int) -> DependencyName | None:
    """Return what a shard has been without for so long that the failure table applies; None if nothing.

    The meter is gone if the broker has taken records all the while; without a broker it cannot be heard.
    """
    if not shard.backed_until_ms or not shard.installed_ms or not shard.weight.num:
        return None  # not there yet, rather than gone
    backed_ms = shard.backed_until_ms - SELF_FENCE_MS
    if now_ms >= shard.fence_at_ms or now_ms - backed_ms > failure.after:
        return "kafka"
    return "meter" if backed_ms - shard.installed_ms > failure.after else None


def mode_of(shard: Shard, failure: Failure, tier: int, now_ms: int) -> FailureMode:
    """Return what requests of `tier` meet in a shard from which something is missing.

    `share` means what the replica may use by itself, which it has only while the broker hears of it: without, it is
    `closed`.
    """
    mode = failure.mode(tier, shard.missing or "kafka")
    if mode.action == "share" and now_ms >= shard.fence_at_ms:
        return FailureMode("closed", 0)
    return mode


def open_room(row: Row, free: int, allowance_percent: int, now_ms: int) -> int:
    """Return what may still be used in a row of which a tier may use `free` by itself, with the allowance of `open`."""
    by_itself = free if now_ms < row.shard.fence_at_ms else -row.own_part
    return by_itself + allowance_percent * row.limit // 100


def refuses_everybody(shard: Shard, failure: Failure, now_ms: int) -> bool:
    """Tell whether a load balancer should pass this replica by: no tier gets through, or a tier says `stop`."""
    if shard.missing is None:
        return False
    actions = {mode_of(shard, failure, tier, now_ms).action for tier in TIERS}
    return "stop" in actions or actions == {"closed"}
