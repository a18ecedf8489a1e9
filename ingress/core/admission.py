"""The rows of one replica, by partition: binding them to windows, cutting them into records, installing snapshots.

Pure and drivable without I/O: `Registry.bind` makes the rows of a request, `cut` hands out what a record has to carry,
`install` takes what the meter says. Laws (tests/property/test_admission_*.py):

* A reservation's gauge falls only in the record that carries its terminal event, or in a later one; else a snapshot
  could show room that nobody has.
* Snapshots of a partition are installed in order and whole; one that is missing is noticed, and nothing is
  acknowledged until a full one came.
* A changed share is in force before the next admission: it raises the shard's generation, which every plan compares.

Knows no Kafka, no policy document, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from ingress.core.blocks import Blocks
from ingress.core.failing import missing, refuses_everybody
from ingress.core.rows import GRACE_S, MINUTE_S, Ceiling, Known, Row
from ingress.core.snapshots import Installed, install
from ingress.core.waiting import WaitingRoom
from schemas.codec import encode_rows
from schemas.failure import DependencyName, Failure
from schemas.quota import NO_WEIGHT, Member, Snapshot, Weight
from schemas.rows import Measure
from schemas.usage import Gauge, Want
from schemas.windows import Period, Window, window_at

if TYPE_CHECKING:
    from ingress.core.plan import Hold

NEVER_MS = 1 << 62
BLOCKED = -1
"""A generation that no shard has."""
_KINDS = {"tokens": 1, "cost": 2}
MAX_GAUGES_PER_RECORD = 3_000
"""Brokers take records of 1 MiB by default."""


class RowSpec(msgspec.Struct, frozen=True):
    """One row of a plan, still without its window."""

    ceiling: Ceiling
    prefix: str
    """Row key up to the window."""
    scope: str
    block_key: str
    """`rule/scope`"""
    period: Period
    zone: str

    length_s: int = 60
    """Of a rolling window."""
    slides: bool = False
    """Whether the window before still counts, by and by less. Minutes always slide."""

    @property
    def is_chained(self) -> bool:
        """Whether the window before counts."""
        return self.slides or self.period is Period.MINUTE or self.ceiling.measure == Measure.CONCURRENCY


class Binding:
    """The rows of a plan in their present windows, by measure."""

    __slots__ = (
        "all", "back_nanos", "back_ones", "back_requests", "back_tokens", "concurrent", "costs", "encoded",
        "generation", "guarded", "header_ms", "is_unbooked", "looks", "miss_nanos", "miss_tokens", "ones", "requests",
        "tokens", "touched", "until_ms",
    )  # fmt: skip

    def __init__(self, rows: list[Row], until_ms: int, generation: int) -> None:
        """Bind `rows`, which are all in windows that last until `until_ms`."""
        self.all = tuple(rows)
        self.requests = tuple(row for row in rows if row.ceiling.measure == "requests")
        self.concurrent = tuple(row for row in rows if row.ceiling.measure == "concurrency")
        self.ones = self.requests + self.concurrent
        """Rows of which a request takes one."""
        self.tokens = tuple(row for row in rows if row.ceiling.measure == "tokens")
        self.costs = tuple(row for row in rows if row.ceiling.measure == "cost")
        self.encoded = encode_rows([row.key for row in rows if row.ceiling.measure != "concurrency"])
        self.until_ms = until_ms
        """End of the window that ends first, or the first moment at which a rule says something else."""
        self.generation = generation
        """Of the shard when the rooms were recomputed; `BLOCKED` while there is more to look at than room."""
        self.guarded = tuple((row, _KINDS.get(row.ceiling.measure, 0)) for row in rows if not row.ceiling.is_plain)
        """Rows whose rules have more than a cap, with what a request takes there: one, its tokens or its cost."""
        for row, _ in self.guarded:
            row.is_guarded = True
        self.looks = any(row.ceiling.final_unit == "downgrade" for row in rows)
        """Whether something that is not a matter of room has to be looked at each time."""
        self.touched = False
        self.header_ms = 0
        self.is_unbooked = False
        """Whether something of what follows is not in the rows yet: requests sum it up here, because many of them use
        the same rows between two looks at it."""
        self.back_requests = self.back_ones = self.back_tokens = self.back_nanos = 0
        self.miss_tokens = self.miss_nanos = 0

    def book_later(self, shard: Shard) -> None:
        """Let the rows have what is summed up here before anybody looks at it."""
        self.is_unbooked = True
        shard.unbooked.append(self)

    def book(self) -> None:
        """Let the rows have what is summed up here."""
        self.is_unbooked = False
        for row in self.requests:
            row.book(self.back_requests, 0)
        for row in self.concurrent:
            row.book(self.back_ones, 0)
        for row in self.tokens:
            row.book(self.back_tokens, self.miss_tokens)
        for row in self.costs:
            row.book(self.back_nanos, self.miss_nanos)
        self.back_requests = self.back_ones = self.back_tokens = self.back_nanos = 0
        self.miss_tokens = self.miss_nanos = 0


class Shard:
    """What this replica knows of one partition."""

    __slots__ = (
        "ackable", "backed_until_ms", "expiries", "expiring", "fence", "fence_at_ms", "generation", "hw",
        "installed_ms", "is_synced", "joined_at", "known", "log_ms", "members", "missing", "numbers", "partition",
        "parts", "place", "rejoining", "rows", "settled", "settling", "touched", "unbooked", "unconfirmed", "waiting",
        "wanting", "weight",
    )  # fmt: skip

    def __init__(self, partition: int, waiting: WaitingRoom) -> None:
        self.partition = partition
        self.waiting = waiting
        self.generation = 0
        """Rises whenever rooms have to be recomputed before their next use."""
        self.weight: Weight = NO_WEIGHT
        self.hw = 0
        self.fence = 0
        """Of the last installed snapshot."""
        self.ackable = 0
        """What records acknowledge: everything admitted before it was installed is in this record or earlier ones."""
        self.installed_ms = 0
        """When it was installed."""
        self.log_ms = 0
        """The broker's time of the last record in it."""
        self.is_synced = False
        """Whether a full snapshot and every one since was installed."""
        self.fence_at_ms = NEVER_MS
        """From then on nothing is admitted unless the broker has acknowledged something newer."""
        self.backed_until_ms = 0
        """What the last acknowledgement would allow, while `unconfirmed` keeps it from doing so."""
        self.joined_at: int | None = None
        """Offset of the record that this epoch joined with, once it is known."""
        self.missing: DependencyName | None = None
        """What has been gone for so long that the policy's failure table applies."""
        self.unconfirmed: int | None = None
        """Offset beyond which a snapshot has to show this replica as a member before it goes on after a silence."""
        self.members: list[Member] = []
        self.place = -1
        """This replica's place among them; -1: it is none."""
        self.rows: dict[str, Row] = {}
        self.known: dict[str, Known] = {}
        """Rows that snapshots mentioned and no plan here has used."""
        self.expiries: dict[int, list[str]] = {}
        self.touched: list[Binding] = []
        self.unbooked: list[Binding] = []
        """Those with something that their rows do not have yet."""
        self.rejoining = 0
        """How many of the first `touched` carry over what was in flight when this epoch began."""
        self.expiring: deque[tuple[int, Hold]] = deque()
        """Requests that count as in flight only so long, until when, about in that order."""
        self.settling: list[Hold] = []
        """Settled; their events are not on the log yet."""
        self.settled: deque[tuple[int, list[Hold]]] = deque()
        """Settled, with the number of the event up to which a record has to reach to end them."""
        self.wanting: dict[Row, None] = {}
        """Rows whose waiting requests the meter has to hear of."""
        self.numbers: dict[str, int] = {}
        self.parts: list[Snapshot] = []

    def book(self) -> None:
        """Let all rows have what bindings have summed up."""
        if self.unbooked:
            for binding in self.unbooked:
                binding.book()
            self.unbooked.clear()

    def staleness_ms(self, now_ms: int) -> int:
        """Return how long ago the last snapshot was installed; -1 if there was none."""
        return max(0, now_ms - self.installed_ms) if self.installed_ms else -1

    @property
    def is_member(self) -> bool:
        """Whether this replica has a share here and everything that belongs to it."""
        return self.is_synced and self.weight.num > 0


