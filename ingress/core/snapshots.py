"""Installs what the meter says of one partition: in order, whole, and never turning back.

A partition's snapshots are a sequence of changes by one publisher at a time. One that is missing makes all that
follow useless until a full one, because a row that they do not mention may have changed; until then nothing is
acknowledged, so nobody is given what this replica may still be using. Knows no clock, no Kafka.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ingress.core.rows import GRACE_S, MINUTE_S, view_of
from schemas.quota import NO_WEIGHT, Member, RowState, Snapshot
from schemas.rows import Measure

if TYPE_CHECKING:
    from ingress.core.admission import Shard

MAX_PUBLISHERS = 8


class Installed(NamedTuple):
    """What came of a snapshot."""

    is_installed: bool = False
    """False for a part of one, an old one, or one that is of no use before a full one came."""
    ack_is_due: bool = False
    """It carried rows or changed shares: the meter waits for the acknowledgement."""
    is_evicted: bool = False
    """This replica had joined and is no member any more: it needs a new epoch."""
    is_lost: bool = False
    """Snapshots before this one are missing: a new epoch brings a full one."""


def install(shard: Shard, snapshot: Snapshot, run: tuple[str, int], now_ms: int) -> Installed:
    """Install a snapshot, or a part of one, as the replica and epoch `run`."""
    rows = _collected(shard, snapshot)
    if rows is None:
        return Installed()
    was_synced, follows = shard.is_synced, _follows(shard, snapshot)
    if snapshot.fence < shard.fence:
        return Installed()
    shard.is_synced = snapshot.full or (was_synced and follows)
    if not shard.is_synced:
        return Installed(is_lost=was_synced)
    runs = [(member.instance, member.epoch) for member in snapshot.members]
    shard.place = runs.index(run) if run in runs else -1
    mine = snapshot.members[shard.place] if shard.place >= 0 else None
    changed = _shares_changed(shard.members, snapshot.members)
    shard.members = snapshot.members
    shard.fence, shard.installed_ms, shard.log_ms = snapshot.fence, now_ms, snapshot.log_ms
    _take_share(shard, mine)
    if snapshot.full:
        _install_all(shard, rows, now_ms)
    else:
        _install_some(shard, rows, now_ms)
    evicted = mine is None and shard.joined_at is not None and snapshot.fence > shard.joined_at
    return Installed(True, changed or bool(rows) or snapshot.full, evicted)


def _take_share(shard: Shard, mine: Member | None) -> None:
    shard.hw = 0 if mine is None else mine.hw
    weight = NO_WEIGHT if mine is None else mine.weight
    if weight != shard.weight:
        shard.weight = weight
        shard.generation += 1
    if mine is not None and shard.unconfirmed is not None and shard.fence > shard.unconfirmed:
        shard.unconfirmed = None
        shard.fence_at_ms = shard.backed_until_ms


def _install_some(shard: Shard, states: list[RowState], now_ms: int) -> None:
    rows, known, place = shard.rows, shard.known, shard.place
    for state in states:
        row = rows.get(state.row)
        if row is not None:
            row.confirm(view_of(state, place), now_ms)
        elif state.row in known:
            known[state.row] = view_of(state, place)
        else:
            _learn(shard, state, now_ms)


def _install_all(shard: Shard, states: list[RowState], now_ms: int) -> None:
    mentioned = {state.row for state in states}
    for key in [key for key in shard.known if key not in mentioned]:
        del shard.known[key]
    for row in list(shard.rows.values()):
        if row.key not in mentioned:
            row.forget(now_ms)
    _install_some(shard, states, now_ms)


def _learn(shard: Shard, state: RowState, now_ms: int) -> None:
    """Remember a row that no plan here has used, unless it is long out of use."""
    head, _, text = state.row.rpartition("@")
    start, _, length = text.partition("+")
    chained = head.endswith(("/minute", "/rolling")) or f"/{Measure.CONCURRENCY}/" in head
    due = (int(start) + int(length) * (1 + chained) + GRACE_S) // MINUTE_S
    if due >= now_ms // 1000 // MINUTE_S:
        shard.known[state.row] = view_of(state, shard.place)
        shard.expiries.setdefault(due, []).append(state.row)


def _collected(shard: Shard, snapshot: Snapshot) -> list[RowState] | None:
    """Return the rows of a whole snapshot, or None until its last part is here."""
    if snapshot.chunks == 1:
        shard.parts.clear()
        return snapshot.rows
    parts = shard.parts
    if parts and (parts[0].publisher, parts[0].number) != (snapshot.publisher, snapshot.number):
        parts.clear()
    if all(part.chunk != snapshot.chunk for part in parts):
        parts.append(snapshot)
    if len(parts) < snapshot.chunks:
        return None
    rows = [state for part in parts for state in part.rows]
    parts.clear()
    return rows


def _follows(shard: Shard, snapshot: Snapshot) -> bool:
    """Note the snapshot's number, and tell whether it is its publisher's next."""
    numbers = shard.numbers
    last = numbers.pop(snapshot.publisher, None)
    numbers[snapshot.publisher] = snapshot.number if last is None else max(last, snapshot.number)
    if len(numbers) > MAX_PUBLISHERS:
        del numbers[next(iter(numbers))]
    return last is not None and snapshot.number <= last + 1


def _shares_changed(old: list[Member], new: list[Member]) -> bool:
    if len(old) != len(new):
        return True
    return any(
        a.instance != b.instance or a.epoch != b.epoch or a.weight != b.weight for a, b in zip(old, new, strict=True)
    )
