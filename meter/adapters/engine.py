"""The Faust application: group membership, assignment, the changelog and its recovery. Folds nothing itself.

Where a partition is read from is the fold's to say, not the group's: its fence. Faust seeks to committed offsets when
an assignment is complete, and not at all where none was committed yet; and what it has fetched until its flow control
resumes a moment later is dropped from its queues. So seeks go to the fences here, and `seek` is there for whoever
finds records missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import faust
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from meter.settings import MeterSettings
from schemas.connection import KafkaConnection, fetch_fault
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


class StatelessApp(faust.App):
    """An app that keeps nothing in files: its state is in Kafka."""

    def _create_directories(self) -> None:
        """Make none where the process was started."""


class FencedConsumer(Consumer):
    """Faust's consumer, but reading goes on from the fences once there are any."""

    fences: ClassVar[Callable[[], dict[int, int]]]
    source: ClassVar[str]

    async def seek_to_committed(self) -> Mapping[Any, int]:
        """Seek the partitions of the source to their fences; before there are any, to what is committed."""
        fences = {TP(self.source, number): fence for number, fence in type(self).fences().items()}
        if not fences:
            return await super().seek_to_committed()
        await self.seek_wait(fences)
        return fences


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
        self.app: Any = StatelessApp(
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

    @property
    def fault(self) -> BaseException | None:
        """Why the app reads nothing any more; None if it does."""
        if self.app.crashed:
            return self.app.crash_reason or RuntimeError("Faust has crashed")
        thread = getattr(self.app.consumer, "_thread", None)
        reader = None if thread is None else thread._consumer
        return None if reader is None else fetch_fault(reader)

    def records(self) -> dict[bytes, bytes]:
        """Return what recovery read of the changelog: the newest value of every key."""
        return dict(self.table.data.data)

    async def start(self, fences: Callable[[], dict[int, int]]) -> None:
        """Join the group on the running loop; `fences` are those of the partitions that have been taken up."""
        self.app.loop = asyncio.get_running_loop()
        self.app.transport.Consumer = type(
            "FencedConsumer", (FencedConsumer,), {"fences": staticmethod(fences), "source": self.usage}
        )
        self.app.finalize()
        await self.app.maybe_start()

    async def seek(self, partition: int, offset: int) -> None:
        """Read a partition from `offset` on."""
        await self.app.consumer.seek_wait({TP(self.usage, partition): offset})
