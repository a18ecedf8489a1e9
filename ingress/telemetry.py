"""Logs and metrics of the ingress. The catalogue below is what `/metrics` serves and what the docs list.

The hot path counts into plain integers (`core.stats`); they become metrics when somebody asks.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ingress.core.exchange import Exchange
from ingress.core.stats import DURATION_BOUNDS_MS, Spread, Stats
from ingress.settings import RequestLog
from schemas.logs import OncePerInterval

NOISY = ("aiokafka", "kafka", "uvicorn", "uvicorn.error", "asyncio")
PREFIX = "tollway_ingress_"


class Described(NamedTuple):
    """One metric of the catalogue."""

    name: str
    """Without the prefix, and without the `_total` that counters get."""
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


REQUESTS = Described(
    "requests", "counter", ("operation", "status", "error"), "Attempts that ended, by how and with which reason code."
)
DURATION = Described("duration_seconds", "histogram", ("operation",), "From admission to the end of an exchange.")
FIRST_BYTE = Described("first_byte_seconds", "histogram", ("operation",), "From admission to the provider's answer.")
SOURCES = Described("usage", "counter", ("source",), "Exchanges that were sent, by where their token counts are from.")
ODD_USAGE = Described(
    "odd_usage", "counter", ("flag",), "Answers whose provider reported usage that cannot be true, by what was odd."
)
TOKENS = Described("tokens", "counter", (), "Tokens charged.")
IN_FLIGHT = Described("in_flight", "gauge", (), "Exchanges that have begun and not ended.")
DRAINING = Described("draining", "gauge", (), "Answers that are read on though their clients have hung up.")
DRAINS = Described(
    "drains", "counter", ("outcome",), "Answers whose clients hung up, by what came of reading on: `whole`; `cut` for "
    "time, size or room; `failed` at the provider; `refused` because too many were read on.",
)  # fmt: skip
BUGS = Described("bugs", "counter", (), "Requests that met a bug of Tollway's; each is logged with its traceback.")
READY = Described("ready", "gauge", (), "1 while requests are admitted.")
POLICY_VERSION = Described("policy_version", "gauge", (), "Version of the policy in force.")
EPOCH = Described("epoch", "gauge", (), "Number of this replica's run.")
STALENESS = Described("staleness_seconds", "gauge", ("partition",), "Age of the newest snapshot.")
PROPAGATION = Described(
    "propagation_seconds", "histogram", ("record",), "The whole loop: from the cut of a record to the snapshot that "
    "includes it, installed here. `usage` is published at once, `heartbeat` when it is time.",
)  # fmt: skip
UNDER_WAY = Described(
    "propagation_under_way_seconds", "gauge", (), "Age of the oldest record that has not come back through the loop."
)
BOUND = Described(
    "overshoot_bound", "gauge", ("rule", "measure"), "What requests in flight here may use beyond their reservations "
    "at worst: tokens, or USD for `cost`.",
)  # fmt: skip
ROWS = Described("rows", "gauge", (), "Rows in use.")
WAL_BYTES = Described("wal_bytes", "gauge", (), "Bytes of the write-ahead log on disk.")
WAL_MAX = Described("wal_max_bytes", "gauge", (), "How large the write-ahead log may become.")
WAL_AGE = Described(
    "wal_oldest_seconds", "gauge", (), "How long the oldest event may have been waiting for the broker."
)
WAL_ALARM = Described("wal_alarm", "gauge", (), "1 while the write-ahead log is near its bound, or old.")
WAL_FULL = Described("wal_full", "gauge", (), "1 while nothing is admitted because the write-ahead log is full.")
WAL_FOLDED = Described("wal_folded_events", "counter", (), "Events that became sums because the log was nearly full.")
WAL_DROPPED = Described(
    "wal_dropped_decisions", "counter", (), "Decisions that were given up because the log was nearly full."
)
UNSYNCED = Described(
    "wal_unsynced_bytes", "gauge", (), "Bytes of the write-ahead log that a loss of power may take; all of them where "
    "nothing is synced.",
)  # fmt: skip
FSYNC = Described("wal_fsync_seconds", "histogram", (), "How long syncs of the write-ahead log took.")
UNSENT = Described("unsent_events", "gauge", (), "Events on the write-ahead log that the broker has not acknowledged.")
CONNECTIONS = Described("provider_connections", "gauge", ("state",), "Connections to providers.")
WAITING = Described("provider_waiting", "gauge", (), "Requests that wait for a connection to a provider.")
OPENED = Described("provider_connections_opened", "counter", (), "Connections to providers that were opened.")
REUSED = Described("provider_connections_reused", "counter", (), "Requests sent on a connection that was open.")
ACTIONS = Described(
    "rule_actions", "counter", ("action",), "What rules did to requests at the cap, or said of them, by action."
)
HELD = Described("requests_waiting", "gauge", (), "Requests that wait at the cap: for room, their turn or their time.")
WAITED = Described("waited_seconds", "histogram", ("for",), "How long requests waited at the cap, by what for.")
SIGHTINGS = Described(
    "batch_sightings", "counter", ("outcome",), "What answers said of batches, by what came of telling it on "
    "`batches`: `recorded`, `known` for what was recorded just before, `late` (and perhaps `recorded` afterwards), "
    "`refused` for want of memory, `failed`.",
)  # fmt: skip
BATCH_LINES = Described("batch_lines", "counter", (), "Lines of results that were read and told of.")
RETRIED = Described("provider_stale_connections", "counter", (), "Requests sent again because the first was stale.")

CATALOGUE = (
    REQUESTS, DURATION, FIRST_BYTE, SOURCES, ODD_USAGE, TOKENS, IN_FLIGHT, BUGS, READY, POLICY_VERSION, EPOCH,
    STALENESS, ROWS, WAL_BYTES, UNSENT, CONNECTIONS, WAITING, OPENED, REUSED, RETRIED, ACTIONS, HELD, WAITED,
    PROPAGATION, UNDER_WAY, BOUND, DRAINING, DRAINS, WAL_MAX, WAL_AGE, WAL_ALARM, WAL_FULL, WAL_FOLDED, WAL_DROPPED,
    UNSYNCED, FSYNC, SIGHTINGS, BATCH_LINES,
)  # fmt: skip

Reading = tuple[Described, tuple[str, ...], float]
"""A metric, its label values, its value."""


def registry(stats: Stats, readings: Callable[[], Iterable[Reading]]) -> CollectorRegistry:
    """Return a registry with the whole catalogue; `readings` are those that `stats` does not hold."""
    found = CollectorRegistry()
    found.register(_Ingress(stats, readings))
    return found


class _Ingress(Collector):
    def __init__(self, stats: Stats, readings: Callable[[], Iterable[Reading]]) -> None:
        self._stats = stats
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """Yield one family a metric of the catalogue."""
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for described, labels, value in (*self._counted(), *self._readings()):
            values.setdefault(described.name, []).append((labels, value))
        for described in CATALOGUE:
            if described.kind != "histogram":
                kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
                family = kind(PREFIX + described.name, described.help, labels=described.labels)
                for labels, value in values.get(described.name, ()):
                    family.add_metric(labels, value)
                yield family
        yield _histogram(DURATION, self._stats.durations)
        yield _histogram(FIRST_BYTE, self._stats.first_bytes)
        yield _histogram(WAITED, self._stats.waits)
        yield _histogram(PROPAGATION, self._stats.laps)
        yield self._syncs()

    def _syncs(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(PREFIX + FSYNC.name, FSYNC.help)
        syncs = self._stats.syncs
        bounds = [*(str(bound / 1000) for bound in syncs.bounds_ms), "+Inf"]
        totals = map(float, itertools.accumulate(syncs.buckets))
        family.add_metric([], list(zip(bounds, totals, strict=True)), syncs.sum_ms / 1000)
        return family

    def _counted(self) -> Iterator[Reading]:
        stats = self._stats
        yield from ((REQUESTS, key, count) for key, count in stats.ended.items())
        yield from ((SOURCES, (source,), count) for source, count in stats.usage_sources.items())
        yield TOKENS, (), stats.tokens
        yield from ((ODD_USAGE, (flag,), count) for flag, count in stats.odd.items())
        yield IN_FLIGHT, (), stats.in_flight
        yield BUGS, (), stats.bugs
        yield DRAINING, (), stats.draining
        yield from ((DRAINS, (outcome,), count) for outcome, count in stats.drains.items())
        yield from ((ACTIONS, (action,), count) for action, count in stats.actions.items())
        yield HELD, (), stats.waiting
        yield from ((SIGHTINGS, (outcome,), count) for outcome, count in stats.sightings.items())
        yield BATCH_LINES, (), stats.batch_lines


def _histogram(described: Described, spreads: Mapping[str, Spread]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + described.name, described.help, labels=described.labels)
    bounds = [*(str(bound / 1000) for bound in DURATION_BOUNDS_MS), "+Inf"]
    for operation, spread in spreads.items():
        total, buckets = 0, []
        for bound, count in zip(bounds, spread.buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric([operation], buckets, spread.sum_ms / 1000)
    return family


def configure_logging(level: str) -> None:
    """Log to standard error: for people on a terminal, else one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain tracebacks in both cases: pretty ones would print local variables, and with them secrets and prompts.
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    if level != "debug":
        handler.addFilter(OncePerInterval())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderers,
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


def request_logger(which: RequestLog) -> Callable[[Exchange], None] | None:
    """Return what writes one line a request at its end, or None where nobody wants one."""
    if which == "off":
        return None
    wanted = {"errors": {"failed"}, "refusals": {"failed", "refused"}, "all": None}[which]
    log = structlog.get_logger("ingress.request")

    def write(exchange: Exchange) -> None:
        record = exchange.record
        event = record.event
        if event is None or (wanted is not None and event.status not in wanted):
            return
        key = record.key
        log.info(
            "request",
            request_id=exchange.request_id,
            org="" if key is None else key.org,
            key=key.id if key is not None else "",
            operation=record.operation,
            model=record.model_requested[:128],
            status=event.status,
            error=event.error,
            http_status=event.http_status,
            streamed=record.streamed,
            tokens=event.charge_tokens,
            usage_source=event.usage_source,
            cost_nanos=event.cost_nanos,
            duration_ms=event.duration_ms,
            ttft_ms=record.ttft_ms,
        )

    return write
