"""A log of sightings, a batcher that is killed anywhere and goes on from its memory, and a naive account of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec

from enforcer.core.batch_terms import Terms
from enforcer.core.batches import Charged, Folded, close, concluded, fold, key_of
from enforcer.core.policy import read
from meter.core.shard import Shard
from meter.sink.core.records import choose, usage_entry
from meter.sink.core.watermarks import Watermarks
from schemas.batches import BatchSeen, Line, LinesSeen, Sighting, Step, line_id
from schemas.codec import (
    decode_sighting,
    decode_step,
    encode_attribution,
    encode_sighting,
    encode_step,
)
from schemas.money import Price, Rates
from schemas.policy import PolicyRecord
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, UsageEvent

DAY_MS = 86_400_000
START_MS = 1_795_264_200_000
"""2026-11-21T12:30:00Z"""
PARTITIONS = 2
DOCUMENT = """
version: 1
orgs:
  acme: {teams: [search, ml]}
  globex: {teams: [ops]}
providers:
  openai: {protocol: openai, base_url: simulated}
  claude: {protocol: anthropic, base_url: simulated}
models:
  mini: {provider: openai, upstream: gpt-5-mini}
  long: {provider: openai, upstream: gpt-5-long}
  haiku: {provider: claude, upstream: claude-haiku-4-5}
limits:
  - {name: key-minute, per: [key], rpm: 5, rpd: 100}
budgets:
  - {name: team-month, per: [team], amount: 100 USD, period: month}
"""
FLAT = (Rates(0, 20_000_000, 2_000_000, 0, 0, 80_000_000, 80_000_000, 0, 0),)
HALF = (Rates(0, 10_000_000, 1_000_000, 0, 0, 40_000_000, 40_000_000, 0, 0),)
STEEP = (*HALF, Rates(1_000, 30_000_000, 3_000_000, 0, 0, 90_000_000, 90_000_000, 0, 0))
PRICES = {
    "mini": Price("list", "mini-1", FLAT, variants={"batch": HALF}),
    "long": Price("list", "long-1", FLAT, variants={"batch": STEEP}),
}
"""`haiku` has none."""


def terms_of(document: str = DOCUMENT, prices: dict[str, Price] | None = None, partitions: int = PARTITIONS) -> Terms:
    """Return the terms of a policy."""
    record = PolicyRecord(3, document, "", START_MS, "ann", "", PRICES if prices is None else prices)
    return Terms(record, read(document).policy, partitions, lambda key: None)


TERMS = terms_of()


def owner(org: str, team: str) -> msgspec.Raw:
    """Return an attribution as a replica tells it: with the model of the account."""
    key = f"key-{team}"
    return encode_attribution(Attribution(org, "", team, "", key, "?", "account", "account", {}, 1, "v0"))


OWNERS = [owner("acme", "search"), owner("acme", "ml"), owner("globex", "ops")]


class Job(NamedTuple):
    """A batch as the provider has it."""

    provider: str
    name: str
    model: str
    lines: int
    tells_total: bool
    creator: int | None
    """Whom it was created by, through us; None: not through us."""


JOBS = (
    Job("openai", "batch_a", "gpt-5-mini-2026-01-01", 3, True, 0),
    Job("openai", "batch_b", "gpt-5-mini", 5, False, 1),
    Job("openai", "batch_c", "gpt-5-long", 2, True, 2),
    Job("claude", "batch_a", "claude-haiku-4-5-20251001", 4, False, 2),
    Job("openai", "batch_d", "gpt-5-mini", 2, True, None),
)


def usage_of(job: Job, line: int) -> TokenUsage:
    """Return what a line used: no two lines the same."""
    number = int.from_bytes(hashlib.sha256(f"{job.provider}{job.name}{line}".encode()).digest()[:2], "big")
    return TokenUsage(input=number, output=line + 1, cache_read=number % 7)


def total_of(job: Job) -> TokenUsage:
    """Return what all of its lines used."""
    lines = [usage_of(job, line) for line in range(job.lines)]
    return TokenUsage(*(sum(getattr(one, name) for one in lines) for name in TokenUsage.__struct_fields__))


@st.composite
def sightings(draw: st.DrawFn) -> Sighting:
    """Return something that a replica may see of one of the batches, at any time."""
    job = draw(st.sampled_from(JOBS))
    who = OWNERS[draw(st.integers(0, len(OWNERS) - 1))]
    has_files = job.provider == "openai"
    seen_ms = START_MS - draw(st.integers(0, 3 * DAY_MS))
    kind = draw(st.sampled_from(["created", "polled", "over", "over", "lines", "lines", "lines"]))
    if kind == "lines":
        first = draw(st.integers(0, job.lines - 1))
        last = draw(st.integers(first, job.lines))
        lines = [
            Line(line_id(f"request-{line}"), job.model, usage_of(job, line), seen_ms - 5, service_tier="batch")
            for line in range(first, last)
        ]
        if draw(st.booleans()) and lines:
            lines.append(lines[0])
        by_file = has_files and draw(st.booleans())
        return LinesSeen(job.provider, "" if by_file else job.name, f"file-{job.name}" if has_files else "", seen_ms,
                         who, lines)  # fmt: skip
    if kind == "created" and job.creator is not None:
        return BatchSeen(job.provider, job.name, seen_ms, OWNERS[job.creator], True, "chat.completions")
    if kind != "over":
        return BatchSeen(job.provider, job.name, seen_ms, who, operation="chat.completions")
    return BatchSeen(
        job.provider, job.name, seen_ms, who, False, "chat.completions", True, seen_ms - 9,
        (f"file-{job.name}",) if has_files else (), job.model, total_of(job) if job.tells_total else None, job.lines,
    )  # fmt: skip


class Told(NamedTuple):
    """What a batch is charged for, by the naive account."""

    owner: bytes
    usage: TokenUsage
    requests: int


class Naive:
    """An account that remembers everything that was seen, and asks it anew each time."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str, bytes], Told] = {}
        self._owners: dict[tuple[str, str], bytes] = {}
        self._created: set[tuple[str, str]] = set()
        self._files: dict[tuple[str, str], str] = {}
        self._first_ms: dict[tuple[str, str], int] = {}
        self._ended_ms: dict[tuple[str, str], int] = {}

    def see(self, seen: Sighting) -> None:
        """Take what was seen."""
        if isinstance(seen, LinesSeen):
            name = (seen.provider, seen.batch_id or self._files.get((seen.provider, seen.file_id), ""))
            if name[1] and (seen.lines or name in self._owners):
                self._meet(name, seen)
                self._lines(name, seen)
            return
        name = (seen.provider, seen.batch_id)
        self._meet(name, seen)
        self._files.update({(seen.provider, file_id): seen.batch_id for file_id in seen.file_ids})
        if seen.ended_ms:
            self._ended_ms.setdefault(name, seen.ended_ms)
        if seen.is_created and name not in self._created:
            self._created.add(name)
            self._owners[name] = bytes(seen.attribution)
        is_whole = seen.total is not None and seen.model != "gpt-5-long" and not self._is_begun(name)
        if is_whole and seen.total is not None and not self._is_past(name):
            self.told[(*name, b"")] = Told(self._owners[name], seen.total, seen.requests)

    def _meet(self, name: tuple[str, str], seen: Sighting) -> None:
        self._owners.setdefault(name, bytes(seen.attribution))
        self._first_ms.setdefault(name, seen.seen_ms)

    def _lines(self, name: tuple[str, str], seen: LinesSeen) -> None:
        if (*name, b"") in self.told or (not self._is_begun(name) and self._is_past(name)):
            return
        for line in seen.lines:
            if line.usage is not None:
                self.told.setdefault((*name, line.id), Told(self._owners[name], line.usage, 1))

    def _is_begun(self, name: tuple[str, str]) -> bool:
        return any(key[:2] == name for key in self.told)

    def _is_past(self, name: tuple[str, str]) -> bool:
        first_ms = self._first_ms[name]
        return name not in self._created and self._ended_ms.get(name, first_ms) < first_ms - 2 * DAY_MS


