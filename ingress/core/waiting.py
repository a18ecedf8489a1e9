"""The waiting room: requests for which this replica has no room, while all replicas together still have some.

A ticket waits at the row that was short, in the order of tiers, then of arrival. What waits at a row is told to the
meter as a want, and so is what the ticket lacks in its other rows, so that room comes to all of them at once; room that
comes is given from the front. Whoever's time is up, or for whom there is nothing left to wait for, leaves with a
refusal. Knows no clock, no tasks: `serve` is called when something has stirred.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING

from ingress.core.verdicts import Denied
from schemas.published import WAITING_PER_ROW

if TYPE_CHECKING:
    from ingress.core.plan import Hold, Plan
    from ingress.core.rows import Row


class Ticket:
    """One request that waits: what it asks of which plan, and until when (unix ms)."""

    __slots__ = (
        "claims", "miss_nanos", "miss_tokens", "most", "nanos", "number", "passed", "plan", "row", "since_ms", "tier",
        "tokens", "until_ms",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        tokens: int,
        nanos: int,
        miss_tokens: int,
        miss_nanos: int,
        *,
        tier: int,
        since_ms: int,
        until_ms: int,
        passed: frozenset[str] = frozenset(),
        most: int = WAITING_PER_ROW,
    ) -> None:
        self.plan = plan
        self.tokens = tokens
        self.nanos = nanos
        self.miss_tokens = miss_tokens
        self.miss_nanos = miss_nanos
        self.tier = tier
        self.since_ms = since_ms
        self.until_ms = until_ms
        self.passed = passed
        self.most = most
        """How many may wait at the row, this one included."""
        self.row: Row | None = None
        """Where it waits; None while it does not."""
        self.claims: list[Row] = []
        """Other rows where it wants room."""
        self.number = 0


class WaitingRoom:
    """Everything that waits on this replica."""

    def __init__(self) -> None:
        self.stirred = False
        """Whether room may have come, so that `serve` is worth a call."""
        self.on_stir: Callable[[], None] | None = None
        """Called when that becomes so while somebody waits."""
        self.on_want: Callable[[int], None] | None = None
        """Called with a partition whose meter has to hear of a want."""
        self._lines: dict[Row, list[Ticket]] = {}
        self._claims: dict[Row, dict[object, int]] = {}
        self._count = 0
        self._last = 0

    def __len__(self) -> int:
        return self._count

    def stir(self) -> None:
        """Note that room may have come."""
        if self._count and not self.stirred:
            self.stirred = True
            if self.on_stir is not None:
                self.on_stir()

    @property
    def next_deadline_ms(self) -> int | None:
        """When the next ticket's time is up; None if none waits."""
        return min((ticket.until_ms for line in self._lines.values() for ticket in line), default=None)

    def add(self, ticket: Ticket, denied: Denied) -> bool:
        """Let `ticket` wait at the row that `denied` names; False if that line is full, or there is no such row."""
        row = ticket.plan.find_row(denied.row)
        if row is None:
            return False
        line = self._lines.setdefault(row, [])
        if len(line) >= min(ticket.most, WAITING_PER_ROW):
            return False
        self._last += 1
        ticket.number = self._last
        self._enter(line, ticket, row)
        return True

    def position(self, ticket: Ticket) -> int:
        """Return its place in its line, from 1; 0 if it does not wait."""
        if ticket.row is None:
            return 0
        return self._lines[ticket.row].index(ticket) + 1

    def cancel(self, ticket: Ticket) -> None:
        """Take `ticket` out, wherever it is."""
        if ticket.row is not None:
            self._leave(ticket)

    def claim(self, row: Row, owner: object, amount: int) -> None:
        """Want `amount` in `row` for a request that goes on meanwhile, such as a stream; 0 ends that of `owner`."""
        claims = self._claims.setdefault(row, {})
        claims.pop(owner, None)
        if amount:
            claims[owner] = amount
        elif not claims:
            del self._claims[row]
        self._want(row, self._lines.get(row, []))

    def serve(self, now_ms: int) -> list[tuple[Ticket, Hold | Denied]]:
        """Return the tickets that wait no longer: with what they hold, or why they were refused."""
        self.stirred = False
        served: list[tuple[Ticket, Hold | Denied]] = []
        for row in list(self._lines):
            is_stuck = False
            for ticket in list(self._lines.get(row, ())):
                if is_stuck and now_ms < ticket.until_ms:
                    continue  # who came later does not pass
                outcome = ticket.plan.admit(
                    now_ms, ticket.tokens, ticket.nanos, ticket.miss_tokens, ticket.miss_nanos, passed=ticket.passed
                )
                if isinstance(outcome, Denied) and outcome.may_wait and now_ms < ticket.until_ms:
                    is_stuck = not self._moves(ticket, outcome)
                    continue
                self._leave(ticket)
                served.append((ticket, outcome))
        return served

    def _moves(self, ticket: Ticket, denied: Denied) -> bool:
        """Let a ticket that is short in another row now wait there; False if it stays where it is."""
        row = ticket.plan.find_row(denied.row)
        if row is None or row is ticket.row:
            return False
        self._leave(ticket)
        self._enter(self._lines.setdefault(row, []), ticket, row)
        return True

    def _enter(self, line: list[Ticket], ticket: Ticket, row: Row) -> None:
        insort(line, ticket, key=_place)
        ticket.row = row
        self._count += 1
        self._want(row, line)
        for other, amount in ticket.plan.short_of(ticket.tokens, ticket.nanos):
            if other is not row:
                ticket.claims.append(other)
                self.claim(other, ticket, amount)

    def _leave(self, ticket: Ticket) -> None:
        row = ticket.row
        assert row is not None
        line = self._lines[row]
        line.remove(ticket)
        ticket.row = None
        self._count -= 1
        self._want(row, line)
        while ticket.claims:
            self.claim(ticket.claims.pop(), ticket, 0)
        if not line:
            del self._lines[row]

    def _want(self, row: Row, line: list[Ticket]) -> None:
        asked = [ticket.plan.needs(row, ticket.tokens, ticket.nanos) for ticket in line]
        if row in self._claims:
            asked += self._claims[row].values()
        row.want, row.want_head = sum(asked), asked[0] if asked else 0
        row.shard.wanting[row] = None
        if self.on_want is not None:
            self.on_want(row.shard.partition)


def _place(ticket: Ticket) -> tuple[int, int]:
    return ticket.tier, ticket.number
