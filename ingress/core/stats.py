"""Plain counters of what exchanges did, cheap enough for the hot path; `telemetry` turns them into metrics."""

from __future__ import annotations

from bisect import bisect_left

DURATION_BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000)


class Spread:
    """Counts of millisecond values by bucket, as a histogram needs them."""

    __slots__ = ("buckets", "sum_ms")

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.buckets = [0] * (len(DURATION_BOUNDS_MS) + 1)
        self.sum_ms = 0

    def add(self, value_ms: int) -> None:
        """Count one value."""
        self.buckets[bisect_left(DURATION_BOUNDS_MS, value_ms)] += 1
        self.sum_ms += value_ms


class Syncs:
    """How long syncs of the log took."""

    __slots__ = ("bounds_ms", "buckets", "sum_ms", "worst_ms")

    def __init__(self) -> None:
        """Start with none."""
        self.bounds_ms = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1_000)
        self.buckets = [0] * (len(self.bounds_ms) + 1)
        self.sum_ms = self.worst_ms = 0.0

    def add(self, took_ms: float) -> None:
        """Count one."""
        self.buckets[bisect_left(self.bounds_ms, took_ms)] += 1
        self.sum_ms += took_ms
        self.worst_ms = max(self.worst_ms, took_ms)


class Stats:
    """What has happened since the start of the process."""

    def __init__(self) -> None:
        """Start at zero."""
        self.ended: dict[tuple[str, str, str], int] = {}
        """Exchanges by (operation, status, error)."""
        self.usage_sources: dict[str, int] = {}
        """Settled exchanges by where their usage is from."""
        self.tokens = 0
        """Charged."""
        self.durations: dict[str, Spread] = {}
        """By operation, of exchanges that reached a provider."""
        self.first_bytes: dict[str, Spread] = {}
        self.in_flight = 0
        """Exchanges that have begun and not ended."""
        self.bugs = 0
        self.actions: dict[str, int] = {}
        """What rules did to requests, or said of them, by action."""
        self.waits: dict[str, Spread] = {}
        """How long requests waited at the cap, by what for."""
        self.laps: dict[str, Spread] = {}
        """How long records took through the whole loop, by what they carried."""
        self.waiting = 0
        """Requests that wait at the cap."""
        self.syncs = Syncs()
        self.odd: dict[str, int] = {}
        """Answers whose usage was odd, by flag."""
        self.draining = 0
        """Answers that are read on though their clients have hung up."""
        self.draining_bytes = 0
        """What is kept of those that are not streams."""
        self.drains: dict[str, int] = {}
        """How that ended."""
        self.sightings: dict[str, int] = {}
        """What was seen of batches, by what came of telling it."""
        self.batch_lines = 0
        """Lines of results in it."""

    def act(self, action: str) -> None:
        """Count what a rule did."""
        self.actions[action] = self.actions.get(action, 0) + 1

    def waited(self, kind: str, waited_ms: int) -> None:
        """Count the end of a wait."""
        self.waiting -= 1
        spread = self.waits.get(kind)
        if spread is None:
            spread = self.waits[kind] = Spread()
        spread.add(waited_ms)

    def drained(self, outcome: str) -> None:
        """Count the end of an answer that was read on without its client."""
        self.draining -= 1
        self.drains[outcome] = self.drains.get(outcome, 0) + 1

    def told(self, outcome: str) -> None:
        """Count what came of telling something of a batch."""
        self.sightings[outcome] = self.sightings.get(outcome, 0) + 1

    def no_drain(self) -> None:
        """Count an answer that was not read on, because too many were."""
        self.drains["refused"] = self.drains.get("refused", 0) + 1

    def end(self, operation: str, status: str, error: str) -> None:
        """Count the end of an exchange."""
        key = (operation, status, error)
        self.ended[key] = self.ended.get(key, 0) + 1

    def served(self, operation: str, source: str, tokens: int, duration_ms: int, ttft_ms: int) -> None:
        """Count an exchange that reached a provider."""
        self.usage_sources[source] = self.usage_sources.get(source, 0) + 1
        self.tokens += tokens
        spread = self.durations.get(operation)
        if spread is None:
            spread = self.durations[operation] = Spread()
            self.first_bytes[operation] = Spread()
        spread.add(duration_ms)
        if ttft_ms >= 0:
            self.first_bytes[operation].add(ttft_ms)
