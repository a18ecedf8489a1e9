"""Logs and metrics of the enforcer. The catalogue below is closed: no metric has another name."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from enforcer.core.reports import Sample
from schemas.decisions import AVOIDING, Decision
from schemas.logs import OncePerInterval

NOISY = ("aiokafka", "kafka", "uvicorn", "asyncio")
PREFIX = "tollway_enforcer_"


class Entry(NamedTuple):
    """A metric of the catalogue."""

    name: str
    """Without the prefix `tollway_enforcer_`."""
    kind: str
    """`counter` or `gauge`."""
    help: str
    labels: tuple[str, ...] = ()


BUDGET = ("budget", "org", "project", "team")
"""Scopes of users, keys, tags and models are added up: a metric has no label with as many values as there are users."""

CATALOGUE: tuple[Entry, ...] = (
    Entry("policy_version", "gauge", "Version of the policy in force; 0 without one."),
    Entry("unpriced_models", "gauge", "Models of the policy in force that have no price."),
    Entry("keys", "gauge", "Virtual keys.", ("state",)),
    Entry("blocks", "gauge", "Block entries in force."),
    Entry("alerts_sent", "gauge", "Alerts sent since the deployment began, as the markers tell."),
    Entry("audit_entries", "gauge", "Entries of the audit chain."),
    Entry("audit_broken", "gauge", "1 if a hash or link of the audit chain does not hold."),
    Entry("budget_amount_usd", "gauge", "Amounts of a budget's scopes in use, in the windows that hold now.", BUDGET),
    Entry("budget_settled_usd", "gauge", "Their settled spend.", BUDGET),
    Entry("budget_inflight_usd", "gauge", "What requests in flight have reserved of them.", BUDGET),
    Entry(
        "budget_overshoot_usd", "gauge", "What is used beyond them; 0 unless requests cost more than reserved.", BUDGET
    ),
    Entry("budget_used_ratio", "gauge", "Use of the scope that is nearest to its amount, or furthest beyond.", BUDGET),
    Entry("budget_scopes", "gauge", "Scopes of a budget that are in use.", BUDGET),
    Entry("snapshot_fence", "gauge", "Offset of `usage` below which everything is in the view.", ("partition",)),
    Entry("snapshot_staleness_seconds", "gauge", "Age of the newest snapshot read.", ("partition",)),
    Entry("snapshot_lag_records", "gauge", "Snapshots published and not read yet.", ("partition",)),
    Entry("rows", "gauge", "Rows in the view.", ("partition",)),
    Entry("members", "gauge", "Live ingress replicas.", ("partition",)),
    Entry("propagation_seconds", "gauge", "Broker time of a usage record to its rows read here.", ("quantile",)),
    Entry("metering_silence_seconds", "gauge", "Since a snapshot of a partition came in.", ("partition",)),
    Entry(
        "metering_behind_seconds",
        "gauge",
        "Since an end of `usage` was seen that is not published yet.",
        ("partition",),
    ),
    Entry("metering_behind_records", "gauge", "Records on `usage` that are not in what was published.", ("partition",)),
    Entry("metering_incident", "gauge", "1 while an incident is open.", ("kind",)),
    Entry("decisions_held", "gauge", "Decisions that can be looked up by id."),
    Entry("decisions", "counter", "Decisions read since this run was ready.", ("action", "rule", "org", "team")),
    Entry(
        "cost_avoided_usd",
        "counter",
        "What requests that were refused, downgraded or ended would have cost, by their estimates.",
        ("action", "rule", "org", "team"),
    ),
    Entry("batches", "gauge", "Batches that are known, by how they are charged.", ("charged",)),
    Entry("batch_lag_sightings", "gauge", "What replicas saw of batches and is not dealt with yet."),
    Entry("batch_requests", "counter", "Requests of batches that this run has charged.", ("charged",)),
    Entry(
        "batch_sightings",
        "counter",
        "What replicas saw of batches, by what came of it: `charged`, `noted`, `known` if it says nothing new, "
        "`no_batch` for a file of no known batch, "
        "`before` for batches of before our time, `malformed`.",
        ("outcome",),
    ),
    Entry("evaluations", "counter", "Times that thresholds and blocks were judged."),
    Entry("alerts_written", "counter", "Alerts written by this run.", ("type",)),
    Entry("block_changes", "counter", "Changes written to `blocks` by this run.", ("change",)),
    Entry("changes", "counter", "Control-plane changes made by this run.", ("action",)),
    Entry("refused_changes", "counter", "Requests for changes that were refused.", ("status",)),
    Entry("transport_faults", "counter", "Writes that the broker did not acknowledge.", ("what",)),
    Entry("undecodable", "counter", "Records that could not be read, and were skipped.", ("topic",)),
)


class Telemetry:
    """All metrics; gauges are read from `read` whenever they are asked for."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(read))
        self._counters = {
            entry.name: Counter(PREFIX + entry.name, entry.help, entry.labels, registry=self.registry)
            for entry in CATALOGUE
            if entry.kind == "counter"
        }

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter of the catalogue; KeyError if it has none of this name."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(by)

    def decided(self, decision: Decision) -> None:
        """Count a decision, and the cost that it avoided."""
        labels = decision.action, decision.rule, decision.attribution.org, decision.attribution.team
        self.count("decisions", *labels)
        if decision.action in AVOIDING and decision.cost_avoided_nanos > 0:
            self.count("cost_avoided_usd", *labels, by=decision.cost_avoided_nanos / 1e9)


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one family an entry of the catalogue."""
        families = {
            entry.name: GaugeMetricFamily(PREFIX + entry.name, entry.help, labels=entry.labels)
            for entry in CATALOGUE
            if entry.kind == "gauge"
        }
        for name, labels, value in self._read():
            families[name].add_metric(labels, value)
        yield from families.values()


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
