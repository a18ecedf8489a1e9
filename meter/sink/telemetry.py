"""Logs and metrics of the history. Logging is configured as the meter's is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meter.sink.auditor import Found
from meter.sink.lane import LaneStatus


class Metrics:
    """Everything that the history counts. What the lanes count themselves is read from `lanes` when asked for."""

    def __init__(self, lanes: Callable[[], Iterable[LaneStatus]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Lanes(lanes))
        self.open_seconds = Gauge(
            "tollway_history_open_seconds", "Time to open the engine and bring its schema up to date.",
            registry=registry,
        )  # fmt: skip
        self.queries = Counter(
            "tollway_history_queries", "Queries over HTTP, by path and by how they ended (ok, refused, failed).",
            ["path", "outcome"], registry=registry,
        )  # fmt: skip
        self.query_seconds = Histogram(
            "tollway_history_query_seconds", "Time of a query over HTTP.", ["path"], registry=registry,
            buckets=(0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0),
        )  # fmt: skip
        self.audits = Counter(
            "tollway_history_audits", "Comparisons of the ledgers, by how they ended (agree, differ, failed).",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.differences = Gauge(
            "tollway_history_differences", "Differences between ledgers that the last audit found.", registry=registry
        )
        self.audit_seconds = Gauge(
            "tollway_history_audit_seconds", "Time of the last audit, while nothing was inserted.", registry=registry
        )
        self.audit_time = Gauge(
            "tollway_history_audit_timestamp_seconds", "When the ledgers were compared last, unix time.",
            registry=registry,
        )  # fmt: skip

    def audited(self, found: Found | None) -> None:
        """Count an audit; None for one that could not be made."""
        if found is None:
            self.audits.labels("failed").inc()
            return
        self.audits.labels("differ" if found.differences else "agree").inc()
        self.differences.set(len(found.differences))
        self.audit_seconds.set(found.seconds)
        self.audit_time.set(found.at_ms / 1000)


class _Lanes(Collector):
    """Reads the counts of the lanes; nothing is counted twice."""

    COUNTERS: tuple[tuple[str, str, Callable[[LaneStatus], int]], ...] = (
        ("rows", "Rows inserted.", lambda lane: lane.counts.rows),
        ("batches", "Batches inserted.", lambda lane: lane.counts.batches),
        ("batches_resent", "Batches sent again because they may not have been whole.", lambda lane: lane.counts.resent),
        ("duplicate_records", "Records that had counted before.", lambda lane: lane.counts.duplicates),
        ("gap_records", "Records held back because earlier ones are missing.", lambda lane: lane.counts.gaps),
        ("undecodable", "Records and events that are none of ours.", lambda lane: lane.counts.undecodable),
        ("rejected", "Events and decisions that no row can hold, set aside.", lambda lane: lane.counts.rejected),
        ("insert_failures", "Inserts that the store did not take, before they were tried again.",
         lambda lane: lane.counts.failures),
        ("lost_offsets", "Offsets that the log dropped before they were read.", lambda lane: lane.counts.lost),
    )  # fmt: skip
    GAUGES: tuple[tuple[str, str, Callable[[LaneStatus], float]], ...] = (
        ("position", "First offset that is not committed.", lambda lane: lane.position),
        ("lag_records", "Records on the log that are not committed.", lambda lane: lane.lag),
        ("waiting_rows", "Rows read and not yet inserted.", lambda lane: lane.waiting_rows),
        ("batch_age_seconds", "Age of the oldest row that waits.", lambda lane: lane.batch_age_ms / 1000),
    )

    def __init__(self, lanes: Callable[[], Iterable[LaneStatus]]) -> None:
        self._lanes = lanes

    def collect(self) -> Iterator[Metric]:
        """Yield one family a count, labelled by topic and partition."""
        lanes = list(self._lanes())
        for name, text, value in self.COUNTERS:
            counter = CounterMetricFamily(f"tollway_history_{name}", text, labels=["topic", "partition"])
            for lane in lanes:
                counter.add_metric([lane.topic, str(lane.partition)], value(lane))
            yield counter
        for name, text, number in self.GAUGES:
            gauge = GaugeMetricFamily(f"tollway_history_{name}", text, labels=["topic", "partition"])
            for lane in lanes:
                gauge.add_metric([lane.topic, str(lane.partition)], number(lane))
            yield gauge
