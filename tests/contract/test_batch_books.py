"""Charged batches in the books, by the real engine: the ledgers agree, and what is computed anew comes to the same."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from deploy.cli.compare import Comparison, add_up, compare
from enforcer.core.repricing import Outcome, PastCost, reprice
from meter.sink.core import ledger
from meter.sink.core.records import choose, usage_entry
from meter.sink.core.watermarks import Watermarks
from meter.sink.rows import USAGE_TABLE, Source, UsageRows
from meter.sink.store import ClickHouse
from schemas.batches import BATCHER, BatchSeen, Line, LinesSeen, Sighting, line_id
from schemas.quota import run_key
from tests.contract.test_cost_pages import lines
from tests.property.batch_world import (
    DAY_MS,
    JOBS,
    OWNERS,
    PARTITIONS,
    PRICES,
    START_MS,
    Job,
    World,
    metered,
    total_of,
    usage_of,
)

MINI, PLAIN, LONG, HAIKU, FOUND = JOBS


def created(job: Job) -> Sighting:
    """Return the sighting of a creation."""
    return BatchSeen(job.provider, job.name, START_MS - DAY_MS, OWNERS[job.creator or 0], True, "chat.completions")


def over(job: Job) -> Sighting:
    """Return what is told of a batch that is over."""
    total = total_of(job) if job.tells_total else None
    return BatchSeen(
        job.provider, job.name, START_MS, OWNERS[1], False, "chat.completions", True, START_MS - 9, (), job.model,
        total, job.lines,
    )  # fmt: skip


def results(job: Job, first: int, last: int) -> Sighting:
    """Return what is seen of its results."""
    found = [
        Line(line_id(f"request-{number}"), job.model, usage_of(job, number), START_MS - number * DAY_MS // 4)
        for number in range(first, last)
    ]
    return LinesSeen(job.provider, job.name, "", START_MS, OWNERS[2], found)


def charged() -> World:
    """Return a world in which everything was charged, over kills and three days."""
    log = [created(job) for job in (MINI, PLAIN, LONG, HAIKU)]
    log += [over(MINI), results(PLAIN, 0, 3), results(PLAIN, 1, 5), over(LONG), results(LONG, 0, 2), over(PLAIN)]
    log += [results(MINI, 0, 3), results(HAIKU, 0, 4), over(FOUND), results(HAIKU, 2, 4), results(PLAIN, 0, 5)]
    world = World(log, [7, 5, 6, 4, 8], [0] * 6 + [1, 0, 0, 1])
    world.run()
    assert world.starts == 6
    return world


def inserted(store: ClickHouse, world: World) -> None:
    """Let the history take the log in."""
    for partition in range(PARTITIONS):
        entries = [
            usage_entry(at, START_MS, value) for at, (part, value) in enumerate(world.usage) if part == partition
        ]
        chosen = choose(entries, Watermarks(complete=True))
        for month, table in UsageRows(Source("cluster", "usage", partition)).tables(chosen.events).by_month.items():
            store.insert(USAGE_TABLE, table, f"{partition}/{month}")


def comparisons(store: ClickHouse, world: World) -> list[Comparison]:
    """Return what `tollway verify` compares."""
    kept, told = [], []
    for shard in metered(world.usage):
        kept += [(key, account.totals) for key, account in shard.ledger.by_key.items()]
        kept += [(run_key(*run), state.totals) for run, state in shard.runs.open.items()]
        told += [(key, account.told) for key, account in shard.ledger.by_key.items() if account.told is not None]
        told += [(run_key(*run), state.told) for run, state in shard.runs.open.items()]
    by_day, by_run = ledger.by_day(store.rows(ledger.BY_DAY)), ledger.by_run(store.rows(ledger.BY_RUN))
    rollups = {
        name: add_up(ledger.by_day(store.rows(sql)), "totals")
        for name, sql in (("rollups", ledger.ROLLUP_BY_DAY), ("actors", ledger.ACTORS_BY_DAY))
    }
    return compare(
        meter=add_up([{"key": key, "sums": _plain(sums)} for key, sums in kept if "/hour=" not in key], "sums"),
        told=add_up([{"key": key, "sums": _plain(sums)} for key, sums in told], "sums"),
        clickhouse=add_up(by_day + by_run, "totals"),
        rollups=rollups,
        today=datetime.fromtimestamp(START_MS / 1000, UTC).date(),
    )


def _plain(sums: object) -> dict[str, int]:
    found: dict[str, int] = msgspec.structs.asdict(sums)  # type: ignore[arg-type]  # totals
    return found


def test_the_ledgers_agree_on_charged_batches(clickhouse: ClickHouse) -> None:
    """By organisation and day, and by the batcher's run of each day: told, meter, history and its rollups."""
    world = charged()
    inserted(clickhouse, world)
    found = comparisons(clickhouse, world)
    assert [item.first_difference() for item in found if not item.agrees] == []
    runs = [item for item in found if item.key.startswith(f"instance={BATCHER}/epoch=")]
    assert len(runs) == 3
    assert all(set(item.sums) == {"told", "meter", "clickhouse"} for item in runs)
    assert sum(item.sums["told"]["events"] for item in runs) == 3 + 5 + 2 + 4 + 2
    assert {item.key.partition("/")[0] for item in found} >= {"org=acme", "org=globex"}


def test_charged_batches_are_priced_anew_to_the_same(clickhouse: ClickHouse) -> None:
    """Lines and sums are on the pages of costs; a correction is due only where a price is another one now."""
    inserted(clickhouse, charged())
    events = [msgspec.convert(list(line.values()), PastCost) for line in lines(clickhouse)]
    assert len(events) == 1 + 5 + 2 + 4 + 1
    by_model: dict[str, list[PastCost]] = {}
    for event in events:
        by_model.setdefault(event.model, []).append(event)
    assert {name: len(found) for name, found in by_model.items()} == {
        "gpt-5-mini": 7, "gpt-5-long": 2, "claude-haiku-4-5": 4,
    }  # fmt: skip
    assert {reprice(event, PRICES["mini"]).outcome for event in by_model["gpt-5-mini"]} == {Outcome.SAME}
    assert {reprice(event, PRICES["long"]).outcome for event in by_model["gpt-5-long"]} == {Outcome.SAME}
    first = [reprice(event, PRICES["mini"]) for event in by_model["claude-haiku-4-5"]]
    assert all(found.adjustment is not None and found.adjustment.first_price for found in first)
    dearer = [reprice(event, PRICES["long"]).outcome for event in by_model["gpt-5-mini"]]
    assert dearer.count(Outcome.FOLDED) == 2
