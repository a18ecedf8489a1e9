"""A row as one replica sees it: what it has there itself, what it may have, and the room between the two.

Theory. The meter gives each replica a right in each row (`meter.core.rights`): what it may have there in all, settled
and in flight. Its own part is known here at once and exactly, so

    room = right - own part - own part of the window before, as far as that still counts

needs nothing that is on its way. Others' parts only matter for what refusals and headers tell, and for whether it is
worth waiting. A row that no snapshot has mentioned, or of which the log does not know the limit yet, has no right in
it: there a replica may have its share of the limit by membership, less what gone replicas have used.

`room` is cached: an admission takes from it, a settlement gives back to it, and everything else recomputes it. So the
own part is not kept on the hot path: it is what was there at the last recomputation and what `room` has lost since.

Time only ever adds room to a row that slides, so a cached room is safe and merely old; who lacks room recomputes
before refusing. A limit that this replica's policy has lowered holds here at once, in proportion; a raised one is told
to the meter, which gives the rights for it.

Knows no clock, no window arithmetic, no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ingress.core.ladder import BLOCK, Rungs, free_room, seen_limit
from schemas.rows import Measure

if TYPE_CHECKING:
    from ingress.core.admission import Shard
    from schemas.quota import RowState

MINUTE_S = 60
MINUTE_MS = 60_000
GRACE_S = 120
"""Rows are kept for this long after they may count: late events settle."""
FOREVER_S = 1 << 40
CARRY_AFTER_S = 60
"""A window has to be over for this long before what it left unused is carried over: then everybody has told of it."""


class LimitPlan(Protocol):
    """The limit of a rule over time and scopes."""

    def limit_at(self, scope: str, now_s: int) -> tuple[int, int]:
        """Return the limit in the row's unit, and the unix second until which it holds."""
        ...


class Ceiling:
    """What a rule allows in one measure and period, and what happens at the cap.

    All rows of the rule share it, so a new policy changes them at once. `limit` is in the unit of the measure.
    """

    __slots__ = (
        "carry_percent", "final_unit", "grace_percent", "hold_expires_ms", "limit", "measure", "mode", "period",
        "plan", "queue_most", "queue_wait_ms", "rule", "rungs", "strict", "version", "withheld",
    )  # fmt: skip

    def __init__(self, rule: str, measure: str, limit: int, period: str = "") -> None:
        self.rule = rule
        self.measure = measure
        self.period = period
        self.limit = limit
        self.plan: LimitPlan | None = None
        """Where the limit depends on time or scope; None: it is `limit`."""
        self.mode = "enforce"
        """`enforce`; `soft` warns, `shadow` records, and neither refuses."""
        self.rungs: Rungs = BLOCK
        self.withheld: tuple[int, int, int] = (0, 0, 0)
        """Percent of the limit that tier 0, 1, 2 may not take."""
        self.grace_percent = 0
        self.queue_wait_ms = 0
        self.queue_most = 256
        self.strict = False
        """Reserve what a request may use at worst."""
        self.final_unit = "finish"
        self.carry_percent = 0
        """Of the limit, at most, that an earlier window's unused part adds; 0: nothing is carried over."""
        self.hold_expires_ms = 0
        """How long a request counts as in flight at most; 0: as long as it is."""
        self.version = 0
        """Rises whenever something here changes."""

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to look at but room."""
        is_plain = self.mode == "enforce" and self.rungs == BLOCK and self.final_unit != "downgrade"
        return is_plain and not (self.grace_percent or any(self.withheld))


class Known(NamedTuple):
    """What a snapshot says of a row to one replica; the names are those of `Row`."""

    others: int
    gone: int
    right: int
    right_limit: int


def view_of(state: RowState, place: int) -> Known:
    """Return what `state` says to the replica at `place` among the snapshot's members; -1: to one that is none."""
    total, nets, rights = state.settled + state.inflight, state.nets, state.rights
    own = nets[place] if 0 <= place < len(nets) else 0
    right = -1 if state.limit < 0 else rights[place] if 0 <= place < len(rights) else 0
    return Known(total - own, total - sum(nets), right, state.limit)


