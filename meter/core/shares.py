"""Who may have how much of a row that has no rights yet: equal shares, and safe changes from one set to the next.

A share is a pair `(den, slot)` that stands for `Weight(1, den, den - 1 - slot)`: of a limit h it gives
`ceil((h - slot) / den)`, so the shares of slots 0 … den-1 sum to exactly h. A share with a larger `den` or a larger
`slot` gives no more of any headroom; that order is all that safety needs:

* A member takes part once it has acknowledged a snapshot with its joining in it: then it knows every row. Until then
  it has nothing and takes nothing from the others.
* The target gives every member that takes part `(their number, its place in join order)`. A target is safe as a whole.
* Lowering a member is always safe, so it is done at once.
* Raising to the target is done only when every share that any member may still be using is at or below its target.
  Whatever mixture of old and new shares is in use is then pointwise at or below the target, which is safe.

A member may be using every share that was in force at or after the fence it acknowledged last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.quota import NO_WEIGHT, Weight


class Share(NamedTuple):
    """One of `den` equal parts; of what does not divide evenly, the lower slots get one more."""

    den: int
    slot: int


class Granted(NamedTuple):
    """A share and the fence from which on snapshots carry it; None is no share."""

    since: int
    share: Share | None


class Holder(Protocol):
    """A member as this module needs it."""

    ack: int
    grants: list[Granted]
    """What the member may be using, oldest first; the last one is in force."""


def weight_of(share: Share | None) -> Weight:
    """Return a share as snapshots carry it."""
    return Weight(1, share.den, share.den - 1 - share.slot) if share else NO_WEIGHT


def forget_unused(holder: Holder) -> None:
    """Drop the grants that ended at or before the fence that the holder has installed."""
    grants = holder.grants
    while len(grants) > 1 and grants[1].since <= holder.ack:
        del grants[0]


def takes_part(holder: Holder) -> bool:
    """Return whether the holder has a share, or may have one: it has installed what was published after it joined."""
    last = holder.grants[-1]
    return last.share is not None or holder.ack >= last.since


def balanced(holders: Sequence[Holder]) -> bool:
    """Return whether every holder takes part, has its target, and can be using nothing else."""
    return all(
        len(holder.grants) == 1 and holder.grants[0].share == (len(holders), slot)
        for slot, holder in enumerate(holders)
    )


def move(holders: Sequence[Holder], fence: int) -> bool:
    """Move the shares of `holders` (in join order) towards the target as far as is safe now; True if any changed.

    What changes is in force from `fence` on.
    """
    ready = [holder for holder in holders if takes_part(holder)]
    targets = [(holder, Share(len(ready), slot)) for slot, holder in enumerate(ready)]
    changed = False
    for holder, target in targets:
        share = holder.grants[-1].share
        if share is not None and not _within(share, target):
            _grant(holder, fence, Share(max(share.den, target.den), max(share.slot, target.slot)))
            changed = True
    if all(_within(grant.share, target) for holder, target in targets for grant in holder.grants):
        for holder, target in targets:
            if holder.grants[-1].share != target:
                _grant(holder, fence, target)
                changed = True
    return changed


def _grant(holder: Holder, fence: int, share: Share) -> None:
    if holder.grants[-1].since == fence:
        del holder.grants[-1]  # never published
    holder.grants.append(Granted(fence, share))


def _within(share: Share | None, target: Share) -> bool:
    return share is None or (share.den >= target.den and share.slot >= target.slot)
