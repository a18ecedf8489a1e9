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
from ingress.core.waiting import Ticket
from meter.adapters.partition import Partition
from meter.core.changelog import META, Changelog
from meter.core.rights import most_of
from meter.core.rows import Row
from meter.core.shares import weight_of
from schemas.codec import decode_record, decode_rows, decode_snapshot, encode_record
from schemas.published import PUBLISH_MS
from schemas.usage import Evict, UsageEvent
from tests.property.bound_replica import Replica
from tests.property.bound_scenario import (
    FLUSH_MS,
    LEASE_MS,
    PARTS,
    POLL_MS,
    SLOTS_ROW,
    TICK_MS,
    UNLIMITED,
    Request,
    Scenario,
    window_before,
)


class World:
    """The queue of events, the log, and the truth."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.now = scenario.start_ms
        self.log: list[tuple[int, bytes]] = []
        self.requests: list[Request] = []
        self.truth: Counter[str] = Counter()
        self.allowed_over: Counter[str] = Counter()
        self.published_fence = 0
        self.running = 0
        """Requests that live processes serve."""
        self.versions = [100]
        """The limits, in percent of the scenario's, of each version of the policy so far."""
        self.told: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        """The fence at which the log had a run's first record under a version, by run and version."""
        self.known: dict[tuple[str, int], int] = {}
        """The fence at which the log had the limit of a version, by row and version."""
        self.in_force: dict[str, int] = defaultdict(int)
        """The oldest version that anybody may still go by in a row, however late."""
        self.waiting: dict[Ticket, Denied] = {}
        """Requests that began to wait while the row that was short was far from its limit."""
        self.far_waits: list[int] = []
        """How long they did, if they were admitted, ms."""
        self.false_refusals: list[str] = []
        """Refusals by rows that in truth were far from their limits."""
        self.asked = self.decisions = 0
        """What all requests asked for, refused ones too; how often a replica decided about one."""
        self.ending = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.meter = Meter(self)
        self.replicas = [Replica(self, f"ingress-{n}") for n in range(scenario.replicas + scenario.late_joins)]

    @property
    def round_trip_ms(self) -> int:
        """The longest time from an admission to the news of it everywhere, as long as nobody fails."""
        scenario = self.scenario
        record_ms = TICK_MS + 3 * max(1, scenario.wire_ms)  # behind one on the wire and its acknowledgement
        return record_ms + POLL_MS + PUBLISH_MS + max(1, scenario.news_ms)

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
        for _ in range(scenario.limit_changes):
            self.at(pick.randint(0, length), self._change_limits)
        self._arrive()

    def _change_limits(self) -> None:
        """Let every replica hear of other limits, one sooner and one later."""
        self.versions.append(self.random.choice((20, 50, 80, 100, 130, 200)))
        version = len(self.versions) - 1
        for replica in self.replicas:
            self._hears(replica, version)

    def _hears(self, replica: Replica, version: int) -> None:
        self.at(self.random.choice((0, 20, 100, 600)), lambda: replica.take_limits(version))

    def _arrive(self) -> None:
        if not self.ending:
            self.random.choice(self.replicas).request()
            self.at(self.random.randint(1, 2 * self.scenario.pressure_ms), self._arrive)

    # ------------------------------------------------------------------------------------------------------ laws

    def admitted(self, request: Request) -> None:
        """Check law 1: settled and in flight stay within the limit; in a minute with what counts of the one before."""
        self.requests.append(request)
        self.running += 1
        self._check(SLOTS_ROW, self.running, request)
        for key in request.keys:
            self.truth[key] += request.reserved
            self._check(key, self.truth[key], request)
            if key.startswith("pace/") and not self.scenario.skew_ms:
                end_ms = int(key.rpartition("@")[2].partition("+")[0]) * 1_000 + 60_000
                before = window_before(key)
                self.allowed_over[f"sliding {key}"] = self.allowed_over[key] + self.allowed_over[before]
                carried = self.truth[before] * (end_ms - self.now) // 60_000
                self._check(f"sliding {key}", self.truth[key] + carried, request)

    def _check(self, key: str, used: int, request: Request) -> None:
        limit, over = self.allowed(key), self.allowed_over[key]
        assert used <= limit + over, (
            f"at {self.now - self.scenario.start_ms} ms {request.run} brought {key} to {used} of {limit} + {over}"
        )

    def allowed(self, key: str) -> int:
        """Return the highest limit that anybody may still go by in a row."""
        name = key.removeprefix("sliding ")
        rows = [name, window_before(name)] if name != key else [name]
        if name == SLOTS_ROW:
            # A limit that is lowered while two clocks are in two hours is lowered in each of them by itself: for as
            # long as they differ, what runs may still be by the old one.
            rows = [row for row in self.in_force if row.startswith(SLOTS_ROW) and not self.scenario.skew_ms]
        oldest = min((self.in_force[row] for row in rows), default=0)
        return max(self.limit_of(name.partition("/")[0], version) for version in range(oldest, len(self.versions)))

    def is_far(self, denied: Denied) -> bool:
        """Tell whether a row has more than is asked below 90 % of its limit, in truth and as its replica knows it."""
        row = denied.row
        used = self.running if row.startswith(SLOTS_ROW) else self.truth[row]
        if row.startswith("pace/"):
            used += self.truth[window_before(row)]
        limit = min(self.limit_of(row.partition("/")[0], version) for version in range(len(self.versions)))
        return max(used, denied.used) + denied.asked <= 0.9 * limit

    def refused(self, replica: Replica, plan: Plan, denied: Denied) -> None:
        """Check law 7's other half later: note a refusal by a row that in truth was far from its limit."""
        if denied.row and replica.may_admit and self.is_far(denied):
            at_ms = self.now - self.scenario.start_ms
            self.false_refusals.append(f"at {at_ms} ms {replica.name}: {denied}, {self.truth[denied.row]} in truth")

    def waits(self, ticket: Ticket, denied: Denied) -> None:
        """Note that a request waits."""
        if self.is_far(denied):
            self.waiting[ticket] = denied

    def waited(self, ticket: Ticket, for_ms: int) -> None:
        """Note that it waits no longer."""
        denied = self.waiting.pop(ticket, None)
        if denied is not None and self.is_far(denied):
            self.far_waits.append(for_ms)

    def limit_of(self, rule: str, version: int) -> int:
        """Return what a row of the rule may hold by a version of the policy."""
        if rule == "slots":
            most = self.scenario.slots * self.versions[version] // 100
            return max(most, 1) if self.scenario.slots else UNLIMITED
        if rule == "pace" and not self.scenario.paced:
            return UNLIMITED
        part, of = PARTS[rule]
        return self.scenario.limit * part // of * self.versions[version] // 100

    def stopped(self, request: Request) -> None:
        """Take that a request runs no more."""
        if request.running:
            request.running = False
            self.running -= 1

    def ended(self, request: Request) -> None:
        """Book what a request really used."""
        request.open = False
        self.stopped(request)
        for key in request.keys:
            self.truth[key] -= request.reserved - request.actual

    def given_up(self, run: tuple[str, int]) -> None:
        """A run is evicted with something that the log does not know: that much may be given out again.

        The published bound of an eviction: what the replica held in flight, and what it used unlogged.
        """
        for request in self.requests:
            if request.run == run and not request.logged and not request.given_up:
                request.given_up = True
                self.allowed_over[SLOTS_ROW] += request.running
                for key in request.keys:
                    self.allowed_over[key] += request.counts

    def folded(self) -> None:
        """Check laws that hold at every fence: the shares, and that `low` is in use by nobody beyond it."""
        shard = self.meter.partition.shard
        if len(self.versions) > 1 and not shard.rows_ahead:
            self._forget_old_limits()
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
        gone, most, used = row.total, 0, 0
        live = {state.run for state in members}
        for run, held in row.holdings.items():
            if run not in live:  # its new epoch has told of it already, or its late gauges are more than it used
                gone -= held.inflight
        for state in members:
            holding = row.holdings.get(state.run)
            if holding is not None:
                gone -= holding.net
                used += holding.net
                most += most_of(holding, state.ack)
        limit = max(self.limit_of(key.partition("/")[0], version) for version in range(len(self.versions)))
        if len(self.versions) > 1 or any(state.ack < row.begun for state in members):
            gone = min(gone, 0)  # who knew of it before the limit was told goes by what it had left
        limit += self.allowed_over[SLOTS_ROW if key.startswith(SLOTS_ROW) else key]
        assert gone + most <= max(limit, gone + used), f"{key}: {gone} + {most} of {limit}, {used} used"

    def _forget_old_limits(self) -> None:
        """Note from which version on nobody goes by an older limit of a row.

        That is so once every replica has the version, all that it had admitted before is on the log, the log has the
        limit, and everybody has acknowledged the rights that follow from all that.
        """
        shard = self.meter.partition.shard
        record = decode_record(self.log[shard.fence - 1][1])
        if not isinstance(record, Evict):
            for version in range(1, record.policy_version):
                self.told[record.instance, record.epoch].setdefault(version, shard.fence)
        for key, row in shard.rows.by_key.items():
            oldest = self.in_force.setdefault(key, 0)
            for version in range(oldest + 1, row.limit_version):
                fence = self.known.setdefault((key, version), shard.fence)
                if all(self._has_followed(replica, version, fence) for replica in self.replicas):
                    self.in_force[key] = version

    def _has_followed(self, replica: Replica, version: int, fence: int) -> bool:
        if not replica.alive or replica.replaying:
            disk = replica.disk
            return not (disk.open or disk.ended or disk.records)
        state = self.meter.partition.shard.runs.open.get(replica.run)
        if state is None or not replica.shard.is_member:
            return replica.version >= version and not replica.disk.open and not replica.disk.records
        told = self.told[replica.run].get(version)
        return told is not None and state.ack >= max(told, fence)

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
        assert self._at_rest(), f"no rest by {self.now - self.scenario.start_ms} ms: {self._unrest()}"
        shard = self.meter.partition.shard
        sums, ledger = sums_of(self.log)
        assert {key: row.settled for key, row in shard.rows.by_key.items() if row.settled} == sums
        totals = [state.totals for state in shard.runs.open.values()]
        runs = [account for account in shard.ledger.by_key.values() if account.told is not None]
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
        world.at(world.random.randint(1, POLL_MS), lambda: self._poll(life))

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
