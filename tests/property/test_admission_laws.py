"""Laws of admission that hold within one replica, whatever the order of requests, cuts, acknowledgements and news.

The meter's part is a plain model: it knows what was in which record, and what others used. The bound over several
replicas, with the real fold, is in `test_bound`.
"""

from __future__ import annotations

from collections import defaultdict

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

    def __init__(self, hold: Hold, number: int, tokens: int, nanos: int) -> None:
        self.hold = hold
        self.number = number
        self.rows = decode_rows(hold.rows)
        self.reserved = dict(zip(MEASURES, (1, tokens, nanos), strict=True))
        self.used = self.reserved


class OneReplica(RuleBasedStateMachine):
    """A replica, and a meter that knows everything that arrived."""

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
        self.seq = self.events = self.fence = self.number = 0
        self.arrived = 0
        """The last seq that the meter has folded."""
        self.records: dict[int, tuple[dict[str, int], list[Request]]] = {}
        self.gauges: dict[str, int] = defaultdict(int)
        self.settled: dict[str, int] = defaultdict(int)
        self.others: dict[str, int] = defaultdict(int)
        self.lows: dict[str, int] = defaultdict(int)
        self.dirty: set[str] = set()
        self.weight = Weight(1, 2, 1)
        self.admitted: dict[str, int] = defaultdict(int)
        """Reserved by own requests ever, and used beyond it."""
        self.used: dict[str, int] = defaultdict(int)
        """Used by own requests that have ended."""
        self.others_told: dict[str, int] = defaultdict(int)
        """Used by others, as the news had it that mentioned the row last."""

    @property
    def rows(self) -> dict[str, Row]:
        """The replica's rows."""
        return self.registry.shards[0].rows

    @initialize()
    def join(self) -> None:
        """Start as a member with half a share."""
        self.publish(full=True)

    @rule(team=st.integers(0, 1), tokens=AMOUNTS, nanos=AMOUNTS)
    def request(self, team: int, tokens: int, nanos: int) -> None:
        """Ask for room: all rows give it, or none does."""
        before = {key: (row.all_gross, row.inflight) for key, row in self.rows.items()}
        outcome = self.plans[team].admit(self.now_ms, tokens, nanos)
        after = {key: (row.all_gross, row.inflight) for key, row in self.rows.items()}
        if isinstance(outcome, Denied):
            asked = outcome.asked
            assert {key: after[key] for key in before} == before
            if outcome.reason == "detached":
                assert self.weight.num == 0
                return
            assert outcome.room < asked
            assert outcome.retry_after_s >= 1
            assert outcome.resets_at_s * 1000 > self.now_ms - 1000
            return
        request = Request(outcome, 0, tokens, nanos)
        for key in request.rows:
            amount = request.reserved[key.split("/")[1]]
            gross, inflight = before.get(key, (0, 0))
            assert after[key] == (gross + amount, inflight + amount)
            self.admitted[key] += amount
        self.open.append(request)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=AMOUNTS, nanos=AMOUNTS, released=st.booleans())
    def settle(self, data: st.DataObject, tokens: int, nanos: int, released: bool) -> None:
        """End a request, twice; the second time counts for nothing."""
        request = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        used = (0, 0, 0) if released else (1, tokens, nanos)
        request.used = dict(zip(MEASURES, used, strict=True))
        request.hold.settle(*used)
        request.hold.settle(1, 10_000, 10_000)
        for key in request.rows:
            measure = key.split("/")[1]
            over = max(0, request.used[measure] - request.reserved[measure])
            self.admitted[key] += over
            self.used[key] += request.used[measure]
        self.unlogged.append(request)

    @rule()
    def log(self) -> None:
        """What was settled reaches the log."""
        for request in self.unlogged:
            self.events += 1
            request.number = self.events
        self.ended += self.unlogged
        self.unlogged = []
        self.registry.journalled(0, self.events)

    @rule(leave=st.integers(0, 3))
    def cut(self, leave: int) -> None:
        """Cut a record that leaves some events for the next one."""
        carried = self.ended[: max(0, len(self.ended) - leave)]
        self.ended = self.ended[len(carried) :]
        through = carried[-1].number if carried else (self.ended[0].number - 1 if self.ended else self.events)
        self.seq += 1
        gauges = {gauge.row: gauge.inflight for gauge in self.registry.cut(0, self.seq, through)}
        self.records[self.seq] = (gauges, carried)

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
                self.settled[key] += request.used[key.split("/")[1]]
                self.dirty.add(key)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), amount=st.integers(1, 100))
    def elsewhere(self, data: st.DataObject, amount: int) -> None:
        """Another replica uses what its share allows."""
        key = data.draw(st.sampled_from(sorted(self.rows)))
        self.fence += 1
        self.others[key] += amount
        self.dirty.add(key)

    @rule(full=st.booleans(), twice=st.booleans(), weight=st.sampled_from([Weight(1, 2, 1), Weight(1, 3, 0), Weight()]))
    def news(self, full: bool, twice: bool, weight: Weight) -> None:
        """A snapshot is installed; a second time it changes nothing."""
        self.weight = weight
        snapshot = self.publish(full)
        if twice:
            before = [(row.room, row.used, row.confirmed) for row in self.rows.values()]
            self.registry.install(snapshot, INSTANCE, EPOCH, self.now_ms)
            assert before == [(row.room, row.used, row.confirmed) for row in self.rows.values()]

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
        keys = sorted({*self.gauges, *self.settled, *self.others} if full else self.dirty)
        self.dirty.clear()
        states = []
        for key in keys:
            self.others_told[key] = self.others[key]
            settled = self.settled[key] + self.others[key]
            low = self.lows[key] = min(settled + self.gauges[key], self.lows[key] if self.number % 3 else 1 << 40)
            states.append(RowState(key, settled, self.gauges[key], low))
        members = [Member(INSTANCE, EPOCH, self.arrived, self.weight)]
        snapshot = Snapshot(0, "m", self.number, self.fence, 0, 0, full, 0, 1, members, states, [])
        assert self.registry.install(snapshot, INSTANCE, EPOCH, self.now_ms).is_installed
        return snapshot

    @rule(passes_ms=st.sampled_from([0, 1, 5_000, 30_000, MINUTE_MS]))
    def time(self, passes_ms: int) -> None:
        """Time passes; windows roll."""
        self.now_ms += passes_ms

    @invariant()
    def own_usage_counts_once(self) -> None:
        """What is used, as this replica sees it, is what it has admitted and what the last news had of all others."""
        for key, row in self.rows.items():
            assert row.all_gross == self.admitted[key]
            assert row.confirmed <= row.all_gross
            assert 0 <= row.inflight <= row.all_gross

    @invariant()
    def a_cached_room_is_the_room_or_less(self) -> None:
        """Computed from scratch by the formula there is never less room than the row says; only time adds some."""
        shard = self.registry.shards[0]
        for key, row in self.rows.items():
            limit = LIMITS["/".join(key.split("/")[:2])]
            prev, left_ms = row.prev, max(0, min(MINUTE_MS, row.end_s * 1000 - self.now_ms))
            carried = -(-max(0, prev.used) * left_ms // MINUTE_MS) if prev else 0
            share = self.weight.share(limit - carried - row.low)
            room = share - (row.total - row.low) - (row.all_gross - row.confirmed)
            row_room = row.room
            row.recompute(self.now_ms)
            assert row.room == room
            binding_is_old = any(plan._binding.generation != shard.generation for plan in self.plans)
            assert row_room <= room or binding_is_old or prev is not None

    @invariant()
    def own_usage_is_never_undercounted(self) -> None:
        """News and own unconfirmed reservations together are never below what own requests used and hold."""
        true = defaultdict(int, self.used)
        for request in self.open:
            for key in request.rows:
                true[key] += request.reserved[key.split("/")[1]]
        for key, row in self.rows.items():
            assert row.used - self.others_told[key] >= true[key]

    def teardown(self) -> None:
        """When everything has ended and arrived, nothing is in flight, and the meter's sums are the true ones."""
        if not self.number:
            return
        for request in self.open:
            request.hold.settle(0, 0, 0)
            request.used = dict.fromkeys(MEASURES, 0)
        self.unlogged += self.open
        self.log()
        self.cut(0)
        while self.arrived < self.seq:
            self.arrive()
        self.publish(full=True)
        for key, row in self.rows.items():
            assert (row.inflight, self.gauges[key]) == (0, 0)
            assert row.used == row.total == self.settled[key] + self.others[key]


TestOneReplica = OneReplica.TestCase
TestOneReplica.settings = settings(max_examples=80, stateful_step_count=50)


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
    assert max(used.values(), default=0) <= LIMITS["team/tokens"]
