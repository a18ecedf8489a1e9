"""Who may have how much of a row: rights, and how they move from one replica to another.

Theory. Each live replica k has a right `c_k` in each row: what it may have there in all, settled and in flight. It
admits a request only if its own part stays within its right, and it alone changes its own part, so it needs no word
from anybody to know it. Write n_k for its true part, c̄_k for the largest right that it may still be using. Then

    n_k <= max(c̄_k, its part on the log)      and      sum over k of that, with what gone replicas used, <= limit

at every fence gives a true total within the limit, whatever is late, lost or doubled on the way. The two rules below
keep the second inequality:

* Lowering a right is always safe and is done at once; what it frees counts only when its holder has acknowledged a
  snapshot with the lower right, by a record that carries all it admitted before.
* Raising takes from what is free: the limit less everything above.

A row that the log has not seen has no rights yet: each replica may have its share of the limit by membership
(`shares`), and when the row appears on the log the largest of the shares that each may be using becomes its right.
A limit that is lowered takes from every right in proportion; what was used beyond it stays used.

In a row that slides, each replica also counts what still counts of its own part of the window before. Both hold: the
rights by themselves stay within the limit of the window, and with what is carried they stay within the sliding one.
For a replica whose clock may still be in that window, which its own records tell, all that it may have there counts.

Rights move to where they are used: by what replicas lately took and by what their waiting requests ask for. They move
only when somebody is short, and near the cap, when what is left is not enough for everybody's next request, it is
given to one after the other rather than split into parts that are of use to nobody.

Everything here is integer arithmetic on the log's own facts: the same log gives the same rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meter.core.rows import Holding, Row, Run
from meter.core.shares import Granted, weight_of
from schemas.rows import Measure

HALVE_MS = 250
"""Demand is halved after each such time."""
NEVER = 1 << 62
"""A fence that no log reaches."""
FLOOR_PARTS = 16
"""A replica without demand keeps 1/16 of an equal part of what is left, as long as nobody waits for it."""


class Member(Protocol):
    """A live run as this module needs it."""

    run: Run
    ack: int
    grants: list[Granted]
    cut_ms: int
    """When, by its own clock, its last record was cut."""


class Party:
    """A member's standing in one row while rights are being moved."""

    __slots__ = ("base", "holding", "load", "net", "state", "target")

    def __init__(self, state: Member, holding: Holding | None, carried: int) -> None:
        self.state = state
        self.holding = holding = Holding() if holding is None else holding
        net = holding.settled + holding.inflight
        self.base = max(most_of(holding, state.ack), net)
        """The most that it has, or may have, without being given anything."""
        self.net = net + carried
        """What it has, with what it carries from the window before."""
        self.load = max(self.base, self.net)
        self.target = 0
        """What it shall be able to take."""

    @property
    def spare(self) -> int:
        """What it may still take."""
        return self.holding.right - self.net

    @property
    def is_short(self) -> bool:
        """Whether it waits for room, or soon will."""
        holding = self.holding
        return holding.want > 0 or (self.spare < 2 * holding.demand and self.spare < self.target)


class Gone(NamedTuple):
    """What replicas that are gone have used: in the window itself, and with what still counts of the one before."""

    here: int
    sliding: int


def most_of(holding: Holding, ack: int) -> int:
    """Return the largest right that a holder which has acknowledged `ack` may be using."""
    return holding.right if ack >= holding.since else max(holding.most, holding.right)


def begin(row: Row, prev: Row | None, members: Sequence[Member], fence: int, log_ms: int) -> None:
    """Turn the shares that members may be using into rights: the row's limit has become known at `fence`."""
    row.begun = fence
    parties, gone = _parties(row, prev, members, log_ms)
    for party in parties:
        state, holding = party.state, party.holding
        most = _unseen_share(state, row.limit, fence)
        if most:
            right = weight_of(state.grants[-1].share).share(row.limit - gone.sliding)
            _lower(holding, most, right, fence)
            row.holdings.setdefault(state.run, holding)


