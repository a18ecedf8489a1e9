"""A simulated ingress process: the real registry and plans; a model of its journal, its sender and its wires."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ingress.core.admission import Registry, Shard
from ingress.core.plan import Hold, Plan
from ingress.core.waiting import Ticket
from schemas.codec import decode_record, decode_rows, encode_record
from schemas.quota import Snapshot
from schemas.usage import Batch, Gauge, Totals, Want
from tests.property.bound_scenario import (
    BACKLOG,
    HEARTBEAT_MS,
    LEASE_MS,
    SELF_FENCE_MS,
    TEAMS,
    TICK_MS,
    Disk,
    Record,
    Request,
    event_of,
    plan_of,
)

if TYPE_CHECKING:
    from tests.property.bound_world import World


class Replica:
    """An ingress process: the real registry and plans; a model of its journal, its sender and its wires."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.epoch = 0
        self.life = 0
        self.alive = self.replaying = self.leaving = False
        self.connected = True
        self.disk = Disk()
        self.registry = Registry(1)
        self.plans: list[Plan] = []
        self.outbox: list[Record] = []
        self.sending = False
        self.last_cut = 0
        self.ack_due = False
        self.news: list[Snapshot] = []
        self.news_at = 0
        self.misses = False
        self.version = 0
        """Of the limits that it goes by."""
        self.skew_ms = world.random.randint(-world.scenario.skew_ms, world.scenario.skew_ms)

    @property
    def clock(self) -> int:
        """What time it is by its own clock."""
        return self.world.now + self.skew_ms

    @property
    def shard(self) -> Shard:
        """What the replica knows of the one partition."""
        return self.registry.shards[0]

    @property
    def run(self) -> tuple[str, int]:
        """Which run of the replica this is."""
        return self.name, self.epoch

    @property
    def may_admit(self) -> bool:
        """Whether it has a share, and the broker has heard of it lately."""
        serves = self.alive and not self.replaying and not self.leaving
        return serves and self.shard.is_member and self.clock < self.shard.fence_at_ms

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is open, waiting or on its way."""
        disk = self.disk
        return not (self.replaying or disk.open or disk.ended or disk.records or self.outbox or self.shard.touched)

    # ------------------------------------------------------------------------------------------------- its life

    def start(self) -> None:
        """Begin a new epoch with an empty view."""
        self.life += 1
        self.epoch += 1
        self.alive, self.replaying, self.connected = True, False, True
        self.disk = Disk()
        self._fresh_view()
        life = self.life
        self.world.at(self.world.random.randint(0, TICK_MS), lambda: self._tick(life))

    def _fresh_view(self) -> None:
        registry = self.registry = Registry(1)
        self.shard.fence_at_ms = 0
        self.news.clear()
        self.sending = False
        self.outbox.clear()
        self.take_limits(len(self.world.versions) - 1)
        self.plans = [plan_of(registry, team) for team in TEAMS]
        self.last_cut = 0

    def take_limits(self, version: int) -> None:
        """Go by the limits of a version, unless those in force are newer."""
        self.version = max(version, self.version)
        limit = self.world.limit_of
        measures = {"org": "cost", "team": "tokens", "pace": "tokens", "slots": "concurrency"}
        self.registry.set_ceilings([(rule, kind, "", limit(rule, self.version)) for rule, kind in measures.items()])
        if self.registry.waiting.stirred:
            self._serve(self.life)

    def kill(self) -> None:
        """Die with whatever is open; return with the disk, send what it holds, end the old epoch, begin a new one."""
        self._die(self._replay)

    def lose(self) -> None:
        """Die, and return with an empty disk."""
        if self.alive and not self.replaying and not self.leaving:
            self.world.given_up(self.run)
            for request in self.disk.open:
                request.open = False
            self._die(self.start)

    def _die(self, then: Callable[[], None]) -> None:
        if not self.alive or self.replaying or self.leaving:
            return
        self.alive = False
        self.life += 1
        for request in self.disk.open:
            self.world.stopped(request)
        self._fresh_view()
        if then == self.start:
            self.disk = Disk()
        self.world.at(self.world.random.randint(20, 1_500), then)

    def _replay(self) -> None:
        """Send what the dead epoch left: its records, then one with its last events that is final."""
        self.alive = self.replaying = self.connected = True
        disk = self.disk
        if any(record.seq == 1 for record in disk.records):
            # It had begun a new epoch, and dies before the record that carries into it what is in flight was sent:
            # until its last record nobody knows of that.
            self.world.given_up(self.run)
        disk.records = [_without_gauges(record) for record in disk.records]
        self.outbox = list(disk.records)
        for request in disk.open:
            request.actual = request.reserved  # an unknown request is charged as reserved
            request.open = False
        disk.ended += disk.open
        disk.open = []
        self._put([], final=True)

    def cut_off(self) -> None:
        """Lose the broker, both ways, perhaps for longer than the lease."""
        if not self.alive:
            return
        self.connected = False
        life = self.life

        def back() -> None:
            if life == self.life:
                self.connected = True
                self._send()

        self.world.at(self.world.random.randint(200, 2 * LEASE_MS), back)

    def miss(self) -> None:
        """Lose one of the next snapshots: the meter's topic keeps them for half an hour only."""
        self.misses = True

    def leave(self) -> None:
        """Stop cleanly: admit nothing more, and end the epoch when everything has ended."""
        if self.alive and not self.replaying:
            self.leaving = True

    def right_in(self, key: str) -> int:
        """Return what this replica may have in a row by the right that it knows; -1 without one."""
        known = self.shard.rows.get(key) or self.shard.known.get(key)
        return -1 if known is None else known.right

    # -------------------------------------------------------------------------------------------------- requests

    def request(self) -> None:
        """Admit a request of random size if every row has room, all or nothing."""
        world = self.world
        if not self.alive or self.replaying or self.leaving:
            return
        plan = world.random.choice(self.plans)
        size = world.random.randint(1, world.scenario.biggest)
        world.asked += size
        world.decisions += 1
        outcome = plan.admit(self.clock, size, size)
        if isinstance(outcome, Hold):
            self._admitted(plan, size, outcome)
        elif outcome.may_wait and world.scenario.waits_ms:
            until_ms = self.clock + world.scenario.waits_ms
            ticket = Ticket(plan, size, size, 0, 0, tier=1, since_ms=self.clock, until_ms=until_ms)
            if self.registry.waiting.add(ticket, outcome):
                world.waits(ticket, outcome)
                life = self.life
                world.at(world.scenario.waits_ms, lambda: self._serve(life))
        else:
            world.refused(self, plan, outcome)

    def _serve(self, life: int) -> None:
        """Let those go on for whom there is room now, and those whose time is up be refused."""
        if life != self.life or not self.alive or self.replaying:
            return
        for ticket, outcome in self.registry.waiting.serve(self.clock):
            self.world.decisions += 1
            if isinstance(outcome, Hold):
                self._admitted(ticket.plan, ticket.tokens, outcome)
                self.world.waited(ticket, self.clock - ticket.since_ms)
            else:
                self.world.refused(self, ticket.plan, outcome)

    def _admitted(self, plan: Plan, size: int, hold: Hold) -> None:
        world = self.world
        keys = decode_rows(hold.rows)
        request = Request(self.run, keys, hold, size, world.random.randint(0, size), plan, since_ms=world.now)
        self.disk.open.append(request)
        world.admitted(request)
        life = self.life
        world.at(world.random.choice((1, 10, 50, 300, 900)), lambda: self._ends(life, request))

    def _ends(self, life: int, request: Request) -> None:
        if life == self.life:
            self.disk.open.remove(request)
            self.disk.ended.append(request)
            request.until_ms = self.world.now
            request.hold.settle(1, request.actual, request.actual)
            self.world.ended(request)
            if self.registry.waiting.stirred:
                self._serve(life)

    # --------------------------------------------------------------------------------------------------- records

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        world, disk = self.world, self.disk
        if self.leaving and not disk.open:
            self._cut(final=True)
            self.alive = False
            return
        dirty = disk.ended or self.shard.touched or self.ack_due or world.now - self.last_cut >= HEARTBEAT_MS
        if dirty and len(self.outbox) < BACKLOG:  # behind a slow wire, records grow instead of piling up
            self._cut()
        world.at(TICK_MS, lambda: self._tick(life))

    def _cut(self, final: bool = False) -> None:
        self.last_cut = self.world.now
        self.ack_due = False
        self._put(self.registry.cut(0, self.disk.seq + 1), final)

    def _put(self, gauges: list[Gauge], final: bool) -> None:
        """Make the next record of this epoch and let it be sent."""
        disk = self.disk
        disk.seq += 1
        ended, disk.ended = disk.ended, []
        wants = self.registry.wants(0)
        self._queue(self.run, disk.seq, gauges, ended, final, 0 if self.replaying else self.shard.ackable, wants)

    def _queue(
        self, run: tuple[str, int], seq: int, gauges: list[Gauge], ended: list[Request], final: bool, ack: int,
        wants: list[Want],
    ) -> None:  # fmt: skip
        now = self.clock
        batch = Batch(
            *run, seq, ack, now, 1 + self.version, final, gauges, wants, Totals(),
            [event_of(request, now) for request in ended],
        )  # fmt: skip
        record = Record(run[1], seq, encode_record(batch), ended, now)
        self.disk.records.append(record)
        self.outbox.append(record)
        self._send()

    def _send(self) -> None:
        """Send the next record, one at a time; it may arrive twice, and its acknowledgement may be late."""
        if self.sending or not self.outbox or not self.connected:
            return
        self.sending = True
        record, life = self.outbox[0], self.life

        def arrive() -> None:
            if not self.connected and life == self.life:
                self.sending = False  # sent again once the wire is back
                return
            offset = self.world.append(record.value)
            for request in record.requests:
                request.logged = True
            if life != self.life:
                return  # the process died while the record was on its way
            if self.world.random.random() < self.world.scenario.duplicates:
                self.sending = False
                self._send()
                return
            self.world.at(self.world.delay(self.world.scenario.wire_ms), lambda: acknowledged(offset))

        def acknowledged(offset: int) -> None:
            if life == self.life:
                self.sending = False
                if self.outbox and self.outbox[0] is record:
                    self._acknowledged(record, offset)
                self._send()

        self.world.at(self.world.delay(self.world.scenario.wire_ms), arrive)

    def _acknowledged(self, record: Record, offset: int) -> None:
        self.outbox.pop(0)
        self.disk.records.remove(record)
        if self.replaying:
            if not self.outbox:
                self.start()
        elif record.epoch == self.epoch:
            self.registry.acknowledged(0, offset, record.cut_ms + SELF_FENCE_MS, self.clock)

    # ----------------------------------------------------------------------------------------------------- news

    def send_news(self, part: Snapshot) -> None:
        """Put a snapshot on its way; snapshots of a partition arrive in order."""
        self.news_at = max(self.news_at, self.world.now + self.world.delay(self.world.scenario.news_ms))
        life = self.life
        self.world.at(self.news_at - self.world.now, lambda: self._receive(life, part))
        if self.world.random.random() < self.world.scenario.stale:
            late_ms = self.world.random.randint(0, 1_000)
            self.world.at(self.news_at - self.world.now + late_ms, lambda: self._receive(life, part))

    def _receive(self, life: int, part: Snapshot) -> None:
        if life != self.life or not self.alive or self.replaying:
            return
        if self.misses:
            self.misses = False
            return
        self.news.append(part)
        if not self.connected:
            return
        waiting, self.news = self.news, []
        for snapshot in waiting:
            installed = self.registry.install(snapshot, self.name, self.epoch, self.clock)
            self.ack_due |= installed.ack_is_due
            self.world.shares_in_use()
            if self.registry.waiting.stirred:
                self._serve(life)
            if (installed.is_evicted or installed.is_lost) and not self.leaving:
                self._rejoin()

    def _rejoin(self) -> None:
        """Begin another epoch that carries what is in flight, and end the old one behind its first record.

        So the log at no point lacks what is in flight; in between, money counts twice.
        """
        old = self.run, self.disk.seq + 1
        self.epoch += 1
        self.disk.seq = 0
        for request in [*self.disk.open, *self.disk.ended]:
            request.run = self.run
        self.registry.rejoin(0)
        self.shard.fence_at_ms = 0
        self._cut()
        self._queue(*old, [], [], True, 0, [])


def _without_gauges(record: Record) -> Record:
    """Return a record as a successor sends it again: it has the events, and knows neither gauges nor what was read."""
    batch = decode_record(record.value)
    assert isinstance(batch, Batch)
    return record._replace(value=encode_record(msgspec.structs.replace(batch, gauges=[], wants=[], ack=0)))
