"""Random logs for the laws of the fold: several replicas, epochs, gaps, duplicates, evictions, broken records."""

from __future__ import annotations

import random

import msgspec

from schemas.codec import encode_attribution, encode_event, encode_record, encode_rows
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Batch, Evict, Gauge, Totals, UsageEvent, Want

DAY_S = 86_400
HOUR_MS = 3_600_000
START_MS = 1_764_547_200_000
Log = list[tuple[int, bytes]]
"""(broker time, value) by offset."""

_START_S = START_MS // 1000
_ROWS = [
    f"{rule}/{measure}/org={org}/{period}"
    for rule, measure in (("a", "requests"), ("b", "tokens"), ("c", "cost"))
    for org in ("acme", "other")
    for period in (f"day@{_START_S}+{DAY_S}", f"minute@{_START_S}+60", f"minute@{_START_S + 60}+60")
] + [
    f"{rule}/{measure}/org=acme/{period}@{start}+3600"
    for rule, measure, period in (("d", "concurrency", "hour"), ("e", "cost", "rolling"))
    for start in (_START_S, _START_S + 3_600)
]
"""Windows that stand alone, windows that slide with the one before beside them, and what is in flight."""


def event(rows: list[str], org: str, amount: int, at_ms: int, cost: int | None = 0) -> msgspec.Raw:
    """Return an encoded event that charges `amount` of each measure."""
    return msgspec.Raw(
        encode_event(
            UsageEvent(
                bytes(16), bytes(16), 1, "settled", "chat.completions", at_ms, 1, 1, 200, False, "provider",
                TokenUsage(amount, 2 * amount), cost, 1, amount, amount, "m", "", bytes(16),
                encode_attribution(Attribution(org)), encode_rows(rows),
            )
        )
    )  # fmt: skip


def random_log(seed: int, length: int) -> Log:
    """Return a log of `length` records; some are none at all, some belong to nobody, some come twice."""
    pick = random.Random(seed)
    epochs = {f"i{n}": 1 for n in range(pick.randint(1, 3))}
    seqs: dict[tuple[str, int], int] = {}
    now = START_MS
    log: Log = []
    for offset in range(length):
        now += pick.choice((0, 3, 40, 900, 20_000 if pick.random() < 0.3 else 5))
        now += pick.choice((1, 7, 40)) * HOUR_MS if pick.random() < 0.01 else 0
        name = pick.choice(list(epochs))
        kind = pick.random()
        if kind < 0.03:
            log.append((now, pick.choice((b"", b"junk", b"TWU\x02" + b"later", b"TWU\x01\xc1"))))
        elif kind < 0.07:
            log.append((now, encode_record(Evict(name, epochs[name], "test"))))
        elif kind < 0.12 and log:
            log.append((now, pick.choice(log[-5:])[1]))
        else:
            if kind < 0.18:
                epochs[name] += 1
            run = (name, epochs[name] - (1 if kind > 0.95 and epochs[name] > 1 else 0))
            seqs[run] = seqs.get(run, 0) + (2 if kind < 0.2 else 1)
            log.append((now, _batch(pick, run, seqs[run], offset, now)))
    return log


def _batch(pick: random.Random, run: tuple[str, int], seq: int, offset: int, now: int) -> bytes:
    events = [
        event(
            pick.sample(_ROWS, 3),
            pick.choice(("acme", "other", "")),
            pick.randint(0, 50),
            now + _late_ms(pick),
            pick.choice((7, None)),
        )
        for _ in range(pick.randint(0, 4))
    ]
    if pick.random() < 0.05:
        events.append(msgspec.Raw(b"\x93\x01\x02\x03"))
    if pick.random() < 0.05:
        events.append(event(["no row key"], "acme", 1, now))
    version = 1 + offset // 40 - (pick.random() < 0.2)
    gauges = [Gauge(row, pick.choice((0, 5, 100)), _limit(pick, version)) for row in _some(pick, 4)]
    wants = [_want(pick, row, version) for row in _some(pick, 3)]
    told = Totals(events=seq)
    ack = max(0, offset - pick.randint(0, 8))
    return encode_record(Batch(*run, seq, ack, now, version, pick.random() < 0.04, gauges, wants, told, events))


def _late_ms(pick: random.Random) -> int:
    """Return how far from its record an event is: of the same hour mostly, late now and then, ahead of time rarely."""
    if pick.random() < 0.7:
        return 0
    return HOUR_MS * pick.choice((-1, -1, -5, -30, -60, 1, 1, 2 if pick.random() < 0.3 else 0))


def _some(pick: random.Random, most: int) -> list[str]:
    return pick.sample(_ROWS, pick.randint(0, most))


def _limit(pick: random.Random, version: int) -> int:
    """Return a limit that rises and falls from policy to policy; now and then a replica does not know it."""
    return -1 if pick.random() < 0.15 else (400, 1_000, 150)[version % 3]


def _want(pick: random.Random, row: str, version: int) -> Want:
    amount = pick.choice((0, 0, 20, 300, 900))
    return Want(row, amount, min(amount, pick.choice((1, 20, 250))), _limit(pick, version))
