"""What rows cost: admission over 15 of them, memory of each, and how fast the meter and a replica follow 100,000.

Pure code in this process, without I/O: CPU time, the best of several rounds.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable

from ingress.core.admission import Registry
from ingress.core.plan import Hold
from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from schemas.codec import decode_snapshot, encode_record, encode_snapshot
from schemas.quota import Snapshot
from schemas.usage import Batch, Gauge, Totals
from tests.unit.ingress.governed import SECRET, START_MS, held, member_of, plan_of, resolver_of

RULES = 5
HUGE = 10**15
POLICY = "\n".join(
    [
        "orgs: {acme: {teams: [search]}}",
        "providers: {sim: {protocol: openai, base_url: simulated}}",
        "models: {small: {provider: sim}}",
        "limits:",
        *(f"  - {{name: limit-{number}, per: [team, model], rpm: {HUGE}, tpm: {HUGE}}}" for number in range(RULES)),
        "budgets:",
        *(f"  - {{name: budget-{number}, per: [team], amount: 900_000 USD, period: month}}" for number in range(RULES)),
    ]
)
ROWS = 100_000
REPLICAS = 4
A_RECORD = 60
"""Rows that a record touches."""


def best_us(work: Callable[[], object], count: int = 20_000, rounds: int = 5) -> float:
    """Return microseconds of CPU a call in the best of `rounds`."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            work()
        best = min(best, time.process_time() - began)
    return best / count * 1e6


def measure_admission() -> dict[str, float]:
    """Return microseconds of admitting, settling and cutting over 15 rows, and of the steps around them."""
    registry = member_of(Registry(1))
    resolver = resolver_of(POLICY, registry=registry)
    plan = plan_of(resolver)
    assert len(held(plan.admit(START_MS, 100, 1_000))._binding.all) == 15
    holds: list[Hold] = []
    admit_us = best_us(lambda: holds.append(held(plan.admit(START_MS, 100, 1_000))))
    waiting = iter(holds)
    settle_us = best_us(lambda: next(waiting).settle(1, 50, 500), len(holds) // 5)
    began = time.process_time()
    registry.cut(0, 1)
    cut_us = (time.process_time() - began) / len(holds) * 1e6
    assert {row.inflight for row in plan._binding.all} == {1, 100, 1_000}
    return {
        "admission_us": admit_us,
        "settle_us": settle_us,
        "cut_us": cut_us,
        "authenticate_us": best_us(lambda: resolver.authenticate(SECRET, START_MS)),
        "limits_header_us": best_us(lambda: plan.limits_header(START_MS)),
    }


def measure_rows(records: int = 2_000) -> dict[str, float]:
    """Return updates a second of the meter and of a replica with 100,000 active rows, and bytes a row in both."""
    keys = [f"key-day/tokens/org=acme,key=key-{number}/day@1794960000+86400" for number in range(ROWS)]
    tracemalloc.start()
    before = _allocated()
    shard = Shard(0)
    _touch_all(shard, keys)
    meter_bytes = (_allocated() - before) / ROWS
    everything = [decode_snapshot(encode_snapshot(part)) for part in snapshot(shard, Stamp("m", 1, 0), full=True)]
    before = _allocated()
    registry = Registry(1)
    for part in everything:
        registry.install(part, "ingress-0", 1, START_MS)
    replica_bytes = (_allocated() - before) / ROWS
    tracemalloc.stop()
    folded_s, published, changes = _follow(shard, keys, records)
    began = time.process_time()
    for part in published:
        registry.install(part, "ingress-0", 1, START_MS)
    installed_s = time.process_time() - began
    return {
        "rows_active": ROWS,
        "meter_row_updates_per_s": changes / folded_s,
        "ingress_row_updates_per_s": sum(len(part.rows) for part in published) / installed_s,
        "meter_row_bytes": meter_bytes,
        "ingress_row_bytes": replica_bytes,
    }


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _record(instance: int, seq: int, ack: int, gauges: list[Gauge]) -> bytes:
    return encode_record(
        Batch(f"ingress-{instance}", 1, seq, ack, START_MS, 1, False, gauges, [], Totals(), [])
    )  # fmt: skip


def _touch_all(shard: Shard, keys: list[str]) -> None:
    """Let every replica join and every row be used by one of them."""
    offset = 0
    for seq in (1, 2, 3):
        for instance in range(REPLICAS):
            shard.apply(offset, START_MS, _record(instance, seq, offset, []))
            offset += 1
    for at in range(0, len(keys), A_RECORD):
        gauges = [Gauge(key, 1, HUGE) for key in keys[at : at + A_RECORD]]
        instance = at // A_RECORD % REPLICAS
        seq = 4 + at // A_RECORD // REPLICAS
        assert shard.apply(offset, START_MS, _record(instance, seq, offset, gauges)) is None
        offset += 1


def _follow(shard: Shard, keys: list[str], records: int) -> tuple[float, list[Snapshot], int]:
    """Fold `records` with random rows and publish what changed after every fourth; return CPU s, news and changes."""
    pick = random.Random(1)
    seqs = {state.run[0]: state.hw for state in shard.runs.members}
    values = []
    for number in range(records):
        instance = number % REPLICAS
        name = f"ingress-{instance}"
        seqs[name] += 1
        gauges = [Gauge(pick.choice(keys), pick.randint(1, 10_000), HUGE) for _ in range(A_RECORD)]
        values.append(_record(instance, seqs[name], shard.fence + number, gauges))
    news: list[bytes] = []
    offset, spent = shard.fence, 0.0
    for number, value in enumerate(values):
        began = time.process_time()
        fault = shard.apply(offset + number, START_MS, value)
        if number % 4 == 3:
            parts = snapshot(shard, Stamp("m", 2 + number // 4, 0), full=False)
            news += [encode_snapshot(part) for part in parts]
        spent += time.process_time() - began
        assert fault is None, fault
    return spent, [decode_snapshot(part) for part in news], records * A_RECORD


def measure() -> dict[str, float]:
    """Return all figures of this module."""
    return {**measure_admission(), **measure_rows()}
