"""Recomputes a decision from what the log says, and tells where the two differ. Pure.

What is compared: the replica's right, or its share of a row that had none; what all others had; the limit; the
replica's own part, which the log brackets by its records before and after; the room that follows; and whether the
rule, given all that, does what was done.

The replica's part may lie above both records around the decision where requests were reserved and gave back in
between: their events are on the log, what they had reserved is not. Where it lies there without any such request,
the decision is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

from deploy.explain.witness import Standing, Witness, counted
from ingress.core.ladder import begins_at, grace_limit, seen_limit
from schemas.decisions import Action, Decision
from schemas.published import HEARTBEAT_MS, SELF_FENCE_MS
from schemas.quota import NO_WEIGHT
from schemas.rules import Rule

SHORT, OVER = "short", "over"
SILENT = "without the broker its part was its own no more"
FENCE_MARGIN_MS = 4 * HEARTBEAT_MS
"""The last snapshot may be so much younger than the last record that the broker acknowledged."""
_ONLY_TOLD = frozenset({Action.WARN.value, Action.SOFT.value, Action.SHADOW.value})
_WENT_ON = _ONLY_TOLD | {Action.GRACE.value, Action.OPEN.value}


class Check(NamedTuple):
    """One thing that was recomputed."""

    name: str
    recorded: int | str
    recomputed: int | str
    agrees: bool
    note: str = ""


def recount(decision: Decision, witness: Witness, rule: Rule | None) -> list[Check]:
    """Return every check of a decision of a row. `witness` has reached the fence.

    Args:
        decision: with a row.
        witness: has followed the decision's partition.
        rule: what the policy version of the decision says of its rule; None if that is not known.
    """
    standing = witness.standing
    if standing is None:
        raise ValueError(f"the log ends before fence {decision.fence}")
    if decision.reason == "blocked":
        return [_blocked(decision, standing, witness)]
    if standing.place < 0:
        found = f"{decision.instance} is no member of partition {decision.partition} at {decision.fence}"
        return [Check("replica", decision.instance, found, False)]
    checks = [_right(decision, standing), _weight(decision, standing), _limit(decision, standing, witness)]
    checks += [_others(decision, standing), _own(decision, witness)]
    checks += [_room(decision, standing), _rule(decision, rule)]
    return checks


def agrees(checks: list[Check]) -> bool:
    """Tell whether nothing differs."""
    return all(check.agrees for check in checks)


def _right(decision: Decision, standing: Standing) -> Check:
    row = standing.row
    right = -1 if row is None or row.limit < 0 else row.rights[standing.place]
    note = "a share by membership: the log did not know the row's limit yet" if right < 0 else ""
    return Check("right", decision.right, right, decision.right == right, note)


def _weight(decision: Decision, standing: Standing) -> Check:
    weight = standing.members[standing.place].weight
    return Check("share", f"{decision.weight.num}/{decision.weight.den}", f"{weight.num}/{weight.den}",
                 decision.weight in (weight, NO_WEIGHT))  # fmt: skip


def _limit(decision: Decision, standing: Standing, witness: Witness) -> Check:
    known = -1 if standing.row is None else standing.row.limit
    if known in (-1, decision.limit) or decision.limit in witness.limits_told:
        note = "" if known == decision.limit else "told by the replica around the decision"
        if known == -1 and decision.limit not in witness.limits_told:
            note = "not on the log yet"
        return Check("limit", decision.limit, decision.limit, True, note)
    return Check("limit", decision.limit, known, False)


def _others(decision: Decision, standing: Standing) -> Check:
    """All others' part is the decision's use without its own; rounding of what slides allows a difference of 1."""
    others = _without(standing, before=False) + counted(decision, _without(standing, before=True))
    recorded = decision.used - decision.pending
    slides = standing.before is not None
    return Check("others", recorded, others, abs(recorded - others) <= slides)


def _without(standing: Standing, before: bool) -> int:
    """Return what all but the replica have in the row, or in the window before."""
    row = standing.before if before else standing.row
    if row is None:
        return 0
    return row.settled + row.inflight - (row.nets[standing.place] if row.nets else 0)


def _own(decision: Decision, witness: Witness) -> Check:
    last = witness.last or witness.at_fence
    assert last is not None
    around = [last] if witness.next is None else [last, witness.next]
    parts = [told.own + counted(decision, told.own_before) for told in around]
    low, high = min(parts), max(parts)
    text = str(low) if low == high else f"{low} … {high}"
    if witness.is_within:
        note = "" if decision.pending >= low - 1 else "given back since, and not on the log yet"
        return Check("own part", decision.pending, text, True, note)
    if witness.given_back:
        count = len(witness.given_back)
        note = f"{count} requests were in flight then and gave back before the next record"
        return Check("own part", decision.pending, text, True, note)
    if witness.has_ended and witness.in_flight:
        note = f"its run ended soon after: of {len(witness.in_flight)} requests of that time only the end is known"
        return Check("own part", decision.pending, text, True, note)
    return Check("own part", decision.pending, text, False, "no request on the log explains the difference")


def _room(decision: Decision, standing: Standing) -> Check:
    right = right_in_force(decision, standing)
    room = right - decision.pending
    return Check("room", decision.room, room, decision.room == room)


def right_in_force(decision: Decision, standing: Standing) -> int:
    """Return what the replica might have had in the row, by its limit and the state at the fence."""
    row, limit = standing.row, decision.limit
    if row is not None and row.limit >= 0:
        right = row.rights[standing.place]
        return right * limit // row.limit if limit < row.limit else right
    gone = 0 if row is None else _gone(row.settled + row.inflight, row.nets)
    earlier = standing.before
    carried = 0 if earlier is None else counted(decision, _gone(earlier.settled + earlier.inflight, earlier.nets))
    share = standing.members[standing.place].weight.share(limit - carried - gone)
    if earlier is not None and earlier.limit >= 0 and counted(decision, 1):
        return min(share, earlier.rights[standing.place])
    return share


def _gone(total: int, nets: list[int]) -> int:
    return total - sum(nets)


def _rule(decision: Decision, rule: Rule | None) -> Check:
    """Compare what was done with what the rule says, given the numbers of the decision."""
    recorded = f"{decision.action} {decision.rung}".strip()
    why = reason_of(decision, rule)
    wanted = {SHORT: "room is short here", OVER: "the limit is reached"}.get(why, why)
    if decision.action in _WENT_ON:
        return Check("rule", recorded, wanted or "nothing to say", bool(why), "" if rule else "policy not at hand")
    return Check("rule", recorded, wanted or "there was room: it should have gone on", bool(why))


def reason_of(decision: Decision, rule: Rule | None) -> str:
    """Return why the rule does something to the request: short of room, over the limit, or its rung; else empty."""
    used = decision.used + decision.asked
    if decision.room < decision.asked and decision.action not in _ONLY_TOLD:
        return SHORT
    if decision.action == Action.OPEN and decision.staleness_ms >= SELF_FENCE_MS - FENCE_MARGIN_MS:
        return SILENT
    seen = decision.seen_limit or decision.limit
    if rule is not None:
        seen = seen_limit(decision.limit, rule.withheld[decision.tier])
    if used > seen:
        past_grace = rule is None or used > grace_limit(seen, rule.grace, decision.tier)
        return OVER if past_grace or decision.action == Action.GRACE else "within the grace of its tier"
    if rule is None:
        return decision.rung
    begun = [(percent, name) for percent, name in rule.rungs if used > begins_at(percent, seen)]
    if begun:
        percent, name = max(begun)
        return f"{name} from {percent} %"
    if rule.withheld[decision.tier]:
        kept = -(-(decision.room + decision.pending) * rule.withheld[decision.tier] // 100)
        return SHORT if decision.room - kept < decision.asked else ""
    return ""


def _blocked(decision: Decision, standing: Standing, witness: Witness) -> Check:
    """A block stands where the settled spend has reached the amount; the enforcer may have seen it a moment later."""
    row = witness.shard.rows.by_key.get(decision.row)
    settled = row.settled if row is not None else standing.row.settled if standing.row is not None else 0
    return Check("settled", f"at least {decision.limit}", settled, settled >= decision.limit)
