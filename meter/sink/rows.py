"""Rows of the history as Arrow tables, from events and decisions and where they are in the log.

The names are those of `schemas/clickhouse`. A value that no column can hold is found here, and set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from meter.sink.columns import (
    ID,
    MOMENT,
    TAGS,
    UNITS,
    Interned,
    Unstorable,
    lists_of_texts,
    looked_up,
    money,
    months,
    texts,
)
from meter.sink.core.records import PlacedDecision, PlacedEvent
from schemas.codec import decode_attribution, decode_rows
from schemas.errors import DecodeError
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Detail

USAGE_TABLE = "usage_events"
DECISIONS_TABLE = "enforcement_decisions"
REMEMBERED = 20_000
"""Attributions and lists of row keys."""
PLAIN = Detail()
"""What an event without a detail says: the defaults of the table."""

Table = Any
"""pyarrow ships no annotations."""


@dataclass(frozen=True)
class Source:
    """Which log, topic and partition rows are from."""

    log: str
    topic: str
    partition: int


@dataclass(frozen=True)
class Tables:
    """The rows of a batch: one table a month, because an insert into one partition of the table is atomic."""

    by_month: dict[int, Table]
    unstorable: list[tuple[int, str]]
    """Rows that no table can hold: place in the batch and reason."""

    def of_batch(self, first: int, last: int) -> Tables:
        """Return the same with the batch's range in every row: if the group forgets it, the rows know."""
        return Tables({month: _with_batch(table, first, last) for month, table in self.by_month.items()},
                      self.unstorable)  # fmt: skip

    @property
    def rows(self) -> int:
        """Rows in all tables."""
        return sum(table.num_rows for table in self.by_month.values())


class UsageRows:
    """Makes rows of `usage_events`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._attributions: Interned[Attribution] = Interned(_attribution, REMEMBERED)
        self._row_keys: Interned[list[str]] = Interned(_row_keys, REMEMBERED)

    def tables(self, placed: Sequence[PlacedEvent]) -> Tables:
        """Return the rows of `placed` by month of admission."""
        return _tables(placed, self._table, lambda place: place.event.occurred_ms)

    def _table(self, placed: Sequence[PlacedEvent]) -> Table:
        events = [place.event for place in placed]
        columns = _event_columns(events) | _usage_columns([event.usage for event in events])
        if any(event.detail is not None for event in events):
            columns |= _detail_columns([event.detail or PLAIN for event in events])
        columns |= _attribution_columns(*self._attributions.places(bytes(event.attribution) for event in events))
        columns["row_keys"] = lists_of_texts(*self._row_keys.places(bytes(event.rows) for event in events))
        columns |= {
            "instance": pa.array([place.instance for place in placed], pa.string()),
            "epoch": pa.array([place.epoch for place in placed], pa.int64()),
            "seq": pa.array([place.seq for place in placed], pa.int64()),
        }
        return pa.table(columns | _place_columns(self._source, placed))


class DecisionRows:
    """Makes rows of `enforcement_decisions`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def tables(self, placed: Sequence[PlacedDecision]) -> Tables:
        """Return the rows of `placed` by month of the decision."""
        return _tables(placed, self._table, lambda place: place.decision.decided_ms)

    def _table(self, placed: Sequence[PlacedDecision]) -> Table:
        found = [place.decision for place in placed]
        columns = {
            "id": pa.array([decision.id for decision in found], ID),
            "request_id": pa.array([decision.request_id for decision in found], ID),
            "decided_at": pa.array([decision.decided_ms for decision in found], MOMENT),
            "resets_at": pa.array([_unix32(decision.resets_at_s) for decision in found], pa.timestamp("s", "UTC")),
        }
        for name in ("instance", "action", "reason", "rule", "measure", "scope", "mode", "rung", "downgraded_to"):
            columns[name] = pa.array([getattr(decision, name) for decision in found], pa.string())
        columns["row_key"] = pa.array([decision.row for decision in found], pa.string())
        for name in ("limit", "used", "asked", "room", "right", "pending", "want", "seen_limit"):
            columns[f"{name}_value"] = pa.array([getattr(decision, name) for decision in found], pa.int64())
        for name in ("overshoot_bound", "fence", "staleness_ms", "retry_after_s", "epoch", "tier", "waited_ms"):
            columns[name] = pa.array([getattr(decision, name) for decision in found], pa.int64())
        for name in ("num", "den", "off"):
            columns[f"weight_{name}"] = pa.array([getattr(decision.weight, name) for decision in found], pa.int64())
        columns["log_partition"] = pa.array([decision.partition for decision in found], pa.int32())
        columns["cost_avoided_usd"] = money([decision.cost_avoided_nanos for decision in found])
        columns |= _attribution_columns([decision.attribution for decision in found], range(len(found)))
        return pa.table(columns | _place_columns(self._source, placed))


def _tables(placed: Sequence[Any], build: Callable[[Sequence[Any]], Table], moment: Callable[[Any], int]) -> Tables:
    if not placed:
        return Tables({}, [])
    try:
        return Tables(_by_month(build(placed), months([moment(place) for place in placed])), [])
    except (Unstorable, OverflowError, pa.ArrowException):
        kept, unstorable = _sift(placed, build, moment)
        found = _tables(kept, build, moment) if kept else Tables({}, [])
        return Tables(found.by_month, unstorable)


def _sift(
    placed: Sequence[Any], build: Callable[[Sequence[Any]], Table], moment: Callable[[Any], int]
) -> tuple[list[Any], list[tuple[int, str]]]:
    """Try every row alone; return those that can be stored, and place and reason of the others."""
    kept, unstorable = [], []
    for number, place in enumerate(placed):
        try:
            months([moment(place)])
            build([place])
        except (Unstorable, OverflowError, pa.ArrowException) as error:
            unstorable.append((number, str(error)))
        else:
            kept.append(place)
    return kept, unstorable


