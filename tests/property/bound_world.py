"""A deterministic world around the real cores: a log, a meter, replicas, and every delay and fault between them.

The fold, the changelog, the publishing rules and the replicas' registry are the production code. Modelled here are
only clocks, wires, processes and disks, all driven by one seeded source of randomness and one queue of events.
`World.run` checks the laws at every event and raises AssertionError with the moment at which one broke.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from ingress.core.plan import Denied, Plan
from meter.adapters.partition import Partition
from meter.core.changelog import META, Changelog
from meter.core.rights import most_of
from meter.core.rows import Row
from meter.core.shares import weight_of
from schemas.codec import decode_record, decode_rows, decode_snapshot, encode_record
from schemas.usage import Evict, UsageEvent
from tests.property.bound_replica import Replica
from tests.property.bound_scenario import FLUSH_MS, LEASE_MS, PARTS, START_MS, Request, Scenario


class World:
    """The queue of events, the log, and the truth."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.now = START_MS
        self.log: list[tuple[int, bytes]] = []
        self.requests: list[Request] = []
        self.truth: Counter[str] = Counter()
        self.allowed_over: Counter[str] = Counter()
        self.published_fence = 0
        self.waited: list[int] = []
        """How long requests waited that were admitted then, ms."""
        self.refusals: list[tuple[int, int]] = []
        """(used, limit) of the row that refused a request, in truth."""
        self.asked = 0
        """What all requests asked for, refused ones too."""
        self.ending = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.meter = Meter(self)
        self.replicas = [Replica(self, f"ingress-{n}") for n in range(scenario.replicas + scenario.late_joins)]

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (self.now + delay_ms, next(self._numbers), action))

    def delay(self, longest_ms: int) -> int:
        """Return a delay: mostly short, now and then the longest."""
        return self.random.randint(0, longest_ms if self.random.random() < 0.2 else max(1, longest_ms // 5))

    def append(self, value: bytes) -> int:
        """Put a record on the log."""
        self.log.append((self.now, value))
        return len(self.log) - 1

    def run(self) -> None:
        """Let everything happen, then let it come to rest, and check what must hold at rest."""
        self._arrange()
        end = self.now + self.scenario.length_ms
        self._drive(end)
        self.ending = True
        self._drive(end + 60_000)
        self._check_rest()

    def _drive(self, until_ms: int) -> None:
        while self._queue and self._queue[0][0] <= until_ms and not (self.ending and self._at_rest()):
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def _arrange(self) -> None:
        scenario, pick = self.scenario, self.random
        length = scenario.length_ms
        self.meter.start()
        for number, replica in enumerate(self.replicas):
            self.at(0 if number < scenario.replicas else pick.randint(0, length), replica.start)
        for _ in range(scenario.meter_kills):
            self.at(pick.randint(0, length), self.meter.kill)
        for count, name in (
            (scenario.kills, "kill"), (scenario.lost_disks, "lose"), (scenario.outages, "cut_off"),
            (scenario.leaves, "leave"), (scenario.misses, "miss"),
        ):  # fmt: skip
            for _ in range(count):
                self.at(pick.randint(length // 10, length), getattr(pick.choice(self.replicas), name))
        self._arrive()

    def _arrive(self) -> None:
        if not self.ending:
            self.random.choice(self.replicas).request()
            self.at(self.random.randint(1, 2 * self.scenario.pressure_ms), self._arrive)

    # ------------------------------------------------------------------------------------------------------ laws

    def admitted(self, request: Request) -> None:
        """Check law 1: settled and in flight stay within the limit."""
        self.requests.append(request)
        for key in request.keys:
            self.truth[key] += request.reserved
            limit = self.limit_of(key.partition("/")[0])
            assert self.truth[key] <= limit + self.allowed_over[key], (
                f"at {self.now - START_MS} ms {request.run} brought {key} to {self.truth[key]} "
                f"of {limit} + {self.allowed_over[key]}"
            )

    def refused(self, replica: Replica, plan: Plan, denied: Denied) -> None:
        """Note how full the row was, in truth, that a request was refused for."""
        if denied.row and replica.may_admit:
            self.refusals.append((self.truth[denied.row] + denied.asked, denied.limit))

    def limit_of(self, rule: str) -> int:
        """Return what a row of the rule may hold."""
        if rule == "pace" and not self.scenario.paced:
            return 1_000_000_000
        part, of = PARTS[rule]
        return self.scenario.limit * part // of

    def ended(self, request: Request) -> None:
        """Book what a request really used."""
        request.open = False
        for key in request.keys:
            self.truth[key] -= request.reserved - request.actual

    def given_up(self, run: tuple[str, int]) -> None:
        """A run is evicted with something that the log does not know: that much may be given out again.

        The published bound of an eviction: what the replica held in flight, and what it used unlogged.
        """
        for request in self.requests:
            if request.run == run and not request.logged and not request.given_up:
                request.given_up = True
                for key in request.keys:
                    self.allowed_over[key] += request.counts

    def folded(self) -> None:
        """Check laws that hold at every fence: the shares, and that `low` is in use by nobody beyond it."""
        shard = self.meter.partition.shard
        for key, row in shard.rows.by_key.items():
            if row.limit >= 0 and not shard.rows_ahead:
                self._check_rights(key, row)
        for headroom in (1, 2, 3, 7, self.random.randint(1, 5_000)):
            most = sum(
                max(weight_of(grant.share).share(headroom) for grant in state.grants) for state in shard.runs.members
            )
            assert most <= headroom, f"shares of {headroom} may sum to {most}: {shard.runs.members}"
        if shard.fence < self.published_fence:
            return  # replicas may be using versions that this meter has not reached again
        for replica in self.replicas:
            state = shard.runs.open.get(replica.run)
            if replica.may_admit and state is not None and state.live:
                for key, row in shard.rows.by_key.items():
                    holding, right = row.holdings.get(replica.run), replica.right_in(key)
                    if row.limit >= 0 and right >= 0:
                        most = 0 if holding is None else most_of(holding, state.ack)
                        assert right <= most, f"{replica.name} uses a right of {right} in {key}, {most} is counted"

    def _check_rights(self, key: str, row: Row) -> None:
        """Check that what everybody may have of a row is at most its limit."""
        members = self.meter.partition.shard.runs.members
        gone, most = row.total, 0
        for run, held in row.holdings.items():  # a new epoch has told of it already, the old one has not ended
            if any(state.run[0] == run[0] and state.run[1] > run[1] for state in members):
                gone -= held.inflight
        for state in members:
            holding = row.holdings.get(state.run)
            if holding is not None:
                gone -= holding.net
                most += most_of(holding, state.ack)
        assert gone + most <= row.limit + self.allowed_over[key], f"{key}: {gone} + {most} of {row.limit}"

    def shares_in_use(self) -> None:
        """Check that what replicas really use never sums over the headroom."""
        weights = [replica.shard.weight for replica in self.replicas if replica.may_admit]
        for headroom in (1, 2, 3, 5, 11, 1_000):
            assert sum(weight.share(headroom) for weight in weights) <= headroom, weights

    def _at_rest(self) -> bool:
        shard = self.meter.partition.shard
        quiet = all(replica.is_quiet for replica in self.replicas)
        gone = {run for run, state in shard.runs.open.items() if not state.live}
        gauges = [run for row in shard.rows.by_key.values() for run, held in row.holdings.items() if held.inflight]
        settled = gone.issuperset(gauges)
        return quiet and settled and self.meter.alive and shard.fence == len(self.log) and not shard.changed_rows

    def _unrest(self) -> object:
        shard = self.meter.partition.shard
        rows = [(row.key, row.settled, row.inflight) for row in shard.rows.by_key.values()]
        replicas = [(r.run, r.alive, r.is_quiet, len(r.outbox), r.connected, r.leaving) for r in self.replicas]
        return self.meter.alive, shard.fence, len(self.log), rows, replicas

    def _check_rest(self) -> None:
        """Check convergence and conservation: gauges 0, lows equal to totals, sums equal to the log's own."""
        assert self._at_rest(), f"no rest by {self.now - START_MS} ms: {self._unrest()}"
        shard = self.meter.partition.shard
        sums, ledger = sums_of(self.log)
        assert {key: row.settled for key, row in shard.rows.by_key.items() if row.settled} == sums
        totals = [state.totals for state in shard.runs.open.values()]
        runs = [account for key, account in shard.ledger.by_key.items() if key.startswith("instance=")]
        days = [account.totals for key, account in shard.ledger.by_key.items() if key.startswith("org=")]
        assert sum(t.charge_nanos for t in totals) + sum(a.totals.charge_nanos for a in runs) == ledger
        assert sum(t.charge_nanos for t in days) == ledger
        if not self.scenario.lost_disks:
            assert not any(row.inflight for row in shard.rows.by_key.values())
            for key, row in shard.rows.by_key.items():
                assert row.settled == self.truth[key], "what was used is not what was booked"


class Meter:
    """A meter process: it polls the log, publishes, writes its changelog part by part, and may die between any two."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store: dict[str, bytes] = {}
        self.committed = 0
        self.life = 0
        self.alive = False
        self.position = 0
        self.partition = Partition(Changelog.restore(0, {}), 0, "none", LEASE_MS)

    def start(self) -> None:
        """Take up from the changelog; fold again from any offset that is not beyond the committed one."""
        world = self.world
        self.life += 1
        self.alive = True
        changelog = Changelog.restore(0, self.store)
        self.partition = Partition(changelog, len(world.log), f"meter/{self.life}", LEASE_MS)
        self.position = world.random.randint(0, self.committed)
        life = self.life
        self._poll(life)
        world.at(FLUSH_MS, lambda: self._flush(life))
        world.at(500, lambda: self._leases(life))

    def kill(self) -> None:
        """Lose everything that is not in the changelog; come back later."""
        if self.alive:
            self.alive = False
            self.world.at(self.world.random.randint(50, 1_500), self.start)

    def _poll(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        world, partition = self.world, self.partition
        # Replayed records come fast; new ones as they trickle in.
        for _ in range(world.random.randint(1, 6) if self.position >= self.committed else 500):
            if self.position >= len(world.log):
                break
            log_ms, value = world.log[self.position]
            fault = partition.take(self.position, log_ms, value, _Ack())
            assert fault is None, fault
            self.position += 1
            world.folded()
        while partition.due_in_ms(world.now) == 0:
            self._publish()
        world.at(world.random.randint(1, 15), lambda: self._poll(life))

    def _publish(self) -> None:
        world = self.world
        parts = [decode_snapshot(part) for part in self.partition.snapshot(world.now, world.now)]
        assert parts[0].fence >= world.published_fence, "a reader would see the counters run backwards"
        world.published_fence = parts[0].fence
        for replica in world.replicas:
            for part in parts:
                replica.send_news(part)

    def _flush(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        flush = self.partition.flush()
        if flush is None:
            self.world.at(FLUSH_MS, lambda: self._flush(life))
            return
        steps = iter([*flush.slots, META])

        def step() -> None:
            if life != self.life or not self.alive:
                return
            name = next(steps)
            if name != META:
                self.store[name] = self.partition.changelog.encode(name)
                self.world.at(self.world.random.choice((0, 0, 0, 3, 30)), step)
                return
            self.store[META] = flush.meta
            self.committed = flush.fence
            self.partition.flushed(flush)
            self.world.at(FLUSH_MS, lambda: self._flush(life))

        step()

    def _leases(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        world, partition = self.world, self.partition
        if partition.caught_up:
            members = [(state.run, state.hw) for state in partition.shard.runs.members]
            for run in partition.lease.check(len(world.log), partition.shard.fence, members, world.now):
                world.given_up(run)
                world.append(encode_record(Evict(*run, "silent")))
        world.at(500, lambda: self._leases(life))


class _Ack:
    def ack(self) -> bool:
        return True


def sums_of(log: list[tuple[int, bytes]]) -> tuple[dict[str, int], int]:
    """Return what the log says by row, and in all, each record counted once: an independent and naive fold."""
    seen: set[tuple[str, int, int]] = set()
    sums: dict[str, int] = defaultdict(int)
    everything = 0
    for _, value in log:
        record = decode_record(value)
        if isinstance(record, Evict) or (record.instance, record.epoch, record.seq) in seen:
            continue
        seen.add((record.instance, record.epoch, record.seq))
        for raw in record.events:
            event = msgspec.msgpack.decode(raw, type=UsageEvent)
            everything += event.charge_nanos
            for key in decode_rows(event.rows):
                sums[key] += event.charge_tokens
    return {key: value for key, value in sums.items() if value}, everything
