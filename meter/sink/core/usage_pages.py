"""Pages of the ledger in the order of admission: which part of the time one covers, its query, where the next begins.

A page is cut out of whole hours, as many as hold about its size by the hourly rollup, because hours are what the
ledger is sorted by: so every hour is read once, or once a page where it holds several. The rollup is only a hint: what
it says too little of comes with the next page. Corrections of costs are in no page. Of one millisecond, served events
come before refused ones: what had refused them was most likely taken by those. Pure.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from meter.sink.core.report import Fault, parse_moment

HOUR_MS = 3_600_000
MAX_EVENTS = 200_000
MOST_MS = 10_413_792_000_000
"""Beyond all rows: the year 2300."""
DECIDED_WITHIN_MS = HOUR_MS
"""How long after its arrival a request may be refused."""

_MOMENT = "fromUnixTimestamp64Milli({{{}:Int64}}, 'UTC')"
_NANOS = "toInt64(toDecimal128({}, 9) * 1000000000)"
_USAGE = (
    "tokens_input", "tokens_output", "tokens_cache_read", "tokens_cache_write", "tokens_cache_write_1h",
    "tokens_reasoning", "tokens_audio_input", "tokens_audio_output", "tokens_image_input", "tokens_image_output",
)  # fmt: skip
COLUMNS = {
    "occurred_ms": "toUnixTimestamp64Milli(e.occurred_at)",
    "id": "toString(e.id)",
    "status": "e.status",
    "error": "e.error",
    "operation": "e.operation",
    "org": "e.org",
    "project": "e.project",
    "team": "e.team",
    "user": "e.user",
    "key": "e.key_id",
    "model_requested": "e.model_requested",
    "model": "e.model",
    "provider": "e.provider",
    "tags": "e.tags",
    "usage": f"[{', '.join(f'e.{name}' for name in _USAGE)}]",
    "cost_nanos": _NANOS.format("e.cost_usd"),
    "charge_requests": "e.charge_requests",
    "charge_tokens": "e.charge_tokens",
    "charge_nanos": _NANOS.format("e.charge_usd"),
    "duration_ms": "e.duration_ms",
    "measure": "d.measure",
    "asked": "d.asked_value",
}
"""What a line holds, in this order. The last two are those of the decision that refused: what was asked of the row."""

HOURS = f"""
    SELECT toUnixTimestamp(t.hour) * 1000 AS starts, sum(t.events) FROM usage_hourly AS t
    WHERE t.hour >= toStartOfHour({_MOMENT.format("since")}) AND t.hour < {_MOMENT.format("until")}
        AND ({{org:String}} = '' OR t.org = {{org:String}})
    GROUP BY t.hour ORDER BY t.hour
