"""A row as one replica sees it: what the meter has confirmed, what it admitted itself since, and the room that is left.

Theory (the protocol's proof is in the meter's favour: it needs nothing but the formula below and in-order installs).

    room = share(L - low) - (G - low) - (gross - gross at hw)

`G` and `low` are of the last snapshot that mentioned the row, `gross` is the monotone sum of what this replica ever
reserved in it, and `gross at hw` is the part of it that the snapshot includes. `room` is cached: an admission takes
from it, and everything else recomputes it. So `gross` is not kept on the hot path: it is what was there at the last
recomputation plus what `room` has lost since (`budget - room`). In flight is `gross - ended`.

Minute rows slide: L is the ceiling less the part of the previous minute that a minute's view still covers. Time only
ever adds room, so a cached room is safe and merely old; who lacks room recomputes before refusing.

Knows no clock, no window arithmetic, no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingress.core.admission import Shard

MINUTE_S = 60
MINUTE_MS = 60_000
GRACE_S = 120
"""Rows are kept for this long after their window: a minute row serves as the previous one, late events settle."""
MAX_MARKS = 256
"""Cuts of a row that may wait for confirmation one by one; beyond it they are thinned, which only costs room."""


class Ceiling:
    """What a rule allows in one measure. All rows of the rule share it, so a new policy changes them at once."""

    __slots__ = ("limit", "measure", "rule")

    def __init__(self, rule: str, measure: str, limit: int) -> None:
        """`limit` is in the unit of the measure."""
        self.rule = rule
        self.measure = measure
        self.limit = limit


class Row:
    """One counter in one window."""

    __slots__ = (
        "budget", "ceiling", "confirmed", "end_s", "ended", "gross", "key", "low", "marks", "may_miss", "next", "prev",
        "room", "scope", "seq", "shard", "slack", "total",
    )  # fmt: skip

    def __init__(self, key: str, scope: str, ceiling: Ceiling, shard: Shard, end_s: int) -> None:
        """Begin a row that no snapshot has mentioned; its window ends at unix second `end_s`."""
        self.key = key
        self.scope = scope
        self.ceiling = ceiling
        self.shard = shard
        self.end_s = end_s
        self.prev: Row | None = None
        """The minute before, of a row that slides."""
        self.next: Row | None = None
        self.total = self.low = 0
        self.gross = self.ended = self.confirmed = 0
        self.room = self.budget = 0
        self.slack = 0
        """What all replicas together have left is `room + slack`."""
        self.may_miss = 0
        """What requests in flight here may use beyond their reservations at worst."""
        self.marks: list[tuple[int, int]] = []
        """(seq, gross) of cuts that no snapshot includes yet, where gross had grown."""
        self.seq = 0
        """The record whose cut has seen this row last."""

    @property
    def all_gross(self) -> int:
        """Everything this replica ever reserved here."""
        return self.gross + self.budget - self.room

    @property
    def inflight(self) -> int:
        """What is reserved here and not yet booked by an event that was cut."""
        return self.gross + self.budget - self.room - self.ended

    @property
    def used(self) -> int:
        """Settled and in flight everywhere as of the last snapshot, and own reservations since."""
        return self.total + self.gross + self.budget - self.room - self.confirmed

    def carried(self, now_ms: int) -> int:
        """Return how much of the previous minute counts against this row at `now_ms`, rounded up."""
        prev = self.prev
        left_ms = self.end_s * 1000 - now_ms
        if prev is None or left_ms <= 0:
            return 0
        return -(-max(prev.used, 0) * min(left_ms, MINUTE_MS) // MINUTE_MS)

    def recompute(self, now_ms: int) -> None:
        """Bring `room` up to date."""
        shard = self.shard
        gross = self.gross = self.gross + self.budget - self.room
        if self.marks:
            self._confirm_up_to(shard.hw)
        low = self.low
        headroom = self.ceiling.limit - low
        if self.prev is not None:
            headroom -= self.carried(now_ms)
        share = shard.weight.share(headroom)
        self.slack = headroom - share
        self.room = self.budget = share - (self.total - low) - (gross - self.confirmed)

    def confirm(self, total: int, low: int, hw: int, now_ms: int) -> None:
        """Take over what a snapshot says that includes own records up to `hw`."""
        self.total = total
        self.low = low
        if self.marks:
            self._confirm_up_to(hw)
        self.recompute(now_ms)
        if self.next is not None:
            self.next.recompute(now_ms)

    def _confirm_up_to(self, hw: int) -> None:
        marks = self.marks
        count = 0
        for seq, gross in marks:
            if seq > hw:
                break
            self.confirmed = gross
            count += 1
        if count:
            del marks[:count]

    def cut(self, seq: int) -> int:
        """Note that record `seq` carries this row; return the gauge it has to carry."""
        self.seq = seq
        gross = self.gross + self.budget - self.room
        marks = self.marks
        if gross != (marks[-1][1] if marks else self.confirmed):
            marks.append((seq, gross))
            if len(marks) > MAX_MARKS:
                del marks[1:-1:2]
        return gross - self.ended

    def rejoin(self) -> None:
        """Forget the confirmations of an epoch that is over: what is in flight counts as unconfirmed again."""
        self.marks.clear()
        self.seq = 0
        self.confirmed = self.ended
