"""The one table of topics: names, partitions, cleanup, retention, key, content. Creation, docs and tests use it."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
COMPACTED_SEGMENT_BYTES = 16 << 20

DEFAULT_PARTITIONS = 4
"""Partitions of the sharded topics. Fixed for the life of a deployment: an organisation must not change its shard."""


@dataclass(frozen=True)
class Topic:
    """A topic as it is created and documented."""

    name: str
    sharded: bool
    """As many partitions as shards, chosen by organisation; else one."""
    compacted: bool
    retention_ms: int | None
    """None: kept for ever."""
    key: str
    content: str
    encoding: str
    """`msgpack` (with the versioned header) or `json`."""
    schema: str
    """The type in `schemas` that a value decodes to."""
    writer: str
    readers: str
    summary: str
    log_append_time: bool = False

    def config(self) -> dict[str, str]:
        """Return the topic's settings as Kafka names them."""
        config = {"cleanup.policy": "compact" if self.compacted else "delete"}
        if self.compacted:
            config["min.cleanable.dirty.ratio"] = "0.1"
            config["segment.ms"] = str(10 * MINUTE_MS)
            # Only closed segments are compacted, and a start reads all that is not.
            config["segment.bytes"] = str(COMPACTED_SEGMENT_BYTES)
        else:
            config["retention.ms"] = str(self.retention_ms if self.retention_ms is not None else -1)
            if self.retention_ms is not None and self.retention_ms < DAY_MS:
                config["segment.ms"] = str(max(MINUTE_MS, self.retention_ms // 3))
        if self.log_append_time:
            config["message.timestamp.type"] = "LogAppendTime"
        return config


USAGE = Topic(
    "usage", True, False, 7 * DAY_MS, "none; explicit partition by organisation", "usage records", "msgpack",
    "usage.LogRecord", "ingress, meter (evictions), enforcer (corrections of costs, usage of batches)",
    "meter, history",
    "One record per replica, tick and partition: in-flight gauges, acknowledged fence, many events.",
    log_append_time=True,
)  # fmt: skip
QUOTA_STATE = Topic(
    "quota.state", True, True, None, "slot of rows", "rows packed by slot", "msgpack", "meter's own", "meter", "meter",
    "The meter's changelog: rows with the fence they include, members, ledgers.",
)  # fmt: skip
QUOTA_UPDATES = Topic(
    "quota.updates", True, False, 30 * MINUTE_MS, "none", "snapshots", "msgpack", "quota.Snapshot", "meter",
    "ingress, enforcer",
    "Rows with what each replica may have in them, at a fence, a few milliseconds after they change.",
)  # fmt: skip
POLICY = Topic(
    "policy", False, True, None, "version, ten digits; increase/id; freeze/scope", "policy versions", "json",
    "policy.PolicyRecord", "enforcer", "ingress, enforcer",
    "Every applied policy document with its resolved prices; the highest version is in force. Beside them temporary "
    "increases and frozen scopes, each under a key of its own until a tombstone ends it.",
)  # fmt: skip
PRICES = Topic(
    "prices", False, True, None, "digest of the entry", "price entries", "json", "prices.PriceEntry", "enforcer",
    "enforcer",
    "The price book: what a model costs from when on, and since when we know. No key is ever written twice and none is "
    "deleted, so compaction takes nothing away.",
)  # fmt: skip
KEYS = Topic(
    "keys", False, True, None, "virtual key id", "virtual keys", "json", "keys.VirtualKey", "enforcer",
    "ingress, enforcer", "Virtual keys as hashes; a revoked key stays, with the time of its revocation.",
)  # fmt: skip
BLOCKS = Topic(
    "blocks", False, True, None, "rule/scope", "block entries", "json", "blocks.BlockEntry", "enforcer",
    "ingress, subscribers", "Scopes that may not go on; a tombstone lifts the entry.",
)  # fmt: skip
ALERTS = Topic(
    "alerts", False, False, 30 * DAY_MS, "budget/scope/window, or metering", "CloudEvents 1.0", "json", "alerts.Alert",
    "enforcer", "subscribers",
    "Thresholds crossed, once a window; metering silent, behind or well again; with ids to dedupe on.",
)  # fmt: skip
ALERTS_SENT = Topic(
    "alerts.sent", False, True, None, "alert id", "markers", "json", "int (unix ms)", "enforcer", "enforcer",
    "Which alerts have been sent; written in one transaction with the alert.",
)  # fmt: skip
DECISIONS = Topic(
    "decisions", True, False, 7 * DAY_MS, "none; explicit partition by organisation", "decision records", "msgpack",
    "list[decisions.Decision]", "ingress", "history, enforcer",
    "Every refusal and every other rung: row, counter, limit, right, policy and price version, fence, cost avoided.",
)  # fmt: skip
AUDIT = Topic(
    "audit", False, False, None, "number", "control-plane changes", "json", "audit.AuditEntry", "enforcer",
    "auditors", "Who changed what, hash-chained.",
)  # fmt: skip
HISTORY_AUDITS = Topic(
    "history.audits", False, True, None, "partition", "audits", "json", "audits.Audit", "history", "enforcer",
    "The history's sums by run, hour and day at a position, and where its own ledgers differ; the newest counts.",
)  # fmt: skip
BATCHES = Topic(
    "batches", False, False, 60 * DAY_MS, "provider/batch, or provider/file", "sightings of batches", "msgpack",
    "batches.Sighting", "ingress", "enforcer",
    "What passed through a replica of a provider's batches: creation, state, lines of results. The same may be told "
    "often and is charged once.",
)  # fmt: skip
BATCHES_CHARGED = Topic(
    "batches.charged", False, True, None, "step/position/epoch/records", "steps of charging", "msgpack", "batches.Step",
    "enforcer", "enforcer",
    "Which batches and which of their lines have been charged; a step is written before its usage is and again after.",
)  # fmt: skip
USAGE_DLQ = Topic(
    "usage.dlq", True, False, 30 * DAY_MS, "none; the source's partition", "dead letters", "json",
    "deadletters.DeadLetter", "meter", "operators", "Records that could not be decoded, with reason and origin.",
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    USAGE, QUOTA_STATE, QUOTA_UPDATES, POLICY, PRICES, KEYS, BLOCKS, ALERTS, ALERTS_SENT, DECISIONS, AUDIT,
    HISTORY_AUDITS, BATCHES, BATCHES_CHARGED, USAGE_DLQ,
)  # fmt: skip


def topic_name(topic: Topic, prefix: str = "") -> str:
    """Return the name of `topic` in a deployment whose topics all begin with `prefix`."""
    return prefix + topic.name
