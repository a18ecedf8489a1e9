"""Mends the history where its ledgers differ: says what it would do, and does it while nothing else is inserted.

Adapts the worker, the store and the log; what is done is in `core.repair`. Each step may be cut short and done again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import TopicPartition

from meter.sink.auditor import Auditor, Found
from meter.sink.core import repair
from meter.sink.core.buffer import Entry
from meter.sink.core.records import PlacedEvent, UsageRecord, choose, usage_entry
from meter.sink.core.repair import Plan, Step
from meter.sink.core.watermarks import Watermarks
from meter.sink.lane import Lane
from meter.sink.rows import USAGE_TABLE, UsageRows
from meter.sink.store import Store
from meter.sink.worker import Worker
from schemas.crash_points import crash_here
from schemas.errors import DecodeError

ROWS_AT_ONCE = 20_000
KNOWN = f"""
    SELECT id FROM {USAGE_TABLE} WHERE src_log = {{log:String}} AND src_topic = {{topic:String}}
        AND src_partition = {{partition:Int32}} AND instance = {{instance:String}} AND epoch = {{epoch:Int64}}
        AND seq >= {{first:Int64}} AND seq <= {{last:Int64}}
"""  # noqa: S608 - our own name
COLUMNS = (
    "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {name:String} ORDER BY position"
)
FEED = "SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"

_log = structlog.get_logger("history.repair")


@dataclass(frozen=True)
class Repaired:
    """What a repair was to do, and what the ledgers are like after it."""

    plan: Plan
    inserted_rows: int
    before: Found
    after: Found | None
    """None where nothing was done."""


class Repairer:
    """Plans and repairs."""

    def __init__(self, worker: Worker, store: Store, auditor: Auditor) -> None:
        self._worker, self._store, self._auditor = worker, store, auditor

    async def run(self, apply: bool) -> Repaired:
        """Compare everything, and mend what differs if `apply`; TransportError if a step did not end."""
        before = await self._auditor.look(everything=True)
        wanted = await self._plan(before)
        if not apply or not wanted.steps:
            return Repaired(wanted, 0, before, None)
        inserted = 0
        async with self._worker.at_rest() as lanes:
            months: set[int] = set()
            for step in wanted.steps:
                _log.warning("repairing", step=step.text)
                if step.what == "insert":
                    rows, touched = await self._insert(step, lanes[step.partition])
                    inserted, months = inserted + rows, months | touched
                else:
                    await asyncio.to_thread(self._change, step)
                    months -= {step.month} if step.what == "rebuild" else set()
            for month in sorted(months):
                await asyncio.to_thread(self._change, repair.rebuild(month))
        crash_here("sink.repaired")
        return Repaired(wanted, inserted, before, await self._auditor.look(everything=True))

    async def _plan(self, found: Found) -> Plan:
        topic = self._worker.usage_topic
        partitions = [TopicPartition(topic, number) for number in found.partitions]
        bounds = await self._worker.log.bounds(partitions) if partitions else {}
        return repair.plan(found.differences, {tp.partition: start for tp, (start, _) in bounds.items()})

    def _change(self, step: Step) -> None:
        if step.what == "deduplicate":
            self._store.command(f"OPTIMIZE TABLE {USAGE_TABLE} PARTITION {step.month} FINAL")
            return
        for rollup in repair.ROLLUPS:
            stage = repair.stage_of(rollup)
            feed = str(self._store.rows(FEED, {"name": f"{rollup}_feed"})[0][0])
            self._store.command(f"DROP TABLE IF EXISTS {stage} SYNC")
            self._store.command(f"CREATE TABLE {stage} AS {rollup}")
            names = ", ".join(str(name) for (name,) in self._store.rows(COLUMNS, {"name": rollup}))
            self._store.command(
                f"INSERT INTO {stage} ({names}) SELECT {names} FROM ({repair.anew(feed, step.month)})"  # noqa: S608 - our own
            )
            self._store.command(f"ALTER TABLE {rollup} REPLACE PARTITION {step.month} FROM {stage}")
            self._store.command(f"DROP TABLE {stage} SYNC")

    async def _insert(self, step: Step, lane: Lane) -> tuple[int, set[int]]:
        """Insert what the table lacks of a run's records in a range of the log; return how many, and their months."""
        watermarks, rows, months = Watermarks(), 0, set[int]()
        async for entries in self._entries(step, lane):
            placed = choose(entries, watermarks).events
            missing = await asyncio.to_thread(self._missing, step, lane, placed)
            tables = UsageRows(lane.source).tables(missing)
            for month, table in tables.of_batch(-1, -1).by_month.items():
                ids = [bytes(value) for value in table.column("id").to_pylist()]
                token = f"{lane.source.log}/{lane.source.topic}/{step.partition}/{repair.repair_token(ids, month)}"
                await asyncio.to_thread(self._store.insert, USAGE_TABLE, table, token)
                rows, months = rows + len(ids), months | {month}
        return rows, months

    async def _entries(self, step: Step, lane: Lane) -> AsyncIterator[list[Entry[UsageRecord]]]:
        """Yield the run's records in the range, some thousands of rows at a time."""
        found: list[Entry[UsageRecord]] = []
        rows = 0
        where = TopicPartition(lane.source.topic, step.partition)
        async for message in self._worker.log.again(
            where, step.first_offset, min(step.last_offset, lane.committed - 1)
        ):
            entry = _entry(message)
            if entry is not None and entry.record is not None and entry.record[:2] == step.run:
                found.append(entry)
                rows += entry.rows
            if rows >= ROWS_AT_ONCE:
                yield found
                found, rows = [], 0
        yield found

    def _missing(self, step: Step, lane: Lane, placed: list[PlacedEvent]) -> list[PlacedEvent]:
        if not placed:
            return []
        source, seqs = lane.source, [one.seq for one in placed]
        bound: dict[str, Any] = {
            "log": source.log, "topic": source.topic, "partition": source.partition, "instance": step.run[0],
            "epoch": step.run[1], "first": min(seqs), "last": max(seqs),
        }  # fmt: skip
        known = {_bytes(row[0]) for row in self._store.rows(KNOWN, bound)}
        return [one for one in placed if one.event.id not in known]


def _entry(message: Any) -> Entry[UsageRecord] | None:
    try:
        return usage_entry(message.offset, message.timestamp, message.value or b"")
    except DecodeError:
        return None


def _bytes(value: uuid.UUID) -> bytes:
    return value.bytes
