"""What a row says of a request that does not simply go on: a refusal, or a note, with all that this replica knew.

Knows no plan, no reservation.
"""

from __future__ import annotations

from ingress.core.ladder import Judged, interval_ms, seen_limit
from ingress.core.refusals import REASONS
from ingress.core.rows import Row
from ingress.core.verdicts import Denied, Note

_RANKS = {"block": 3, "downgrade": 2, "throttle": 1}
"""What a request has to do, the most first; to wait comes last."""


def severity(denied: Denied) -> tuple[int, int]:
    """Order refusals: what a request has to do most decides (docs/rules.md), then the time until it would fit."""
    return 0 if denied.may_wait else _RANKS.get(denied.action, 0), denied.retry_after_s


def note_of(row: Row, asked: int, now_ms: int, judged: Judged, tier: int = 1) -> Note:
    """Return what a rule says of a request that goes on."""
    state = denied_by(row, asked, now_ms, judged, tier)
    return Note(
        judged.note, judged.rung, state.rule, state.measure, row.scope, row.key, row.limit, state.used, asked, state
    )


def denied_by(row: Row, asked: int, now_ms: int, judged: Judged, tier: int = 1) -> Denied:
    """Return the refusal of a row; one that no rung has judged is short of room here, and perhaps only here."""
    shard, ceiling = row.shard, row.ceiling
    used = row.used + row.carried(now_ms)
    fits_ms = fits_at_ms(row, asked, now_ms)
    # Where all replicas together have room, the next snapshot may bring it here.
    soon = used + asked <= row.limit
    action = judged.action if judged.action not in ("", "wait") else "block"
    percent = ceiling.withheld[tier]
    may_wait = soon if not judged.action else judged.action in ("wait", "queue")
    wait_ms = ceiling.queue_wait_ms if action == "queue" else 0
    if action == "throttle":
        wait_ms = interval_ms(asked, _own_part(row, row.limit - used), max(0, row.end_s * 1000 - now_ms))
    return Denied(
        REASONS[ceiling.measure],
        rule=ceiling.rule,
        measure=ceiling.measure,
        scope=row.scope,
        row=row.key,
        limit=row.limit,
        used=used,
        asked=asked,
        room=row.room,
        weight=shard.weight,
        fence=shard.fence,
        staleness_ms=shard.staleness_ms(now_ms),
        resets_at_s=-(-fits_ms // 1000),
        retry_after_s=1 if soon else wait_s(fits_ms, now_ms),
        overshoot_bound=row.may_miss,
        action=action,
        may_wait=may_wait,
        wait_ms=wait_ms,
        wait_most=ceiling.queue_most if action == "queue" else 0,
        right=row.right,
        pending=row.own_part,
        final_unit=ceiling.final_unit,
        rung=judged.rung,
        mode=ceiling.mode,
        tier=tier,
        seen_limit=seen_limit(row.limit, percent) if percent else 0,
        want=row.want,
        at_ms=now_ms,
    )


def _own_part(row: Row, left: int) -> int:
    """Return this replica's part of what is `left` of a limit, as its part is of all of it: replicas pace together."""
    if row.limit <= 0 or left <= 0:
        return 0
    return max(1, left * min(max(row.part, 0), row.limit) // row.limit)


def fits_at_ms(row: Row, asked: int, now_ms: int) -> int:
    """Return when `asked` fits into `row` if nothing else comes: by decay where it slides, else by its end."""
    end_ms = row.end_s * 1000
    if row.ceiling.measure == "concurrency":
        return now_ms
    if row.prev is None:
        return end_ms
    length_ms = row.length_s * 1000
    limit, used, carried = row.limit, max(row.used, 0), max(row.prev.used, 0)
    free = limit - used - asked
    if free >= 0:
        left_ms = length_ms if carried <= free else free * length_ms // carried
        return max(now_ms, end_ms - left_ms)
    free = max(limit - asked, 0)
    left_ms = length_ms if used <= free else free * length_ms // used
    return end_ms + length_ms - left_ms


def wait_s(until_ms: int, now_ms: int) -> int:
    """Return whole seconds until then, at least one."""
    return max(1, -(-(until_ms - now_ms) // 1000))
