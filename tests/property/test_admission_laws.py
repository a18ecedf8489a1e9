"""Laws of admission that hold within one replica, whatever the order of requests, cuts, acknowledgements and news.

The meter's part is a plain model: it knows what was in which record and what others used, and gives rights at random.
The bound over several replicas, with the real fold, is in `test_bound`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ingress.core.admission import Registry
from ingress.core.plan import Denied, Hold, Plan
from ingress.core.rows import Row
from schemas.codec import decode_rows
from schemas.quota import Member, RowState, Snapshot, Weight
from tests.unit.ingress.governed import EPOCH, INSTANCE, MINUTE_MS, START_MS, plan_of, resolver_of

POLICY = """
orgs: {acme: {teams: [search, chat]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim}}
limits:
  - {name: org, rpm: 12, tpm: 900}
  - {name: team, per: [team], tpm: 700}
budgets:
  - {name: month, amount: 0.000002 USD, period: month}
"""
LIMITS = {"org/requests": 12, "org/tokens": 900, "team/tokens": 700, "month/cost": 2_000}
TEAMS = ("search", "chat")
AMOUNTS = st.integers(0, 300)
MEASURES = ("requests", "tokens", "cost")


class Request:
    """An admitted request and what the tests know of it."""

    def __init__(self, hold: Hold, tokens: int, nanos: int) -> None:
        self.hold = hold
        self.number = self.logged_with = 0
        self.rows = decode_rows(hold.rows)
        self.reserved = dict(zip(MEASURES, (1, tokens, nanos), strict=True))
        self.used: dict[str, int] | None = None
        """None while it is open."""

    def counts(self, key: str) -> int:
        """Return what it counts for in a row: what it holds, and once it has ended what it used."""
        return (self.reserved if self.used is None else self.used)[key.split("/")[1]]

    def gauge(self, key: str) -> int:
        """Return its part of a row's gauge as long as no record has carried its event."""
        return max(self.reserved[key.split("/")[1]], self.counts(key))


class Told(NamedTuple):
    """What the last news said of a row."""

    others: int = 0
    gone: int = 0
    right: int = -1
    limit: int = -1


