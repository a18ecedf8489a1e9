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
from ingress.core.rows import GRACE_S, MINUTE_S, Ceiling, Row
from ingress.core.snapshots import Installed, install
from schemas.codec import encode_rows
from schemas.quota import NO_WEIGHT, Member, RowState, Snapshot, Weight
from schemas.usage import Gauge
from schemas.windows import Period, Window, window_at

if TYPE_CHECKING:
    from ingress.core.plan import Hold

NEVER_MS = 1 << 62
BLOCKED = -1
"""A generation that no shard has."""
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

    @property
    def slides(self) -> bool:
        """Whether it counts over a sliding minute."""
        return self.period is Period.MINUTE


class Binding:
    """The rows of a plan in their present windows, by measure."""

    __slots__ = (
        "all", "costs", "encoded", "generation", "header_ms", "requests", "tokens", "touched", "until_ms",
    )  # fmt: skip

    def __init__(self, rows: list[Row], until_ms: int, generation: int) -> None:
        """Bind `rows`, which are all in windows that last until `until_ms`."""
        self.all = tuple(rows)
        self.requests = tuple(row for row in rows if row.ceiling.measure == "requests")
        self.tokens = tuple(row for row in rows if row.ceiling.measure == "tokens")
        self.costs = tuple(row for row in rows if row.ceiling.measure == "cost")
        self.encoded = encode_rows([row.key for row in rows])
        self.until_ms = until_ms
        """End of the window that ends first."""
        self.generation = generation
        """Of the shard when the rooms were recomputed; `BLOCKED` while there is a block to look at."""
        self.touched = False
        self.header_ms = 0


