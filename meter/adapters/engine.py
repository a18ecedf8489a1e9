"""The Faust application: group membership, assignment, the changelog and its recovery. Folds nothing itself."""

from __future__ import annotations

from typing import Any

import faust
from aiokafka import TopicPartition

from meter.settings import MeterSettings
from schemas.connection import KafkaConnection
from schemas.topics import QUOTA_STATE, USAGE, topic_name

SESSION_S = 10.0
FETCH_BYTES = 8 << 20


class NullMonitor(faust.Monitor):
    """Faust's own monitor without its work for every record."""

    def on_message_in(self, tp: Any, offset: int, message: Any) -> None:
        """Do nothing."""

    def on_message_out(self, tp: Any, offset: int, message: Any) -> None:
        """Do nothing."""

    def on_stream_event_in(self, tp: Any, offset: int, stream: Any, event: Any) -> None:
        """Do nothing."""

    def on_stream_event_out(self, tp: Any, offset: int, stream: Any, event: Any, state: Any = None) -> None:
        """Do nothing."""

    def track_tp_end_offset(self, tp: Any, offset: int) -> None:
        """Do nothing."""


def credentials(connection: KafkaConnection) -> Any:
    """Return the connection's security as Faust takes it; None for a plain connection."""
    context = connection.ssl_context()
    if connection.sasl_mechanism and connection.sasl_password is not None:
        return faust.SASLCredentials(
            username=connection.sasl_username,
            password=connection.sasl_password.get_secret_value(),
            mechanism=connection.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


class Engine:
    """A Faust app with one source topic and one table whose changelog is `quota.state`.

    The table is never written through Faust: a write would be one record a key and event. Its changelog is written by
    an outlet, and Faust brings it back after every assignment.
    """

    def __init__(self, settings: MeterSettings) -> None:
        connection = settings.kafka
        self.usage = topic_name(USAGE, connection.topic_prefix)
        self.state = topic_name(QUOTA_STATE, connection.topic_prefix)
        self.app: Any = faust.App(
            settings.group,
            broker=[f"kafka://{address.strip()}" for address in connection.bootstrap.split(",")],
            broker_credentials=credentials(connection),
            consumer_group_instance_id=settings.group_instance,
            store="memory://",
            processing_guarantee="at_least_once",
            monitor=NullMonitor(),
            web_enabled=False,
            autodiscover=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            topic_partitions=connection.partitions,
            table_standby_replicas=0,
            cython_optimizations=True,
            stream_buffer_maxsize=256,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
            broker_commit_interval=1.0,
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=3.0,
            broker_request_timeout=30.0,
            broker_max_poll_records=500,
            consumer_max_fetch_size=FETCH_BYTES,
            consumer_auto_offset_reset="earliest",
            worker_redirect_stdouts=False,
        )
        raw: dict[str, Any] = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
            "partitions": connection.partitions,
        }
        self.source: Any = self.app.topic(self.usage, **raw)
        # As Faust makes its own changelogs, but under the name that the table of topics gives it.
        changelog = self.app.topic(
            self.state, **raw, acks=False, internal=True, compacting=True, deleting=False, allow_empty=True,
            maxsize=131_072,
        )  # fmt: skip
        self.table: Any = self.app.Table(
            "quota", key_type=bytes, value_type=bytes, partitions=connection.partitions, changelog_topic=changelog
        )

    def assigned(self) -> list[int]:
        """Return the partitions of `usage` that are this worker's."""
        return sorted(tp.partition for tp in self.app.consumer.assignment() if tp.topic == self.usage)

    def records(self) -> dict[bytes, bytes]:
        """Return what recovery read of the changelog: the newest value of every key."""
        return dict(self.table.data.data)

    async def ends(self, partitions: list[int]) -> dict[int, int]:
        """Ask the broker where the log ends."""
        return self._by_partition(await self.app.consumer.highwaters(*self._tps(partitions)))

    async def beginnings(self, partitions: list[int]) -> dict[int, int]:
        """Ask the broker where the log begins."""
        return self._by_partition(await self.app.consumer.earliest_offsets(*self._tps(partitions)))

    def _tps(self, partitions: list[int]) -> list[TopicPartition]:
        return [TopicPartition(self.usage, partition) for partition in partitions]

    def _by_partition(self, offsets: dict[TopicPartition, int | None]) -> dict[int, int]:
        return {tp.partition: offset or 0 for tp, offset in offsets.items()}