class OneReplica(RuleBasedStateMachine):
    """A replica, and a meter that knows everything that arrived and gives any rights it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(1)
        resolver = resolver_of(POLICY, registry=self.registry)
        self.plans: list[Plan] = [plan_of(resolver, id=team, team=team) for team in TEAMS]
        self.now_ms = START_MS
        self.open: list[Request] = []
        self.ended: list[Request] = []
        """Settled and on the log, in no record."""
        self.unlogged: list[Request] = []
        self.late: list[Request] = []
        """Their events are in a record, but not yet those of all that was logged with them: their gauges wait."""
        self.done: list[Request] = []
        """Their events are in a record, and their gauges have ended."""
        self.seq = self.events = self.fence = self.number = 0
        self.arrived = 0
        """The last seq that the meter has folded."""
        self.records: dict[int, tuple[dict[str, int], list[Request]]] = {}
        self.gauges: dict[str, int] = defaultdict(int)
        self.settled: dict[str, int] = defaultdict(int)
        """By own requests, as far as it has arrived."""
        self.others: dict[str, int] = defaultdict(int)
        self.gone: dict[str, int] = defaultdict(int)
        self.dirty: set[str] = set()
        self.weight = Weight(1, 2, 1)
        self.grants = (50, 100)
        self.told: dict[str, Told] = {}
        self.overused: set[str] = set()
        """Rows in which a request used more than it had reserved, after which a room may be cached too large where
        the row is the window before."""

    @property
    def rows(self) -> dict[str, Row]:
        """The replica's rows."""
        return self.registry.shards[0].rows

    @property
    def uncut(self) -> list[Request]:
        """Requests whose gauges have not ended."""
        return [*self.open, *self.unlogged, *self.ended, *self.late]

    def own(self, key: str) -> int:
        """Return what own requests hold and have used in a row."""
        return sum(request.counts(key) for request in [*self.uncut, *self.done] if key in request.rows)

    def room(self, row: Row) -> int:
        """Return the room of a row from scratch: its right or share, less its own part of it and of the one before."""
        limit = LIMITS["/".join(row.key.split("/")[:2])]
        told, prev = self.told.get(row.key, Told()), row.prev
        left_ms = max(0, min(MINUTE_MS, row.end_s * 1000 - self.now_ms))
        before = self.told.get(prev.key, Told()) if prev else Told()
        carried = -(-self.own(prev.key) * left_ms // MINUTE_MS) if prev else 0
        if told.right >= 0:
            right = told.right * min(limit, told.limit) // told.limit
        else:
            right = self.weight.share(limit - told.gone - -(-before.gone * left_ms // MINUTE_MS))
            right = min(right, before.right) if before.right >= 0 else right
        return right - self.own(row.key) - carried

    @initialize()
    def join(self) -> None:
        """Start as a member with half a share."""
        self.publish(full=True)

    @rule(team=st.integers(0, 1), tokens=AMOUNTS, nanos=AMOUNTS)
    def request(self, team: int, tokens: int, nanos: int) -> None:
        """Ask for room: all rows give it, or none does."""
        before = self.parts()
        outcome = self.plans[team].admit(self.now_ms, tokens, nanos)
        after = self.parts()
        if isinstance(outcome, Denied):
            assert {key: after[key] for key in before} == before
            if outcome.reason == "detached":
                assert self.weight.num == 0
                return
            assert outcome.room < outcome.asked
            assert outcome.may_wait == (outcome.used + outcome.asked <= outcome.limit)
            assert outcome.retry_after_s >= 1
            assert outcome.resets_at_s * 1000 > self.now_ms - 1000
            return
        request = Request(outcome, tokens, nanos)
        self.open.append(request)
        for key in request.rows:
            amount = request.counts(key)
            own, inflight = before.get(key, (0, 0))
            assert after[key] == (own + amount, inflight + amount)
            assert not amount or self.room(self.rows[key]) >= 0, "more than the right allows"

    def parts(self) -> dict[str, tuple[int, int]]:
        """Return what this replica has in each row, and what of that is in flight."""
        return {key: (row.own, row.inflight) for key, row in self.rows.items()}

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=AMOUNTS, nanos=AMOUNTS)
    def extend(self, data: st.DataObject, tokens: int, nanos: int) -> None:
        """Ask for more for a request that goes on: all rows give it, or none does."""
        request = data.draw(st.sampled_from(self.open))
        before = self.parts()
        denied = request.hold.extend(tokens, nanos, self.now_ms)
        if denied is not None:
            assert self.parts() == before
            assert denied.room < denied.asked
            return
        request.reserved["tokens"] += tokens
        request.reserved["cost"] += nanos
        grown = {"requests": 0, "tokens": tokens, "cost": nanos}
        for key in request.rows:
            amount = grown[key.split("/")[1]]
            assert self.parts()[key] == (before[key][0] + amount, before[key][1] + amount)
            if amount:
                self.overused.add(key)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=AMOUNTS, nanos=AMOUNTS, released=st.booleans())
    def settle(self, data: st.DataObject, tokens: int, nanos: int, released: bool) -> None:
        """End a request, twice: what it did not use is room at once; the second time counts for nothing."""
        request = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        before = {key: self.rows[key].room for key in request.rows}
        used = (0, 0, 0) if released else (1, tokens, nanos)
        request.used = dict(zip(MEASURES, used, strict=True))
        request.hold.settle(*used)
        request.hold.settle(1, 10_000, 10_000)
        for key in request.rows:
            measure = key.split("/")[1]
            assert self.rows[key].room == before[key] + request.reserved[measure] - request.used[measure]
            if request.used[measure] > request.reserved[measure]:
                self.overused.add(key)
        self.unlogged.append(request)

    @rule()
    def log(self) -> None:
        """What was settled reaches the log."""
        for request in self.unlogged:
            self.events += 1
            request.number = self.events
        for request in self.unlogged:
            request.logged_with = self.events
        self.ended += self.unlogged
        self.unlogged = []
        self.registry.journalled(0, self.events)

    @rule(leave=st.integers(0, 3))
    def cut(self, leave: int) -> None:
        """Cut a record that leaves some events for the next one; what it does not carry is in its gauges."""
        carried = self.ended[: max(0, len(self.ended) - leave)]
        self.ended = self.ended[len(carried) :]
        through = carried[-1].number if carried else (self.ended[0].number - 1 if self.ended else self.events)
        self.seq += 1
        gauges = {gauge.row: gauge.inflight for gauge in self.registry.cut(0, self.seq, through)}
        ended = [request for request in [*self.late, *carried] if request.logged_with <= through]
        self.late = [request for request in [*self.late, *carried] if request.logged_with > through]
        self.done += ended
        self.records[self.seq] = (gauges, carried)
        for key, inflight in gauges.items():
            assert inflight == sum(request.gauge(key) for request in self.uncut if key in request.rows)
        assert {key for request in ended for key in request.rows} <= gauges.keys()

    @precondition(lambda self: self.arrived < self.seq)
    @rule()
    def arrive(self) -> None:
        """The meter folds the next record."""
        self.arrived += 1
        self.fence += 1
        gauges, events = self.records.pop(self.arrived)
        self.gauges |= gauges
        self.dirty |= gauges.keys()
        for request in events:
            for key in request.rows:
                self.settled[key] += request.counts(key)
                self.dirty.add(key)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), amount=st.integers(1, 100), is_gone=st.booleans())
    def elsewhere(self, data: st.DataObject, amount: int, is_gone: bool) -> None:
        """Another replica uses something; or one that is gone has, as its journal shows."""
        key = data.draw(st.sampled_from(sorted(self.rows)))
        self.fence += 1
        (self.gone if is_gone else self.others)[key] += amount
        self.dirty.add(key)

    @rule(
        full=st.booleans(), twice=st.booleans(),
        weight=st.sampled_from([Weight(1, 2, 1), Weight(1, 2, 1), Weight(1, 3, 0), Weight()]),
        right_percent=st.sampled_from([50, 0, 10, 100]), limit_percent=st.sampled_from([100, 0, 60, 200]),
    )  # fmt: skip
    def news(self, full: bool, twice: bool, weight: Weight, right_percent: int, limit_percent: int) -> None:
        """A snapshot is installed, with rights out of any limit or of none; a second time it changes nothing."""
        self.weight = weight
        self.grants = (right_percent, limit_percent)
        snapshot = self.publish(full)
        if twice:
            before = [(row.room, row.used, row.right) for row in self.rows.values()]
            self.registry.install(snapshot, INSTANCE, EPOCH, self.now_ms)
            assert before == [(row.room, row.used, row.right) for row in self.rows.values()]

    @rule(leave=st.integers(0, 3))
    def round_trip(self, leave: int) -> None:
        """A record is cut, it arrives, and its effect comes back."""
        self.cut(leave)
        while self.arrived < self.seq:
            self.arrive()
        self.publish(full=False)

    def publish(self, full: bool) -> Snapshot:
        """Return the snapshot that was installed."""
        self.number += 1
        keys = sorted({*self.gauges, *self.settled, *self.others, *self.gone} if full else self.dirty)
        self.dirty.clear()
        states = [self.state(key) for key in keys]
        members = [Member("other", 1, 0, Weight(1, 2, 0)), Member(INSTANCE, EPOCH, self.arrived, self.weight)]
        snapshot = Snapshot(0, "m", self.number, self.fence, 0, 0, full, 0, 1, members, states, [])
        assert self.registry.install(snapshot, INSTANCE, EPOCH, self.now_ms).is_installed
        return snapshot

    def state(self, key: str) -> RowState:
        """Return a row as the meter tells it, and remember that."""
        right_percent, limit_percent = self.grants
        limit = LIMITS["/".join(key.split("/")[:2])] * limit_percent // 100 or -1
        right = limit * right_percent // 100
        self.told[key] = Told(self.others[key] + self.gone[key], self.gone[key], right if limit > 0 else -1, limit)
        settled = self.settled[key] + self.others[key] + self.gone[key]
        nets = [self.others[key], self.settled[key] + self.gauges[key]]
        return RowState(key, settled, self.gauges[key], limit, [limit - right, right] if limit > 0 else [], nets)

    @rule(passes_ms=st.sampled_from([0, 1, 5_000, 30_000, MINUTE_MS]))
    def time(self, passes_ms: int) -> None:
        """Time passes; windows roll."""
        self.now_ms += passes_ms

    @invariant()
    def the_own_part_is_known_exactly(self) -> None:
        """Whatever has been cut, has arrived or came back: own is what own requests hold and used, once each."""
        for key, row in self.rows.items():
            assert row.own == self.own(key)
            assert row.used == row.own + self.told.get(key, Told()).others
            assert row.inflight == sum(request.gauge(key) for request in self.uncut if key in request.rows)

    @invariant()
    def a_cached_room_is_the_room(self) -> None:
        """It equals the one from scratch; where the window before counts too, time may have added to the latter."""
        shard = self.registry.shards[0]
        if any(plan._binding.generation != shard.generation for plan in self.plans):
            return  # the next admission recomputes
        for row in self.rows.values():
            if row.end_s * 1000 <= self.now_ms or self.weight.num == 0:
                continue
            if row.prev is None:
                assert row.room == self.room(row)
            elif row.prev.key not in self.overused:
                assert row.room <= self.room(row)

    def teardown(self) -> None:
        """When everything has ended and arrived, nothing is in flight, and the meter's sums are the true ones."""
        if not self.number:
            return
        for request in self.open:
            request.hold.settle(0, 0, 0)
            request.used = dict.fromkeys(MEASURES, 0)
        self.unlogged += self.open
        self.open = []
        self.log()
        self.cut(0)
        while self.arrived < self.seq:
            self.arrive()
        self.publish(full=True)
        for key, row in self.rows.items():
            assert (row.inflight, self.gauges[key]) == (0, 0)
            assert row.own == self.settled[key]
            assert row.used == self.settled[key] + self.others[key] + self.gone[key]