def _by_month(table: Table, month_of: Any) -> dict[int, Table]:
    found = sorted({int(month) for month in set(month_of.tolist())})
    if len(found) == 1:
        return {found[0]: table}
    return {month: table.filter(pa.array(month_of == month)) for month in found}


def _event_columns(events: Sequence[Any]) -> dict[str, Any]:
    texts, integers = pa.string(), pa.int64()
    return {
        "id": pa.array([event.id for event in events], ID),
        "request_id": pa.array([event.request_id for event in events], ID),
        "decision_id": pa.array([event.decision_id for event in events], ID),
        "attempt": pa.array([event.attempt for event in events], pa.uint16()),
        "occurred_at": pa.array([event.occurred_ms for event in events], MOMENT),
        "status": pa.array([event.status for event in events], texts),
        "operation": pa.array([event.operation for event in events], texts),
        "usage_source": pa.array([event.usage_source for event in events], texts),
        "model_reported": pa.array([event.model_reported for event in events], texts),
        "error": pa.array([event.error for event in events], texts),
        "cost_usd": money([event.cost_nanos for event in events]),
        "charge_usd": money([event.charge_nanos for event in events]),
        "charge_requests": pa.array([event.charge_requests for event in events], integers),
        "charge_tokens": pa.array([event.charge_tokens for event in events], integers),
        "duration_ms": pa.array([event.duration_ms for event in events], integers),
        "ttft_ms": pa.array([None if event.ttft_ms < 0 else event.ttft_ms for event in events], integers),
        "http_status": pa.array([event.http_status for event in events], pa.uint16()),
        "streamed": pa.array([event.streamed for event in events], pa.bool_()),
    }


def _usage_columns(usages: Sequence[TokenUsage]) -> dict[str, Any]:
    integers = pa.int64()
    columns = {
        "tokens_input": pa.array([usage.input for usage in usages], integers),
        "tokens_output": pa.array([usage.output for usage in usages], integers),
        "tokens_cache_read": pa.array([usage.cache_read for usage in usages], integers),
        "tokens_cache_write": pa.array([usage.cache_write for usage in usages], integers),
        "tokens_cache_write_1h": pa.array([usage.cache_write_1h for usage in usages], integers),
        "tokens_reasoning": pa.array([usage.reasoning for usage in usages], integers),
        "tokens_audio_input": pa.array([usage.audio_input for usage in usages], integers),
        "tokens_audio_output": pa.array([usage.audio_output for usage in usages], integers),
    }
    if any(usage.image_input or usage.image_output for usage in usages):  # elsewhere the table's default says it
        columns["tokens_image_input"] = pa.array([usage.image_input for usage in usages], integers)
        columns["tokens_image_output"] = pa.array([usage.image_output for usage in usages], integers)
    return columns


def _detail_columns(details: Sequence[Detail]) -> dict[str, Any]:
    """Return the columns that most batches leave to the table's defaults."""
    words = pa.string()
    return {
        "units": pa.array([list(detail.units.items()) for detail in details], UNITS),
        "service_tier": pa.array([detail.service_tier for detail in details], words),
        "list_cost_usd": money([detail.list_cost_nanos for detail in details]),
        "flags": pa.array([detail.flags for detail in details], pa.list_(words)),
        "kind": pa.array([detail.kind for detail in details], words),
        "stands_for": pa.array([detail.stands_for for detail in details], pa.int64()),
        "corrects_id": pa.array([detail.corrects for detail in details], ID),
        "note": pa.array([detail.note for detail in details], words),
    }


def _attribution_columns(found: Sequence[Attribution], places: Sequence[int]) -> dict[str, Any]:
    names = (
        "org", "project", "team", "user", "key_id", "provider", "model", "model_requested", "price_version",
    )  # fmt: skip
    columns = {name: texts([getattr(attribution, name) for attribution in found], places) for name in names}
    columns["policy_version"] = looked_up([attribution.policy_version for attribution in found], places, pa.int64())
    columns["tags"] = looked_up([list(attribution.tags.items()) for attribution in found], places, TAGS)
    return columns


def _place_columns(source: Source, placed: Sequence[Any]) -> dict[str, Any]:
    size = len(placed)
    return {
        "src_log": pa.repeat(pa.scalar(source.log), size),
        "src_topic": pa.repeat(pa.scalar(source.topic), size),
        "src_partition": pa.repeat(pa.scalar(source.partition, pa.int32()), size),
        "src_offset": pa.array([place.offset for place in placed], pa.int64()),
        "src_index": pa.array([place.number for place in placed], pa.int32()),
        "logged_at": pa.array([place.logged_ms for place in placed], MOMENT),
    }


def _attribution(encoded: bytes) -> Attribution:
    try:
        return decode_attribution(encoded)
    except DecodeError:
        return Attribution()  # the meter books it to no organisation


def _row_keys(encoded: bytes) -> list[str]:
    try:
        return decode_rows(encoded)
    except DecodeError:
        return []


def _with_batch(table: Table, first: int, last: int) -> Table:
    for name, offset in (("batch_first", first), ("batch_last", last)):
        table = table.append_column(name, pa.repeat(pa.scalar(offset, pa.int64()), table.num_rows))
    return table


def _unix32(seconds: int) -> int:
    """Return a time as a DateTime holds it: 32 bits of seconds."""
    return min(max(seconds, 0), 2**32 - 1)
