"""Logs and metrics of the meter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meter.adapters.partition import Partition
from schemas.logs import OncePerInterval

NOISY = ("faust", "mode", "aiokafka", "kafka", "uvicorn", "asyncio", "meter.adapters.engine", "abc")
"""Others, and Faust's services that are subclassed here (they log under the name of their module)."""


def configure_logging(level: str) -> None:
    """Log to standard error: for people on a terminal, else one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    if level != "debug":
        handler.addFilter(OncePerInterval())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class Metrics:
    """Everything that the meter counts. What the folds count themselves is read from `partitions` when asked for."""

    def __init__(self, partitions: Callable[[], Iterable[Partition]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Folds(partitions))
        self.dead_letters = Counter(
            "tollway_meter_dead_letters", "Records set aside on usage.dlq.", ["kind"], registry=registry
        )
        self.gaps = Counter(
            "tollway_meter_gaps", "Records held back because earlier ones of their replica are missing.",
            registry=registry,
        )  # fmt: skip
        self.evictions = Counter("tollway_meter_evictions", "Replicas evicted for silence.", registry=registry)
        self.snapshots = Counter("tollway_meter_snapshots", "Snapshot records published.", registry=registry)
        self.flush_seconds = Histogram(
            "tollway_meter_flush_seconds", "Time to make the changed state of a partition durable.",
            registry=registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
        )  # fmt: skip
        self.publish_delay_seconds = Histogram(
            "tollway_meter_publish_delay_seconds",
            "From the broker time of the last record folded to the snapshot with its changes.",
            registry=registry, buckets=(0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0),
        )  # fmt: skip


class _Folds(Collector):
    """Reads the counts of the folds; nothing is counted twice on the hot path."""

    COUNTERS: tuple[tuple[str, str, Callable[[Partition], int]], ...] = (
        ("records", "Usage records folded.", lambda part: part.shard.counts.records),
        ("events", "Usage events folded.", lambda part: part.shard.counts.events),
        ("skipped_records", "Records that the state held already.", lambda part: part.shard.counts.skipped),
        ("late_charges", "Charges to rows out of use; ledgers have them.", lambda part: part.shard.counts.late),
    )
    GAUGES: tuple[tuple[str, str, Callable[[Partition], int]], ...] = (
        ("fence", "Offset below which everything is folded.", lambda part: part.shard.fence),
        ("flushed_fence", "Offset below which the state is durable.", lambda part: part.flushed_fence),
        ("lag_records", "Records on the log that are not folded yet.", lambda part: part.lag),
        ("rows", "Rows in use.", lambda part: len(part.shard.rows.by_key)),
        ("members", "Live ingress replicas.", lambda part: len(part.shard.runs.members)),
    )

    def __init__(self, partitions: Callable[[], Iterable[Partition]]) -> None:
        self._partitions = partitions

    def collect(self) -> Iterator[Metric]:
        """Yield one family a count, labelled by partition."""
        for kind, table in ((CounterMetricFamily, self.COUNTERS), (GaugeMetricFamily, self.GAUGES)):
            for name, text, value in table:
                family = kind(f"tollway_meter_{name}", text, labels=["partition"])
                for part in self._partitions():
                    family.add_metric([str(part.number)], value(part))
                yield family