class Row:
    """One counter in one window."""

    __slots__ = (
        "_back", "_base", "_limit_until_s", "_limit_version", "_may_miss", "budget", "ceiling", "downgrades", "end_s",
        "extra", "floor", "gone", "is_guarded", "key", "last", "length_s", "limit", "net", "next", "others", "own_part",
        "prev", "right", "right_limit", "room", "scope", "seq", "shard", "slack", "told_want", "want", "want_head",
    )  # fmt: skip

    def __init__(self, key: str, scope: str, ceiling: Ceiling, shard: Shard, end_s: int, length_s: int = 0) -> None:
        """Begin a row that no snapshot has mentioned.

        Args:
            key: of the row.
            scope: part of the key, as refusals name it.
            ceiling: of its rule.
            shard: of its partition.
            end_s: unix second at which its window ends.
            length_s: of its window, where the one before counts in; 0 where it stands alone.
        """
        self.key = key
        self.scope = scope
        self.ceiling = ceiling
        self.shard = shard
        self.end_s = end_s
        self.length_s = length_s
        self.prev: Row | None = None
        """The window before, of a row that slides."""
        self.next: Row | None = None
        self.last: Row | None = None
        """The window before, of a row to which something may be carried over."""
        self.others = self.gone = 0
        """What all others, and of those the ones that are gone, have in it, as of the last snapshot."""
        self.right = -1
        """What this replica may have in it; -1: its share."""
        self.right_limit = -1
        """What rights were given out of; -1: the log does not know the limit yet."""
        self.net = 0
        self._back = 0
        """What has been given back of requests that no record has ended yet, less what those had reserved that are."""
        self.room = self.budget = 0
        self.is_guarded = False
        """Whether rungs, tiers or modes have to be looked at before the room ends."""
        self.floor = 0
        """Down to this room no rung of a guarded row begins, for any tier, as of the last recomputation."""
        self.own_part = 0
        """What this replica had in it, and of the window before as far as that counts, at the last recomputation."""
        self.slack = 0
        """What all replicas together have left is `room + slack`."""
        self._may_miss = 0
        self.want = self.want_head = 0
        """Room that waiting requests need: all of them, and the first."""
        self.told_want = (0, 0)
        self.downgrades = False
        """An answer was cut off here: requests go to a cheaper model for the rest of the window."""
        self.seq = 0
        """The record whose cut has seen this row last."""
        self.extra = 0
        self.limit = ceiling.limit
        """In force, as of the last recomputation."""
        self._base = ceiling.limit
        """The limit without what is carried over."""
        self._limit_until_s = -1
        self._limit_version = -1

    @property
    def own(self) -> int:
        """What this replica has in it, settled and in flight."""
        return self.net + self.budget - self.room

    @property
    def inflight(self) -> int:
        """What is reserved here and not yet booked by an event that was cut."""
        self.shard.book()
        return self.net + self.budget - self.room + self._back

    @property
    def may_miss(self) -> int:
        """What requests in flight here may use beyond their reservations at worst."""
        self.shard.book()
        return self._may_miss

    def book(self, back: int, may_miss: int) -> None:
        """Take what bindings have summed up."""
        self._back += back
        self._may_miss += may_miss

    @property
    def used(self) -> int:
        """Settled and in flight: own, and everywhere else as of the last snapshot."""
        return self.others + self.net + self.budget - self.room

    @property
    def limit_until_s(self) -> int:
        """Unix second until which `limit` is what the rule says."""
        return FOREVER_S if self.ceiling.plan is None else self._limit_until_s

    def carried(self, now_ms: int) -> int:
        """Return how much of the window before counts against this row at `now_ms`, rounded up."""
        prev = self.prev
        return 0 if prev is None else self._counts(prev.used, now_ms)

    def _counts(self, amount: int, now_ms: int) -> int:
        if self.ceiling.measure == Measure.CONCURRENCY:
            return max(amount, 0)
        length_ms = self.length_s * 1000
        left_ms = self.end_s * 1000 - now_ms
        if left_ms <= 0 or amount <= 0:
            return 0
        return -(-amount * min(left_ms, length_ms) // length_ms)

    def recompute(self, now_ms: int) -> None:
        """Bring `room` up to date."""
        net = self.net = self.net + self.budget - self.room
        limit = self.limit = self._limit(now_ms)
        prev = self.prev
        if prev is None:
            self.own_part = net
            room = self._right(limit, 0) - net
            self.slack = limit - self.others - net - room
        else:
            own = self.own_part = net + self._counts(prev.own, now_ms)
            room = self._right(limit, self._counts(prev.gone, now_ms)) - own
            self.slack = limit - self.others - net - self._counts(prev.used, now_ms) - room
        self.room = self.budget = room
        if self.is_guarded:
            self.floor = self._floor()

    def _floor(self) -> int:
        ceiling, room = self.ceiling, self.room
        percent = max(ceiling.withheld)
        free = free_room(ceiling.rungs, self.limit - self.slack - room, seen_limit(self.limit, percent))
        kept = -(-(room + self.own_part) * percent // 100) if percent else 0
        return max(room - free, kept, 0)

    @property
    def part(self) -> int:
        """What this replica may have in the row: its right, or its share of a row that the log does not know."""
        return self._right(self.limit, 0)

    def _right(self, limit: int, carried_gone: int) -> int:
        """Return what this replica may have here if the limit is `limit`."""
        right, given_of = self.right, self.right_limit
        if right >= 0:
            return right * limit // given_of if limit < given_of else right
        share = self.shard.weight.share(limit - carried_gone - (self.gone if given_of < 0 else 0))
        prev = self.prev
        if prev is not None and 0 <= prev.right < share:
            return prev.right
        return share

    def _limit(self, now_ms: int) -> int:
        ceiling = self.ceiling
        plan = ceiling.plan
        if plan is None:
            limit = ceiling.limit
        else:
            if now_ms >= self._limit_until_s * 1000 or self._limit_version != ceiling.version:
                self._base, self._limit_until_s = plan.limit_at(self.scope, now_ms // 1000)
                self._limit_version = ceiling.version
            limit = self._base
        return limit + self._carried_over(limit, now_ms) if ceiling.carry_percent else limit

    def _carried_over(self, limit: int, now_ms: int) -> int:
        """Return what the window before leaves to this one: as seen here once it is over.

        A replica that knows nothing of that window takes what the log has beyond the limit, as others told it.
        """
        most = limit * self.ceiling.carry_percent // 100
        last = self.last
        if last is None:
            return max(min(self.right_limit - limit, most), 0)
        if not self.extra and now_ms // 1000 >= last.end_s + CARRY_AFTER_S:
            self.extra = max(last._limit(now_ms) - last.used, 0)
        return min(self.extra, most)

    def confirm(self, known: Known, now_ms: int) -> None:
        """Take over what a snapshot says."""
        self.learn(known)
        self.recompute(now_ms)
        if self.next is not None:
            self.next.recompute(now_ms)

    def learn(self, known: Known) -> None:
        """Take over what a snapshot says, without a look at what follows from it."""
        self.others, self.gone, self.right, self.right_limit = known

    def forget(self, now_ms: int) -> None:
        """Take that the log does not know this row."""
        self.others = self.gone = 0
        self.right = self.right_limit = -1
        self.recompute(now_ms)

    def cut(self, seq: int) -> int:
        """Note that record `seq` carries this row; return the gauge it has to carry. All must be booked."""
        self.seq = seq
        return self.net + self.budget - self.room + self._back

    def rejoin(self) -> None:
        """Begin a new epoch: what has been settled belongs to the old one, what is in flight is carried over."""
        self.net = self.inflight
        self._back = self.room = self.budget = 0
        self.right = self.right_limit = -1
        self.seq = 0
        self.told_want = (0, 0)


def bounds_by_rule(misses: dict[str, int]) -> dict[tuple[str, str], int]:
    """Return what may be used beyond reservations by (rule, measure), from the same by row key."""
    found: dict[tuple[str, str], int] = {}
    for key, amount in misses.items():
        rule, measure, _ = key.split("/", 2)
        found[rule, measure] = found.get((rule, measure), 0) + amount
    return found