def account(log: list[Sighting]) -> dict[tuple[str, str, bytes], Told]:
    """Return by (provider, batch, line) what has to be charged: empty ids stand for a batch as a whole."""
    naive = Naive()
    for seen in log:
        naive.see(seen)
    return naive.told


class Killed(Exception):
    """The batcher is gone."""


class World:
    """The two topics that it writes, and a batcher that does as the process does."""

    def __init__(self, log: list[Sighting], kills: list[int], days: list[int]) -> None:
        self._log = [encode_sighting(seen) for seen in log]
        self._kills, self._days = iter(kills), iter(days)
        self._left = next(self._kills, -1)
        self.now_ms = START_MS
        self.steps: list[tuple[str, bytes]] = []
        self.usage: list[tuple[int, bytes]] = []
        self.starts = 0

    def run(self) -> Charged:
        """Charge all there is, in as many lives as it takes; return the last one's state."""
        while True:
            self.starts += 1
            try:
                return self._live()
            except Killed:
                continue

    def _live(self) -> Charged:
        state = self.remembered()
        for step in list(state.pending.values()):
            self._conclude(state, step)
        while state.position < len(self._log):
            self.now_ms += next(self._days, 0) * DAY_MS
            seen = decode_sighting(self._log[state.position])
            found = self._fold(state, seen)
            if found.step is None:
                state.passed(state.position + 1)
            else:
                self._write(state, found.step)
        last = close(state, 3, self.now_ms)
        if last is not None:
            self._write(state, last)
        return state

    def _fold(self, state: Charged, seen: Sighting) -> Folded:
        return fold(state, seen, state.position, TERMS, self.now_ms)

    def remembered(self) -> Charged:
        """Return the state as the compacted topic has it."""
        last = {key: place for place, (key, _) in enumerate(self.steps)}
        state = Charged()
        for place, (key, value) in enumerate(self.steps):
            if last[key] == place:
                state.take(decode_step(value))
        return state

    def _write(self, state: Charged, step: Step) -> None:
        self._may_die()
        self.steps.append((key_of(step), encode_step(step)))
        state.take(step)
        self._may_die()
        if step.records:
            self._conclude(state, step)

    def _conclude(self, state: Charged, step: Step) -> None:
        for record in step.records:
            self.usage.append(record)
            self._may_die()
        done = concluded(step)
        self.steps.append((key_of(step), encode_step(done)))
        state.take(done)
        self._may_die()

    def _may_die(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._left = next(self._kills, -1)
            raise Killed


def metered(usage: list[tuple[int, bytes]]) -> list[Shard]:
    """Return the meter's shards of what is on the log; no record may be at fault."""
    shards = [Shard(partition) for partition in range(PARTITIONS)]
    for offset, (partition, value) in enumerate(usage):
        assert shards[partition].apply(offset, START_MS, value) is None
    return shards


def counted(usage: list[tuple[int, bytes]]) -> Iterator[UsageEvent]:
    """Yield the events that the history takes, each record once."""
    for partition in range(PARTITIONS):
        entries = [usage_entry(at, START_MS, value) for at, (part, value) in enumerate(usage) if part == partition]
        chosen = choose(entries, Watermarks(complete=True))
        assert not chosen.gaps
        assert not chosen.undecodable
        yield from (placed.event for placed in chosen.events)