def change_limit(row: Row, limit: int, members: Sequence[Member], fence: int) -> None:
    """Put a new limit into force: a lower one lowers every right in proportion; a higher one frees the difference.

    A member that does not know the row yet may be using its share of the higher one already.
    """
    before, row.limit = row.limit, limit
    for state in members:
        holding = row.holdings.get(state.run)
        if limit < before:
            if holding is not None and holding.right:
                _lower(holding, most_of(holding, state.ack), holding.right * limit // before, fence)
        elif state.ack < row.begun:
            most = _unseen_share(state, limit, row.begun)
            holding = holding or Holding()
            if most > most_of(holding, state.ack):
                holding.most, holding.since = most, max(holding.since, row.begun)
                row.holdings.setdefault(state.run, holding)


def _unseen_share(state: Member, limit: int, begun: int) -> int:
    """Return the most that a member may be using of a row that it does not know, as its rights began at `begun`."""
    shares = [grant.share for grant in state.grants if grant.share and grant.since < begun]
    return max((weight_of(share).share(limit) for share in shares), default=0)


def note_demand(row: Row, run: Run, log_ms: int) -> None:
    """Bring the demands of a row up to date at `log_ms`; `run` is the one that may have taken something."""
    steps = (log_ms - row.decayed_ms) // HALVE_MS
    if steps > 0:
        row.decayed_ms = log_ms if steps > 64 else row.decayed_ms + steps * HALVE_MS
        for holding in row.holdings.values():
            if holding.demand:
                holding.demand >>= min(steps, 64)
    taker = row.holdings.get(run)
    if taker is not None:
        net = taker.settled + taker.inflight
        if net > taker.seen:
            taker.demand += net - taker.seen
        taker.seen = net


def has_plenty(row: Row, prev: Row | None, run: Run) -> bool:
    """Tell whether `run` is far from being short in `row`, so that nothing has to move on its account."""
    holding = row.holdings.get(run)
    if holding is None or holding.want:
        return False
    spare = holding.right - holding.settled - holding.inflight
    if prev is not None:
        earlier = prev.holdings.get(run)
        if earlier is not None:
            spare -= earlier.settled + earlier.inflight
    return spare >= 2 * holding.demand


def is_freed(row: Row, run: Run, before: int, ack: int) -> bool:
    """Tell whether something of `row` became free when `run` acknowledged `ack`, after `before`."""
    holding = row.holdings.get(run)
    return holding is not None and holding.most > holding.right and before < holding.since <= ack


def carried(row: Row, amount: int, log_ms: int) -> int:
    """Return how much of an amount in the window before still counts in `row`, rounded up."""
    if row.measure == Measure.CONCURRENCY:
        return amount
    left_ms = min(max(row.end_ms - log_ms, 0), row.slides_ms)
    return -(-amount * left_ms // row.slides_ms)


def rebalance(
    row: Row, prev: Row | None, members: Sequence[Member], fence: int, log_ms: int, has_next: bool = False
) -> bool:
    """Move rights in `row` to where they are needed, as far as is safe at `fence`; True if any changed.

    Args:
        row: with a known limit.
        prev: the row of the window before, if `row` slides and it is known.
        members: live runs in join order.
        fence: from which on snapshots carry what is decided here.
        log_ms: time of the log.
        has_next: the window after it has begun for somebody, and what may be used in this one is counted there.
    """
    parties, gone = _parties(row, prev, members, log_ms)
    left = row.limit - gone.sliding - sum(party.net for party in parties)
    free = row.limit - gone.here - sum(party.base for party in parties)
    sliding_free = row.limit - gone.sliding - sum(party.load for party in parties)
    in_the_end = row.limit - gone.sliding - sum(max(party.holding.right, party.net) for party in parties)
    changed = in_the_end < 0 and _shrink(parties, -in_the_end, fence)
    if left <= 0 or has_next or not _set_targets(parties, left, row.slot):
        return changed
    short = [party for party in parties if party.is_short and party.target > party.spare]
    if not short:
        return changed
    missing = sum(party.target - party.spare for party in short)
    if missing > in_the_end:
        changed |= _lower_others(parties, fence, least=0 if any(party.holding.want for party in short) else left // 32)
    return _raise(row, short, free, sliding_free, fence) or changed


def _parties(row: Row, prev: Row | None, members: Sequence[Member], log_ms: int) -> tuple[list[Party], Gone]:
    """Return the standing of every member, and what others have used that counts in the row."""
    parties = []
    here = row.settled + row.inflight
    before = 0 if prev is None else prev.inflight if row.measure == Measure.CONCURRENCY else prev.total
    for state in members:
        holding, own = row.holdings.get(state.run), 0
        earlier = None if prev is None else prev.holdings.get(state.run)
        part = 0
        if earlier is not None:
            part = earlier.inflight if row.measure == Measure.CONCURRENCY else earlier.net
            before -= part
        if row.slides_ms and state.cut_ms < row.end_ms - row.slides_ms:
            part = max(part, _may_have(prev, earlier, state, row.limit))
        if part:
            own = carried(row, part, log_ms)
        if holding is not None:
            here -= holding.settled + holding.inflight
        parties.append(Party(state, holding, own))
    return parties, Gone(here, here + (carried(row, before, log_ms) if before > 0 else 0))


def _may_have(prev: Row | None, earlier: Holding | None, state: Member, limit: int) -> int:
    """Return the most that a member may have in the window before, as long as it may be in that window still."""
    if prev is None or prev.limit < 0:
        return _unseen_share(state, limit, NEVER)
    most = _unseen_share(state, prev.limit, prev.begun) if state.ack < prev.begun else 0
    return max(most, 0 if earlier is None else most_of(earlier, state.ack))


def _shrink(parties: list[Party], by: int, fence: int) -> bool:
    """Lower rights by `by` in all, as far as they are unused: more was used than rights had been given for.

    Where that is not enough, because a limit was lowered below what is used, nobody may use again what it gives back
    until the rest is enough: then a right is only what the limit leaves beside all others.
    """
    unused = sum(party.spare for party in parties if party.spare > 0)
    changed = unused > 0
    for party in parties:
        if party.spare > 0:
            less = min(party.spare, -(-by * party.spare // unused))
            _lower(party.holding, most_of(party.holding, party.state.ack), party.holding.right - less, fence)
    over = by - unused
    if over > 0:
        for party in parties:
            holding = party.holding
            beside = max(party.net - over, 0)
            if holding.right > beside:
                _lower(holding, most_of(holding, party.state.ack), beside, fence)
                changed = True
    return changed


def _set_targets(parties: list[Party], left: int, turn: int) -> bool:
    """Decide how much of what is `left` each shall be able to take; False if nobody asks for any."""
    waiting = [party for party in parties if party.holding.want]
    scores = [party.holding.want + party.holding.demand for party in parties]
    score = sum(scores)
    if not score:
        return False
    wanted = sum(party.holding.want for party in waiting)
    floor = 0 if 2 * wanted > left else left // (FLOOR_PARTS * len(parties))
    rest = left - floor * len(parties)
    for party, part in zip(parties, scores, strict=True):
        party.target = floor + rest * part // score
    if any(party.target < party.holding.head for party in waiting):
        _one_after_the_other(parties, waiting, left, turn)
    return True


def _one_after_the_other(parties: list[Party], waiting: list[Party], left: int, turn: int) -> None:
    """Give what is left to some who wait rather than too little to each."""
    for party in parties:
        party.target = 0
    turn %= len(waiting)
    for party in waiting[turn:] + waiting[:turn]:
        amount = min(party.holding.want, left)
        if amount >= party.holding.head:
            party.target = amount
            left -= amount


def _lower_others(parties: list[Party], fence: int, least: int) -> bool:
    """Lower the right of everyone who has more to spare than its target, if by more than `least`.

    Who has not acknowledged its last lowering yet is only asked for most of what it has left: each lowering puts off
    what the one before frees, and so that ends.
    """
    changed = False
    for party in parties:
        excess, holding = party.spare - party.target, party.holding
        is_pending = party.state.ack < holding.since and holding.most > holding.right
        if excess > least and (2 * excess > party.spare or not is_pending):
            _lower(holding, most_of(holding, party.state.ack), holding.right - excess, fence)
            changed = True
    return changed


def _lower(holding: Holding, most: int, right: int, fence: int) -> None:
    holding.most, holding.right, holding.since = most, right, fence


def _raise(row: Row, short: list[Party], free: int, sliding_free: int, fence: int) -> bool:
    """Give who is short what is free: first those whose requests wait.

    What is free is below nothing while more may be in use than there is; then nobody is given any.
    """
    changed = False
    for party in sorted(short, key=lambda party: party.holding.want == 0):
        holding = party.holding
        right = min(party.net + party.target, party.base + free, party.load + sliding_free)
        if right <= holding.right or (holding.want and right - party.net < holding.head):
            continue
        free -= max(0, right - party.base)
        sliding_free -= max(0, right - party.load)
        holding.right = right
        if right >= holding.most:
            holding.most, holding.since = right, fence
        row.holdings.setdefault(party.state.run, holding)
        changed = True
    return changed
