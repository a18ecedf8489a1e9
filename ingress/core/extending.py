"""Keeps the reservation of a stream ahead of its output, and says when a rule ends it.

Four fifths into what is held, a chunk more is reserved. Where there is no room here, but replicas have some together,
the meter is told what is wanted, and the stream asks again a few hundred tokens later: by then room may have come. When
all that is held is used, rules let the answer go on (`finish`, `downgrade`) and have it booked beyond their limit, as
far as the overshoot bound states; those that end answers (`terminate`) are held to the last token, and end this one.
"""

from __future__ import annotations

from ingress.core.plan import Hold, Plan
from ingress.core.reserving import CHUNK_TOKENS
from ingress.core.streaming import Outflow
from ingress.core.verdicts import Denied

ASK_AGAIN_TOKENS = CHUNK_TOKENS // 16
BEYOND_TOKENS = CHUNK_TOKENS // 4


def keep_ahead(flow: Outflow, hold: Hold, plan: Plan, now_ms: int) -> Denied | None:
    """Reserve more for a stream that has come close to what it holds; return what ends it, if something does."""
    denied = _extend(flow, hold, plan, CHUNK_TOKENS, now_ms)
    if denied is None:
        end_claim(flow)
        return None
    _claim(flow, plan, denied)
    if flow.output <= flow.covered:
        flow.put_off(ASK_AGAIN_TOKENS)
        return None
    if _extend(flow, hold, plan, BEYOND_TOKENS, now_ms, goes_beyond=True) is None:
        return None
    return _extend(flow, hold, plan, 0, now_ms, goes_beyond=True)


def end_claim(flow: Outflow) -> None:
    """Want nothing any more for the stream."""
    row, flow.claimed = flow.claimed, None
    if row is not None:
        row.shard.waiting.claim(row, flow, 0)


def _claim(flow: Outflow, plan: Plan, denied: Denied) -> None:
    """Want what is refused here, as far as replicas together have it."""
    left = min(denied.asked, denied.limit - denied.used)
    row = plan.find_row(denied.row) if left > 0 else None
    if row is not flow.claimed:
        end_claim(flow)
        flow.claimed = row
    if row is not None:
        row.shard.waiting.claim(row, flow, left)


def _extend(
    flow: Outflow, hold: Hold, plan: Plan, chunk_tokens: int, now_ms: int, *, goes_beyond: bool = False
) -> Denied | None:  # fmt: skip
    """Reserve `chunk_tokens` beyond what the stream has used."""
    tokens, nanos = flow.wanted(chunk_tokens)
    denied = hold.extend(tokens, nanos, now_ms, tier=plan.tier, goes_beyond=goes_beyond)
    if denied is None:
        flow.extended(tokens, nanos)
    return denied
