"""Everything that the API reads, in one place: the folded topics, how current they are, and samples for metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from enforcer.adapters.tail import Tail
from enforcer.core import reports
from enforcer.core.control import ControlState
from enforcer.core.decisions import DecisionTail, Wanted, describe
from enforcer.core.keys import works
from enforcer.core.metering import Metering
from enforcer.core.oddities import Oddities
from enforcer.core.quota import QuotaView
from enforcer.core.reports import Sample
from schemas import published
from schemas.codec import decode_decisions, decode_snapshot
from schemas.decisions import Decision
from schemas.errors import DecodeError, InvalidEvent
from schemas.topics import DECISIONS, QUOTA_UPDATES, Topic

PROPAGATION_SAMPLES = 1_000

_log = structlog.get_logger("enforcer")


class Views:
    """The folds of the topics that the enforcer reads, fed by its tails."""

    def __init__(self, partitions: int, clock: Callable[[], int], metering: Metering) -> None:
        self.control = ControlState()
        self.metering = metering
        self.quota = QuotaView(partitions)
        self.decisions = DecisionTail()
        self.oddities = Oddities()
        self.propagation_ms: deque[int] = deque(maxlen=PROPAGATION_SAMPLES)
        self.changed: Callable[[], None] = lambda: None
        """Called when rows or the policy have changed."""
        self.undecodable: Callable[[str], None] = lambda topic: None
        """Called with the topic of a record that was skipped."""
        self.decided: Callable[[Decision], None] = lambda decision: None
        """Called with each decision that is made from now on."""
        self._clock = clock

    def on_control(self, topics: dict[str, Topic]) -> Callable[[Any, bool], None]:
        """Return the handler of the control topics, by name. A record that is none of ours ends the process."""

        def handle(record: Any, live: bool) -> None:
            try:
                self.control.apply(topics[record.topic], record.key, record.value)
            except DecodeError as error:
                raise DecodeError(f"{record.topic}, offset {record.offset}: {error}") from error
            if live:
                self.changed()

        return handle

    def on_snapshot(self, record: Any, live: bool) -> None:
        """Take in a record of `quota.updates`."""
        try:
            snapshot = decode_snapshot(record.value or b"")
            changed = self.quota.merge(snapshot, now_ms := self._clock())
        except (DecodeError, InvalidEvent) as error:
            self._skip(QUOTA_UPDATES, record, error)
            return
        if live:
            self.metering.heard(snapshot.partition, snapshot.fence, now_ms)
        if changed and live:
            if not snapshot.full and snapshot.rows:
                self.propagation_ms.append(max(0, now_ms - snapshot.log_ms))
            self.changed()

    def on_decisions(self, record: Any, live: bool) -> None:
        """Take in a record of `decisions`."""
        try:
            for decision in decode_decisions(record.value or b""):
                if not self.decisions.add(decision):
                    continue
                self.oddities.note(decision)
                if live:
                    self.decided(decision)
        except DecodeError as error:
            self._skip(DECISIONS, record, error)

    def _skip(self, topic: Topic, record: Any, error: Exception) -> None:
        self.undecodable(topic.name)
        _log.error("skipped a record", topic=record.topic, partition=record.partition, offset=record.offset,
                   error=str(error))  # fmt: skip


class Services:
    """Answers to reading requests, and the samples of all gauges."""

    def __init__(self, views: Views, control: Tail, quota: Tail, decisions: Tail, clock: Callable[[], int]) -> None:
        self.views, self.clock = views, clock
        self._tails = {"control topics": control, "quota.updates": quota}
        self._quota, self._decisions = quota, decisions
        self.recovered = False
        """Whether what a crash left half done has been completed."""

    def waiting(self) -> list[str]:
        """Return what is missing until the enforcer can do its work."""
        lacks = [f"{name} read to the end" for name, tail in self._tails.items() if not tail.caught_up.is_set()]
        return lacks if lacks or self.recovered else ["changes of the last run completed"]

    @property
    def decisions_complete(self) -> bool:
        """Whether all retained decisions, up to the bound, have been read."""
        return self._decisions.caught_up.is_set()

    def usage(self, org: str | None, rule: str | None) -> list[dict[str, Any]]:
        """Return the rows of the current windows."""
        return reports.usage(self.views.quota, self.views.control.policy, org, rule, self.clock() // 1000)

    def budgets(self) -> list[dict[str, Any]]:
        """Return every scope of every budget in its current window."""
        now_ms, view = self.clock(), self.views.quota
        propagation = reports.quantile(self.views.propagation_ms, 99)
        found = reports.budgets(view, self.views.control.policy, now_ms // 1000, propagation)
        for budget in found:
            budget["staleness_ms"] = reports.staleness_ms(view.shards[budget["partition"]], now_ms)
        return found

    def limits(self) -> list[dict[str, Any]]:
        """Return every counter of every limit, its scopes added up."""
        return reports.limits(self.views.quota, self.views.control.policy, self.clock() // 1000)

    def decisions(self, wanted: Wanted) -> list[dict[str, Any]]:
        """Return decisions, the newest first."""
        return [describe(decision) for decision in self.views.decisions.search(wanted)]

    def status(self) -> dict[str, Any]:
        """Return versions, counts, staleness and lag."""
        control, now_ms = self.views.control, self.clock()
        current = control.current
        return {
            "ready": not self.waiting(),
            "waiting": self.waiting(),
            "policy": None if current is None else {
                "version": current.version, "sha256": current.sha256, "applied_ms": current.applied_ms,
                "applied_by": current.applied_by, "unpriced": control.unpriced,
            },
            "keys": self._key_counts(now_ms),
            "partitions": self._partitions(now_ms),
            "propagation_ms": {
                "p50": reports.quantile(self.views.propagation_ms, 50),
                "p99": reports.quantile(self.views.propagation_ms, 99),
                "samples": len(self.views.propagation_ms),
            },
            "metering": reports.metering(self.views.metering, control.metering, now_ms),
            "ledgers": reports.ledgers(control.drift),
            "alerts": {"sent": len(control.sent)},
            "blocks": len(control.blocks),
            "audit": {
                "entries": control.audit.number, "hash": control.audit.hash, "broken_at": control.audit.broken_at,
            },
            "decisions": {"held": len(self.views.decisions), "complete": self.decisions_complete},
            "published": published_numbers(),
        }  # fmt: skip

    def samples(self) -> Iterator[Sample]:
        """Yield every gauge of the catalogue."""
        control, now_ms = self.views.control, self.clock()
        yield "policy_version", (), control.version
        yield "unpriced_models", (), len(control.unpriced)
        for state, count in self._key_counts(now_ms).items():
            yield "keys", (state,), count
        yield "blocks", (), len(control.blocks)
        yield "alerts_sent", (), len(control.sent)
        yield "audit_entries", (), control.audit.number
        yield "audit_broken", (), int(control.audit.broken_at is not None)
        yield "decisions_held", (), len(self.views.decisions)
        yield from reports.budget_samples(self.budgets())
        yield from reports.metering_samples(self.views.metering, control.metering, now_ms)
        yield "metering_incident", ("drift",), int(reports.ledgers(control.drift)["state"] == "drift")
        for shard in self._partitions(now_ms):
            yield from _shard_samples(shard)
        for percent in (50, 99):
            value = reports.quantile(self.views.propagation_ms, percent)
            if value is not None:
                yield "propagation_seconds", (f"0.{percent}",), value / 1000

    def _partitions(self, now_ms: int) -> list[dict[str, Any]]:
        lags = {partition.partition: self._quota.lag(partition) for partition in self._quota.partitions}
        return [reports.shard_status(shard, lags.get(shard.partition), now_ms) for shard in self.views.quota.shards]

    def _key_counts(self, now_ms: int) -> dict[str, int]:
        keys = self.views.control.keys.values()
        working = sum(works(key, now_ms) for key in keys)
        gone = sum(key.revoked_ms is not None for key in keys)
        return {"working": working, "revoked": gone, "expired": len(keys) - working - gone}


def _shard_samples(shard: dict[str, Any]) -> Iterator[Sample]:
    labels = (str(shard["partition"]),)
    yield "snapshot_fence", labels, shard["fence"]
    yield "rows", labels, shard["rows"]
    yield "members", labels, len(shard["members"])
    if shard["staleness_ms"] is not None:
        yield "snapshot_staleness_seconds", labels, shard["staleness_ms"] / 1000
    if shard["lag"] is not None:
        yield "snapshot_lag_records", labels, shard["lag"]


def published_numbers() -> dict[str, int | str]:
    """Return the numbers that Tollway publishes, by name."""
    return {name.lower(): value for name, value in vars(published).items() if name.isupper()}


def plain(value: Any) -> Any:
    """Return a struct as plain values for JSON."""
    return msgspec.to_builtins(value)