class Registry:
    """All rows of this replica. They outlive policies: a new one only changes their ceilings."""

    def __init__(self, partitions: int) -> None:
        self.waiting = WaitingRoom()
        self.shards = [Shard(partition, self.waiting) for partition in range(partitions)]
        self.blocks = Blocks()
        self.failure = Failure()
        """The policy's table."""
        self._ceilings: dict[tuple[str, str, str], Ceiling] = {}
        self._windows: dict[tuple[Period, str, int], tuple[Window, str, str]] = {}

    # ----------------------------------------------------------------------------------------------------- rules

    def set_ceilings(self, limits: Iterable[tuple[str, str, str, int]]) -> None:
        """Take (rule, measure, period, limit) of the policy; rows of rules that are gone keep what they had."""
        for rule, measure, period, limit in limits:
            self.ceiling(rule, measure, period).limit = limit
        self.changed()

    def ceiling(self, rule: str, measure: str, period: str = "") -> Ceiling:
        """Return the ceiling of a rule's measure and period; made with limit 0 if it is new."""
        found = self._ceilings.get((rule, measure, period))
        if found is None:
            found = self._ceilings[rule, measure, period] = Ceiling(rule, measure, 0, period)
        return found

    def changed(self) -> None:
        """Make every plan look again at ceilings and blocks before its next admission."""
        for ceiling in self._ceilings.values():
            ceiling.version += 1
        for shard in self.shards:
            shard.generation += 1
        self.waiting.stir()

    # -------------------------------------------------------------------------------------------------- binding

    def bind(self, shard: Shard, specs: tuple[RowSpec, ...], now_ms: int) -> Binding:
        """Return the rows of `specs` in the windows that hold `now_ms`.

        A clock that is more than a minute behind the log is wrong: windows that are over by then are about to be
        forgotten with all that was used of them, so they do not open again.
        """
        now_s = max(now_ms, shard.log_ms - MINUTE_S * 1000) // 1000
        rows = []
        until_s = NEVER_MS
        for spec in specs:
            window, text, previous = self._window(spec, now_s)
            chained = spec.is_chained
            row = self._row(shard, spec, text, window, window.end - window.start if chained else 0)
            if chained and row.prev is None:
                length_s = window.end - window.start
                before = Window(window.period, window.start - length_s, window.start)
                prev = self._row(shard, spec, previous, before, length_s)
                prev.prev = None
                prev.next, row.prev = row, prev
            if spec.ceiling.carry_percent and row.last is None:
                row.last = self._last(shard, spec, window)
            rows.append(row)
            until_s = min(until_s, window.end)
        binding = Binding(rows, until_s * 1000 if specs else NEVER_MS, shard.generation)
        self.refresh(binding, shard, specs, now_ms)
        return binding

    def refresh(self, binding: Binding, shard: Shard, specs: tuple[RowSpec, ...], now_ms: int) -> None:
        """Recompute the rooms of `binding` and look for blocks."""
        for row in binding.all:
            row.recompute(now_ms)
            binding.until_ms = min(binding.until_ms, row.limit_until_s * 1000)
        blocks = self.blocks
        blocked = bool(len(blocks)) and any(blocks.find(spec.block_key, now_ms) for spec in specs)
        looks = blocked or binding.looks or shard.missing is not None
        binding.generation = BLOCKED if looks else shard.generation

    def _window(self, spec: RowSpec, now_s: int) -> tuple[Window, str, str]:
        name = (spec.period, spec.zone, spec.length_s)
        found = self._windows.get(name)
        if found is None or not found[0].start <= now_s < found[0].end:
            if spec.period.value == "rolling":
                start = now_s - now_s % spec.length_s
                window = Window(spec.period.value, start, start + spec.length_s)
            else:
                window = window_at(spec.period, spec.zone, now_s)
            before = Window(window.period, 2 * window.start - window.end, window.start)
            found = self._windows[name] = (window, str(window), str(before))
        return found

    def _row(self, shard: Shard, spec: RowSpec, window_text: str, window: Window, length_s: int) -> Row:
        key = spec.prefix + window_text
        row = shard.rows.get(key)
        if row is None:
            row = shard.rows[key] = Row(key, spec.scope, spec.ceiling, shard, window.end, length_s)
            state = shard.known.pop(key, None)
            if state is None:
                due = (window.end + length_s + GRACE_S) // MINUTE_S
                shard.expiries.setdefault(due, []).append(key)
            else:
                row.learn(state)
        return row

    def _last(self, shard: Shard, spec: RowSpec, window: Window) -> Row | None:
        """Return the row of the calendar window before `window`, if anything is known of it."""
        before = window_at(spec.period, spec.zone, window.start - 1)
        key = spec.prefix + str(before)
        known = key in shard.known or key in shard.rows
        return self._row(shard, spec, str(before), before, 0) if known else None

    def may_miss(self) -> dict[str, int]:
        """Return what requests in flight here may use beyond their reservations, by row key; zeros are left out."""
        return {row.key: row.may_miss for shard in self.shards for row in shard.rows.values() if row.may_miss}

    def sweep(self, now_ms: int) -> None:
        """Drop rows whose windows are long over and in which nothing is in flight."""
        minute = now_ms // 1000 // MINUTE_S
        for shard in self.shards:
            while shard.expiring and (shard.expiring[0][0] <= now_ms or shard.expiring[0][1].is_settled):
                shard.expiring.popleft()[1].expire()
            for due in [due for due in shard.expiries if due < minute]:
                for key in shard.expiries.pop(due):
                    row = shard.rows.get(key)
                    if row is None:
                        shard.known.pop(key, None)
                    elif row.inflight:
                        shard.expiries.setdefault(minute + 1, []).append(key)
                    else:
                        del shard.rows[key]
                        shard.wanting.pop(row, None)
                        if row.next is not None:
                            row.next.prev = None

    # -------------------------------------------------------------------------------------------------- records

    def journalled(self, partition: int, number: int) -> None:
        """Note that the events of everything settled so far are on the log, up to event `number` of the partition."""
        shard = self.shards[partition]
        if shard.settling:
            shard.settled.append((number, shard.settling))
            shard.settling = []

    def cut(self, partition: int, seq: int, through: int | None = None) -> list[Gauge]:
        """Return the gauges that record `seq` has to carry; what they leave out follows in the next record.

        Args:
            partition: of the record.
            seq: of the record, within this epoch.
            through: the number of the last event that this and earlier records carry; None for all of them.
        """
        shard = self.shards[partition]
        if through is None:
            self.journalled(partition, 0)
        settled = shard.settled
        while settled and (through is None or settled[0][0] <= through):
            for hold in settled.popleft()[1]:
                hold.end()
        shard.book()
        gauges: list[Gauge] = []
        touched, shard.touched = shard.touched, []
        done = 0
        for binding in touched:
            if len(gauges) >= MAX_GAUGES_PER_RECORD:
                shard.touched = touched[done:]
                break
            done += 1
            binding.touched = False
            gauges += [Gauge(row.key, row.cut(seq), row.limit) for row in binding.all if row.seq != seq]
        shard.rejoining = max(0, shard.rejoining - done)
        if not shard.touched:
            shard.ackable = shard.fence
        return gauges

    def wants(self, partition: int) -> list[Want]:
        """Return what waiting requests want, of the rows where that has changed since a record last said so."""
        shard = self.shards[partition]
        rows, shard.wanting = shard.wanting, {}
        wants = []
        for row in rows:
            if (row.want, row.want_head) != row.told_want:
                row.told_want = (row.want, row.want_head)
                wants.append(Want(row.key, row.want, row.want_head, row.limit))
        return wants

    # ------------------------------------------------------------------------------------------------ snapshots

    def install(self, snapshot: Snapshot, instance: str, epoch: int, now_ms: int) -> Installed:
        """Install a snapshot, or a part of one, as replica `instance` in `epoch`."""
        installed = install(self.shards[snapshot.partition], snapshot, (instance, epoch), now_ms)
        if installed.is_installed:
            self.waiting.stir()
        return installed

    # ------------------------------------------------------------------------------------------------- the epoch

    def look_for_failures(self, now_ms: int) -> None:
        """Note which shards are without the broker or the meter now; to be called several times a second."""
        for shard in self.shards:
            gone = missing(shard, self.failure, now_ms)
            if gone != shard.missing:
                shard.missing = gone
                shard.generation += 1

    def is_failing(self, now_ms: int) -> bool:
        """Whether a load balancer should pass this replica by because of what is missing."""
        return any(refuses_everybody(shard, self.failure, now_ms) for shard in self.shards)

    def attach(self, partition: int, until_ms: int) -> None:
        """Allow admissions until `until_ms`: the broker has acknowledged a record of this replica."""
        self.shards[partition].fence_at_ms = until_ms

    def acknowledged(self, partition: int, offset: int, until_ms: int, now_ms: int) -> None:
        """Take that the broker has a record of this epoch at `offset`; -1 if it had it already and does not say where.

        Allows admissions until `until_ms`. A replica that had been silent for too long may have been evicted before
        this record reached the log: it goes on only once a snapshot beyond the record shows it as a member.
        """
        shard = self.shards[partition]
        if shard.joined_at is None:
            shard.joined_at = offset if offset >= 0 else None
        elif now_ms >= shard.fence_at_ms and shard.unconfirmed is None:
            if offset < 0:
                return
            shard.unconfirmed = offset
        shard.backed_until_ms = until_ms
        if shard.unconfirmed is None:
            shard.fence_at_ms = until_ms

    def joined(self, partition: int, offset: int) -> None:
        """Note where the log has the first record of this epoch."""
        self.shards[partition].joined_at = offset

    def rejoin(self, partition: int) -> None:
        """Begin a new epoch: no share until the meter gives one; everything in flight is carried by its records."""
        shard = self.shards[partition]
        shard.weight, shard.hw, shard.is_synced, shard.place = NO_WEIGHT, 0, False, -1
        shard.joined_at = shard.unconfirmed = shard.missing = None
        shard.generation += 1
        used = [(row, row.used) for row in shard.rows.values()]
        for row, _ in used:
            row.rejoin()
            if row.want:
                shard.wanting[row] = None
        for hold in [*shard.settling, *(hold for _, holds in shard.settled for hold in holds)]:
            hold.give_back()
        for row, before in used:
            row.others += before - row.used  # what was settled is the old epoch's
        held = [row for row in shard.rows.values() if row.inflight]
        carried = [Binding(held[at : at + 500], NEVER_MS, shard.generation) for at in range(0, len(held), 500)]
        shard.touched[:0] = carried
        shard.rejoining = len(carried)

    @property
    def is_member(self) -> bool:
        """Whether this replica has a share in every partition."""
        return all(shard.is_member for shard in self.shards)
