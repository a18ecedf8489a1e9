"""How many rows a second the history inserts: from a real broker into the real engine, with all rollups, exactly once.

The log is filled first (records of 250 events, five rows of limits an event, of thousands of keys), then the history
starts, and its progress is read from its own metrics. Quoted are rows a second from its being ready to the last row
committed, and the CPU of its process a row.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from deploy.kafka import EmbeddedKafka
from deploy.topics import create
from schemas.codec import encode_attribution, encode_event, encode_record, encode_rows
from schemas.connection import KafkaConnection
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Batch, Totals, UsageEvent
from tests.integration.sink_lab import SinkProcess, a_producer

EVENTS_A_RECORD = 250
RECORDS = 1_600
PARTITIONS = 4
KEYS = 2_000


def records(count: int, partition: int) -> list[bytes]:
    """Return `count` records of one replica for a partition; ids are all different, as they are in life."""
    pick = random.Random(partition)
    now_ms = int(time.time() * 1000)
    events = [_event(f"acme{partition}", key, pick, now_ms) for key in range(KEYS)]
    made = []
    for seq in range(1, count + 1):
        some = [_with_ids(events[pick.randrange(KEYS)]) for _ in range(EVENTS_A_RECORD)]
        made.append(encode_record(Batch("bench", 1, seq, 0, now_ms, 1, False, [], [], Totals(), some)))
    return made


def _with_ids(event: UsageEvent) -> msgspec.Raw:
    noise = os.urandom(32)
    return msgspec.Raw(encode_event(msgspec.structs.replace(event, id=noise[:16], request_id=noise[16:])))


def _event(org: str, key: int, pick: random.Random, now_ms: int) -> UsageEvent:
    scope = f"org={org},team=t{key % 4}"
    rows = [
        f"org/tokens/org={org}/day@{now_ms // 86_400_000 * 86_400}+86400",
        *(f"{rule}/{measure}/{scope},key=k{key}/minute@{now_ms // 60_000 * 60}+60"
          for rule, measure in (("team", "tokens"), ("team", "cost"), ("key", "requests"), ("key", "tokens"))),
    ]  # fmt: skip
    tokens = TokenUsage(pick.randint(10, 4_000), pick.randint(1, 900), cache_read=pick.choice((0, 0, 512)))
    owner = Attribution(
        org, f"p{key % 7}", f"t{key % 4}", f"user{key}", f"k{key}", "openai", f"gpt-{key % 5}", f"gpt-{key % 5}",
        {"env": "prod"}, 3, "2026-11",
    )  # fmt: skip
    return UsageEvent(
        bytes(16), bytes(16), 1, "settled", "chat.completions", now_ms - pick.randrange(3_600_000),
        pick.randrange(9_000), pick.randrange(900), 200, True, "provider", tokens,
        pick.randrange(10**8), 1, tokens.total, 1_234_567,
        "gpt-4o-mini-2024-07-18", "", bytes(16), encode_attribution(owner), encode_rows(rows),
    )  # fmt: skip


async def _measure_once(place: Path) -> dict[str, float]:
    async with EmbeddedKafka(place / "broker") as kafka:
        connection = KafkaConnection(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        await create(connection)
        await _fill(connection)
        sink = SinkProcess(connection, place / "state")
        began = time.monotonic()
        await sink.start()
        try:
            return {"sink_ready_s": time.monotonic() - began, **await _watch(sink)}
        finally:
            await sink.kill()
            await sink.http.aclose()


async def _fill(connection: KafkaConnection) -> None:
    """Put the records on the log; the last of them has to be there before the history starts."""
    async with a_producer(connection) as producer:
        for partition in range(PARTITIONS):
            sent = [
                await producer.send("usage", record, partition=partition)
                for record in records(RECORDS // PARTITIONS, partition)
            ]
            await asyncio.gather(*sent)


async def _watch(sink: SinkProcess) -> dict[str, float]:
    process = psutil.Process(sink.pid)
    began, cpu_began, had = time.monotonic(), process.cpu_times(), await _rows(sink)
    expected = RECORDS * EVENTS_A_RECORD

    async def done() -> bool:
        return await _rows(sink) == expected

    await sink.until(done)
    seconds, cpu = time.monotonic() - began, process.cpu_times()
    rows = await sink.sql("SELECT count(), toInt64(sum(charge_tokens)) FROM usage UNION ALL "
                          "SELECT sum(events), toInt64(sum(charge_tokens)) FROM usage_hourly")  # fmt: skip
    assert rows[0] == rows[1]
    assert rows[0][0] == expected
    return {
        "sink_rows_per_s": (expected - had) / seconds,
        "sink_cpu_us_per_row": (cpu.user + cpu.system - cpu_began.user - cpu_began.system) / (expected - had) * 1e6,
        "sink_rss_mb": process.memory_info().rss / 2**20,
    }


async def _rows(sink: SinkProcess) -> int:
    return int((await sink.get("/v1/status"))["rows_inserted"])


def measure(rounds: int = 3) -> dict[str, float]:
    """Return the medians over `rounds`, each with a broker and a history of its own, and the spread of the rate."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="tollway-sink-") as place:
            found.append(asyncio.run(_measure_once(Path(place))))
    rates = [figures["sink_rows_per_s"] for figures in found]
    return {
        **{name: statistics.median(figures[name] for figures in found) for name in found[0]},
        "sink_rows_per_s_min": min(rates),
        "sink_rows_per_s_max": max(rates),
    }


def test_the_history_inserts_every_row_once() -> None:
    """One round; the sums of ledger and rollup are checked within, and a row costs less than 60 µs of CPU."""
    figures = measure(rounds=1)
    assert figures["sink_cpu_us_per_row"] <= 60, figures