"""  # noqa: S608 - our own names


class Place(NamedTuple):
    """Where a page begins: after this event, or with the first of a millisecond."""

    ms: int
    refused: int = 0
    id: str = ""

    def __str__(self) -> str:
        """Return the text that asks for what follows."""
        return f"{self.ms}/{self.refused}/{self.id}" if self.id else str(self.ms)


@dataclass(frozen=True)
class Page:
    """A question: the events of [begin, until), `most` at a time, of all organisations or of one."""

    begin: Place
    until_ms: int
    most: int
    org: str = ""

    def parameters(self, end_ms: int) -> dict[str, Any]:
        """Return what the query is bound to, for a page that ends before `end_ms` at the latest."""
        begin = self.begin
        return {"since": begin.ms, "until": end_ms, "decided": end_ms + DECIDED_WITHIN_MS, "refused": begin.refused,
                "after": begin.id, "most": self.most, "org": self.org}  # fmt: skip

    @property
    def span(self) -> dict[str, Any]:
        """What the query for hours is bound to."""
        return {"since": self.begin.ms, "until": self.until_ms, "org": self.org}

    def end_ms(self, hours: Iterable[Sequence[Any]]) -> int:
        """Return where a page ends that has about as many events as are asked for, by (hour's start, events)."""
        found = 0
        for starts, events in hours:
            found += int(events)
            if found >= self.most:
                return min(int(starts) + HOUR_MS, self.until_ms)
        return self.until_ms

    def sql(self) -> str:
        """Return the query of the page."""
        after = " AND e.org = {org:String}" if self.org else ""
        if self.begin.id:
            after += (
                f" AND (e.occurred_at, e.status = 'refused', e.id)"
                f" > ({_MOMENT.format('since')}, {{refused:UInt8}}, toUUID({{after:String}}))"
            )
        columns = ", ".join(f"{expression} AS the_{name}" for name, expression in COLUMNS.items())
        return f"""
            SELECT {columns} FROM (
                SELECT * FROM usage_events AS e FINAL
                WHERE e.occurred_at >= {_MOMENT.format("since")} AND e.occurred_at < {_MOMENT.format("until")}
                    AND e.kind != 'adjustment'{after}
                ORDER BY e.occurred_at, e.status = 'refused', e.id LIMIT {{most:UInt32}}
            ) AS e LEFT ANY JOIN (
                SELECT id, measure, asked_value FROM enforcement_decisions
                WHERE decided_at >= {_MOMENT.format("since")} AND decided_at < {_MOMENT.format("decided")}
            ) AS d ON e.decision_id = d.id
            ORDER BY e.occurred_at, e.status = 'refused', e.id
            SETTINGS output_format_json_quote_64bit_integers = 0
        """  # noqa: S608 - our own names; bounds are bound

    def closed(self, lines: bytes, end_ms: int) -> bytes:
        """Return a page with its last line: the columns of the others, and `next`, null after the last page."""
        following = self.next(lines, end_ms)
        last = {"columns": list(COLUMNS), "next": None if following is None else str(following)}
        return lines + json.dumps(last).encode() + b"\n"

    def next(self, lines: bytes, end_ms: int) -> Place | None:
        """Return where the page after this one begins; None after the last one.

        Args:
            lines: this page, a JSON list a line.
            end_ms: where it ended at the latest.
        """
        if lines.count(b"\n") >= self.most:
            last = lines[lines.rstrip(b"\n").rfind(b"\n") + 1 :]
            ms, _, rest = last.lstrip(b"[").partition(b",")
            name, status = (part.strip(b'" ').decode() for part in rest.split(b",", 2)[:2])
            return Place(int(ms), int(status == "refused"), name)
        return None if end_ms >= self.until_ms else Place(end_ms)


def parse(
    since: str | None, until: str | None, after: str | None, most: int, org: str | None = None
) -> Page | list[Fault]:
    """Return the question that the parameters ask, or everything that is wrong with them."""
    faults: list[Fault] = []
    bounds = {"since": 0, "until": MOST_MS}
    for field, text in (("since", since), ("until", until)):
        try:
            bounds[field] = _moment_ms(text) if text else bounds[field]
        except ValueError:
            told = "is not a date or time; write 2026-11-01T12:00:00Z, or unix milliseconds"
            faults.append(Fault(field, f"{text!r} {told}"))
    if not 0 < most <= MAX_EVENTS:
        faults.append(Fault("limit", f"{most} is not a size of a page; ask for 1 to {MAX_EVENTS} events"))
    if not faults and bounds["since"] >= bounds["until"]:
        faults.append(Fault("until", f"{until!r} is not after since={since!r}; the time is [since, until)"))
    begin = Place(bounds["since"])
    try:
        begin = _place(after) if after else begin
    except ValueError:
        faults.append(
            Fault("after", f"{after!r} is not a place; give what the page before ended with, or leave it out")
        )
    return faults or Page(begin, bounds["until"], most, org or "")


def _moment_ms(text: str) -> int:
    if not text.isdigit():
        return round(parse_moment(text).timestamp() * 1000)
    if int(text) > MOST_MS:
        raise ValueError(text)
    return int(text)


def _place(text: str) -> Place:
    ms, _, rest = text.partition("/")
    refused, _, name = rest.partition("/")
    if not rest:
        return Place(_moment_ms(ms) if ms.isdigit() else int("no"))
    if refused not in ("0", "1") or not ms.isdigit():
        raise ValueError(text)
    return Place(_moment_ms(ms), int(refused), str(uuid.UUID(name)))