class Shard:
    """What this replica knows of one partition."""

    __slots__ = (
        "backed_until_ms", "expiries", "fence", "fence_at_ms", "generation", "hw", "installed_ms", "is_synced",
        "joined_at", "known", "members", "numbers", "partition", "parts", "rejoining", "rows", "settled", "settling",
        "touched", "unconfirmed", "weight",
    )  # fmt: skip

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.generation = 0
        """Rises whenever rooms have to be recomputed before their next use."""
        self.weight: Weight = NO_WEIGHT
        self.hw = 0
        self.fence = 0
        """Of the last installed snapshot: what records acknowledge."""
        self.installed_ms = 0
        """When it was installed."""
        self.is_synced = False
        """Whether a full snapshot and every one since was installed."""
        self.fence_at_ms = NEVER_MS
        """From then on nothing is admitted unless the broker has acknowledged something newer."""
        self.backed_until_ms = 0
        """What the last acknowledgement would allow, while `unconfirmed` keeps it from doing so."""
        self.joined_at: int | None = None
        """Offset of the record that this epoch joined with, once it is known."""
        self.unconfirmed: int | None = None
        """Offset beyond which a snapshot has to show this replica as a member before it goes on after a silence."""
        self.members: list[Member] = []
        self.rows: dict[str, Row] = {}
        self.known: dict[str, RowState] = {}
        """Rows that snapshots mentioned and no plan here has used."""
        self.expiries: dict[int, list[str]] = {}
        self.touched: list[Binding] = []
        self.rejoining = 0
        """How many of the first `touched` carry over what was in flight when this epoch began."""
        self.settling: list[Hold] = []
        """Settled; their events are not on the log yet."""
        self.settled: deque[tuple[int, list[Hold]]] = deque()
        """Settled, with the number of the event up to which a record has to reach to end them."""
        self.numbers: dict[str, int] = {}
        self.parts: list[Snapshot] = []

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
        self.shards = [Shard(partition) for partition in range(partitions)]
        self.blocks = Blocks()
        self._ceilings: dict[tuple[str, str], Ceiling] = {}
        self._windows: dict[tuple[Period, str], tuple[Window, str, str]] = {}

    # ----------------------------------------------------------------------------------------------------- rules

    def set_ceilings(self, limits: Iterable[tuple[str, str, int]]) -> None:
        """Take (rule, measure, limit) of the policy in force; rows of rules that are gone keep what they had."""
        for rule, measure, limit in limits:
            self.ceiling(rule, measure).limit = limit
        self.changed()

    def ceiling(self, rule: str, measure: str) -> Ceiling:
        """Return the ceiling of a rule's measure; made with limit 0 if it is new."""
        found = self._ceilings.get((rule, measure))
        if found is None:
            found = self._ceilings[rule, measure] = Ceiling(rule, measure, 0)
        return found

    def changed(self) -> None:
        """Make every plan look again at ceilings and blocks before its next admission."""
        for shard in self.shards:
            shard.generation += 1

    # -------------------------------------------------------------------------------------------------- binding

    def bind(self, shard: Shard, specs: tuple[RowSpec, ...], now_ms: int) -> Binding:
        """Return the rows of `specs` in the windows that hold `now_ms`."""
        now_s = now_ms // 1000
        rows = []
        until_s = NEVER_MS
        for spec in specs:
            window, text, previous = self._window(spec.period, spec.zone, now_s)
            row = self._row(shard, spec, text, window.end)
            if spec.slides and row.prev is None:
                prev = self._row(shard, spec, previous, window.start)
                prev.prev = None
                prev.next, row.prev = row, prev
            rows.append(row)
            until_s = min(until_s, window.end)
        binding = Binding(rows, until_s * 1000 if specs else NEVER_MS, shard.generation)
        self.refresh(binding, shard, specs, now_ms)
        return binding

    def refresh(self, binding: Binding, shard: Shard, specs: tuple[RowSpec, ...], now_ms: int) -> None:
        """Recompute the rooms of `binding` and look for blocks."""
        for row in binding.all:
            row.recompute(now_ms)
        blocks = self.blocks
        blocked = bool(len(blocks)) and any(blocks.find(spec.block_key, now_ms) for spec in specs)
        binding.generation = BLOCKED if blocked else shard.generation

    def _window(self, period: Period, zone: str, now_s: int) -> tuple[Window, str, str]:
        found = self._windows.get((period, zone))
        if found is None or not found[0].start <= now_s < found[0].end:
            window = window_at(period, zone, now_s)
            before = str(Window(period.value, window.start - MINUTE_S, window.start)) if period is Period.MINUTE else ""
            found = self._windows[period, zone] = (window, str(window), before)
        return found

    def _row(self, shard: Shard, spec: RowSpec, window_text: str, end_s: int) -> Row:
        key = spec.prefix + window_text
        row = shard.rows.get(key)
        if row is None:
            row = shard.rows[key] = Row(key, spec.scope, spec.ceiling, shard, end_s)
            state = shard.known.pop(key, None)
            if state is None:
                shard.expiries.setdefault((end_s + GRACE_S) // MINUTE_S, []).append(key)
            else:
                row.total, row.low = state.settled + state.inflight, state.low
        return row

    def may_miss(self) -> dict[str, int]:
        """Return what requests in flight here may use beyond their reservations, by row key; zeros are left out."""
        return {row.key: row.may_miss for shard in self.shards for row in shard.rows.values() if row.may_miss}

    def sweep(self, now_ms: int) -> None:
        """Drop rows whose windows are long over and in which nothing is in flight."""
        minute = now_ms // 1000 // MINUTE_S
        for shard in self.shards:
            for due in [due for due in shard.expiries if due < minute]:
                for key in shard.expiries.pop(due):
                    row = shard.rows.get(key)
                    if row is None:
                        shard.known.pop(key, None)
                    elif row.inflight:
                        shard.expiries.setdefault(minute + 1, []).append(key)
                    else:
                        del shard.rows[key]
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
        gauges: list[Gauge] = []
        touched, shard.touched = shard.touched, []
        done = 0
        for binding in touched:
            if len(gauges) >= MAX_GAUGES_PER_RECORD:
                shard.touched = touched[done:]
                break
            done += 1
            binding.touched = False
            gauges += [Gauge(row.key, row.cut(seq)) for row in binding.all if row.seq != seq]
        shard.rejoining = max(0, shard.rejoining - done)
        return gauges

    # ------------------------------------------------------------------------------------------------ snapshots

    def install(self, snapshot: Snapshot, instance: str, epoch: int, now_ms: int) -> Installed:
        """Install a snapshot, or a part of one, as replica `instance` in `epoch`."""
        return install(self.shards[snapshot.partition], snapshot, (instance, epoch), now_ms)

    # ------------------------------------------------------------------------------------------------- the epoch

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
        shard.weight, shard.hw, shard.is_synced = NO_WEIGHT, 0, False
        shard.joined_at = shard.unconfirmed = None
        shard.generation += 1
        for row in shard.rows.values():
            row.rejoin()
        held = [row for row in shard.rows.values() if row.inflight]
        carried = [Binding(held[at : at + 500], NEVER_MS, shard.generation) for at in range(0, len(held), 500)]
        shard.touched[:0] = carried
        shard.rejoining = len(carried)

    @property
    def is_member(self) -> bool:
        """Whether this replica has a share in every partition."""
        return all(shard.is_member for shard in self.shards)