TestOneReplica = OneReplica.TestCase
TestOneReplica.settings = settings(max_examples=60, stateful_step_count=40)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 400), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 59_999),
)
def test_a_sliding_minute_never_holds_more_than_its_limit(requests: list[tuple[int, int, bool]], start_ms: int) -> None:
    """In each minute row, and in the weighted sum over it and the one before at every admission."""
    registry = Registry(1)
    members = [Member(INSTANCE, EPOCH, 0, Weight(1, 1, 0))]
    registry.install(Snapshot(0, "m", 1, 1, 0, 0, True, 0, 1, members, [], []), INSTANCE, EPOCH, START_MS)
    plan = plan_of(resolver_of(POLICY, registry=registry), id="search", team="search")
    now_ms = START_MS + start_ms
    used: dict[int, int] = defaultdict(int)
    for gap_ms, tokens, settles_low in requests:
        now_ms += gap_ms
        outcome = plan.admit(now_ms, tokens, 0)
        if isinstance(outcome, Denied):
            continue
        minute = now_ms // MINUTE_MS
        used[minute] += tokens
        left_ms = MINUTE_MS - now_ms % MINUTE_MS
        assert used[minute] + used[minute - 1] * left_ms / MINUTE_MS <= LIMITS["team/tokens"]
        if settles_low:
            outcome.settle(1, 1, 0)
            used[minute] -= tokens - 1
    assert max(used.values(), default=0) <= LIMITS["team/tokens"]
