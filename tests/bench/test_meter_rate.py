"""How many usage events a second the meter folds: from a real broker, through Faust, with snapshots and changelog on.

The log is filled first (records of 250 events, five rows an event, of thousands of keys), then the meter starts and
its progress is read from its own metrics. Quoted are events a second of wall clock, and of the CPU that the process
used: on a machine with other work the second is the steadier.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from deploy.kafka import EmbeddedKafka
from schemas.codec import encode_attribution, encode_event, encode_record, encode_rows
from schemas.tokens import TokenUsage
from schemas.topics import USAGE
from schemas.usage import Attribution, Batch, Gauge, Totals, UsageEvent
from tests.integration.meter_lab import Lab, MeterProcess, laboratory, until

EVENTS_A_RECORD = 250
RECORDS = 1_600
PARTITIONS = 4
KEYS = 2_000
LOOK_S = 0.2
"""Between two looks at the meter's progress: looking costs it milliseconds."""


def records(count: int, partition: int) -> list[bytes]:
    """Return `count` records of one replica for a partition: keys of four teams of one organisation."""
    pick = random.Random(partition)
    now_ms = int(time.time() * 1000)
    org = f"acme{partition}"
    events = [_event(org, key, pick, now_ms) for key in range(KEYS)]
    made = []
    for seq in range(1, count + 1):
        some = [events[pick.randrange(KEYS)] for _ in range(EVENTS_A_RECORD)]
        gauges = [Gauge(f"org/tokens/org={org}/{_day(now_ms)}", seq % 100)]
        made.append(
            encode_record(Batch("bench", 1, seq, max(0, seq - 10), now_ms, 1, False, gauges, [], Totals(), some))
        )
    return made


def _day(now_ms: int) -> str:
    return f"day@{now_ms // 86_400_000 * 86_400}+86400"


def _event(org: str, key: int, pick: random.Random, now_ms: int) -> msgspec.Raw:
    minute = f"minute@{now_ms // 60_000 * 60}+60"
    scope = f"org={org},team=t{key % 4}"
    rows = [
        f"org/tokens/org={org}/{_day(now_ms)}",
        f"team/tokens/{scope}/{minute}",
        f"team/cost/{scope}/{_day(now_ms)}",
        f"key/requests/{scope},key=k{key}/{minute}",
        f"key/tokens/{scope},key=k{key}/{minute}",
    ]
    tokens = TokenUsage(pick.randint(10, 4_000), pick.randint(1, 900))
    return msgspec.Raw(
        encode_event(
            UsageEvent(
                pick.randbytes(16), pick.randbytes(16), 1, "settled", "chat.completions", now_ms, 900, 120, 200, True,
                "provider", tokens, 1_234_567, 1, tokens.total, 1_234_567, "gpt-4o-mini-2024-07-18", "", bytes(16),
                encode_attribution(
                    Attribution(org, "search", f"t{key % 4}", f"user{key}", f"k{key}", "openai", "gpt-4o-mini",
                                "gpt-4o-mini", {"env": "prod"}, 3, "2026-11")
                ),
                encode_rows(rows),
            )
        )
    )  # fmt: skip


async def _measure_once(place: Path) -> tuple[float, float]:
    async with EmbeddedKafka(place / "broker") as kafka, laboratory(kafka.bootstrap, "bench.", PARTITIONS) as lab:
        await _fill(lab)
        meter = MeterProcess(lab.connection, place / "meter.log")
        meter.start()
        try:
            return await _watch(meter)
        finally:
            meter.end()


async def _fill(lab: Lab) -> None:
    """Put the records on the log; the last of them has to be there before the meter starts."""
    sent: list[Any] = []
    for partition in range(PARTITIONS):
        for record in records(RECORDS // PARTITIONS, partition):
            sent.append(await lab.producer.send(lab.topic(USAGE), record, partition=partition))
    await asyncio.gather(*sent)


async def _watch(meter: MeterProcess) -> tuple[float, float]:
    """Return events a second of wall clock and of CPU between the first look with events and the last."""
    process = psutil.Process(meter.pid)
    looks: list[tuple[float, float, float]] = []

    async def look() -> bool:
        try:
            events = await meter.metric("tollway_meter_events_total")
        except httpx.HTTPError:
            return False
        if events:
            cpu = process.cpu_times()
            looks.append((time.monotonic(), cpu.user + cpu.system, events))
            await asyncio.sleep(LOOK_S)
        return events == RECORDS * EVENTS_A_RECORD

    await until(look, 90, meter.log_text)
    (began, cpu_began, had), (ended, cpu_ended, have) = looks[0], looks[-1]
    assert have - had > RECORDS * EVENTS_A_RECORD // 4, "too few looks to measure by"
    return (have - had) / (ended - began), (have - had) / (cpu_ended - cpu_began)


def measure(rounds: int = 3) -> dict[str, float]:
    """Return the median and the spread over `rounds`, each with a broker and a meter of its own."""
    wall, cpu = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="tollway-meter-") as place:
            of_wall, of_cpu = asyncio.run(_measure_once(Path(place)))
        wall.append(of_wall)
        cpu.append(of_cpu)
    return {
        "meter_events_per_s": statistics.median(wall),
        "meter_events_per_s_min": min(wall),
        "meter_events_per_s_max": max(wall),
        "meter_events_per_cpu_s": statistics.median(cpu),
    }


def test_the_meter_folds_fifty_thousand_events_a_second_of_cpu() -> None:
    """One round; the figure is of CPU time, which other work on the machine disturbs least."""
    figures = measure(rounds=1)
    assert figures["meter_events_per_cpu_s"] >= 50_000, figures
