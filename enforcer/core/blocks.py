"""Block entries: which budget scopes may not go on, as changes to the topic `blocks`.

Theory
------
States of a (rule, scope): free, or blocked until the end of one window. The topic holds the state: an entry is
«blocked», no entry or a tombstone is «free».

Events and transitions:

* spend of the window that holds now reaches the amount: free → blocked until that window's end;
* the window ends: blocked → free (the entry says `until_s`, so readers need no tombstone to know);
* the amount in force leaves room, or a correction of costs does, or the budget is gone, or counts otherwise:
  blocked → free;
* the limit in force changes and leaves no room: the entry is written again with the new limit;
* the scope may go on beyond the amount (a soft or shadow budget, a queue or a cheaper model at 100 %, grace for tier
  0, something carried over, a schedule, a temporary increase): blocked → free. Rows hold the limit there as anywhere;
  a block only says once and for all what they would say to each request.

Who may unblock: the enforcer alone, by these rules; nobody edits the topic. Which order wins: only the row of the
window that holds now is looked at, so a late row of an older window neither blocks nor lifts, and an entry is only
ever replaced by one of the same or a later window. The caller hands over rows merged by fence, therefore a repeated or
reordered row cannot lift a block.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping

import msgspec

from enforcer.core.budgets import Spend, reached
from schemas.blocks import BlockEntry


class Absent(enum.Enum):
    """Why there is no spend to judge a block by."""

    NONE = "none"
    """The policy has no such budget now, or the scope has spent nothing in this window."""
    UNKNOWN = "unknown"
    """The meter's rows have not been read in full; a block stays until they have."""


Blocks = Mapping[str, BlockEntry]
Look = Callable[[str, str], Spend | Absent]
"""(rule, scope) → the spend of the window that holds now."""


class Transition(msgspec.Struct, frozen=True):
    """A change to the topic: an entry, or a tombstone if `entry` is None."""

    key: str
    entry: BlockEntry | None


def transitions(
    spends: Iterable[Spend], blocks: Blocks, look: Look, policy_version: int, now_ms: int
) -> list[Transition]:
    """Return what has to change so that `blocks` say what `spends` and the policy in force demand at `now_ms`.

    `spends` are those that may have changed; every entry of `blocks` is judged anew as well, by `look`.
    """
    changes: dict[str, Transition] = {}
    for spend in spends:
        if not _demanded(spend, now_ms):
            continue
        entry = _entry(spend, policy_version, now_ms)
        known = blocks.get(entry.key)
        if known is None or _outdated(known, entry):
            changes[entry.key] = Transition(entry.key, entry)
    for key, known in blocks.items():
        if key not in changes and (change := _judge(key, known, look, policy_version, now_ms)) is not None:
            changes[key] = change
    return list(changes.values())


def exhausted(spend: Spend) -> bool:
    """Tell whether the budget's amount is used up by settled spend."""
    return reached(spend.state.settled, spend.budget.amount, 100)


def _judge(key: str, known: BlockEntry, look: Look, policy_version: int, now_ms: int) -> Transition | None:
    if now_ms >= known.until_s * 1000:
        return Transition(key, None)
    spend = look(known.rule, known.scope)
    if spend is Absent.UNKNOWN:
        return None
    if isinstance(spend, Absent) or not _demanded(spend, now_ms):
        return Transition(key, None)
    entry = _entry(spend, policy_version, now_ms)
    return Transition(key, entry) if _outdated(known, entry) else None


def _demanded(spend: Spend, now_ms: int) -> bool:
    return _current(spend, now_ms) and exhausted(spend) and spend.may_block(now_ms)


def _current(spend: Spend, now_ms: int) -> bool:
    window = spend.key.window
    return window.start * 1000 <= now_ms < window.end * 1000


def _outdated(known: BlockEntry, entry: BlockEntry) -> bool:
    if entry.until_s != known.until_s:
        return entry.until_s > known.until_s
    return (entry.limit, entry.window) != (known.limit, known.window)


def _entry(spend: Spend, policy_version: int, now_ms: int) -> BlockEntry:
    return BlockEntry(
        rule=spend.budget.name,
        scope=spend.scope,
        action="block",
        reason="budget_exhausted",
        measure=spend.key.measure,
        limit=spend.budget.amount,
        used=spend.state.settled,
        window=str(spend.key.window),
        since_ms=now_ms,
        until_s=spend.key.window.end,
        policy_version=policy_version,
    )
