"""Writes what the control plane decides: single records, and alerts with their markers in one transaction.

Adapts two aiokafka producers. The transactional one also fences: a second enforcer of the same deployment takes the
right to send alerts away from the first, whose next transaction then fails for good.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from schemas.alerts import Alert
from schemas.codec import encode_json
from schemas.connection import KafkaConnection
from schemas.errors import TransportError
from schemas.topics import ALERTS, ALERTS_SENT, Topic, topic_name

ACK_DEADLINE_S = 10.0
"""A record that the broker has not acknowledged by then is reported as not written."""
TRANSACTION_TIMEOUT_MS = 30_000
STOP_DEADLINE_S = 5.0
CLOUDEVENTS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
Goals = dict[TopicPartition, int]


class Fenced(Exception):
    """Another enforcer has taken over."""


class Log:
    """Producer of the control topics, all of which have one partition."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._prefix = connection.topic_prefix
        self._bootstrap = connection.bootstrap
        self._options = connection.client_options()
        self._plain: AIOKafkaProducer | None = None
        self._transactional: AIOKafkaProducer | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect; a transaction that an earlier run left open is aborted. TransportError if there is no broker."""
        self._plain = AIOKafkaProducer(**self._options, acks="all", enable_idempotence=True, linger_ms=0)
        self._transactional = self._new_transactional()
        try:
            await self._transactional.start()
            await self._plain.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise TransportError(
                f"broker {self._bootstrap}: cannot write: {str(error) or type(error).__name__}"
            ) from error

    async def stop(self) -> None:
        """Send what is left and disconnect."""
        producers = [producer for producer in (self._plain, self._transactional) if producer is not None]
        self._plain = self._transactional = None
        for producer in producers:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await producer.stop()
        for task in self._retiring:
            task.cancel()

    async def renew(self) -> None:
        """Begin anew after a transaction that failed: on return it is certain whether it was committed.

        Raises:
            TransportError: the broker does not answer.
        """
        old, self._transactional = self._transactional, self._new_transactional()
        if old is not None:  # it may wait long for a broker that is away
            task = asyncio.create_task(_retire(old), name="retire-producer")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        try:
            await self._transactional.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise TransportError(
                f"broker {self._bootstrap}: cannot write: {str(error) or type(error).__name__}"
            ) from error

    def _started(self, producer: AIOKafkaProducer | None) -> AIOKafkaProducer:
        if producer is None:
            raise TransportError(f"broker {self._bootstrap} is not connected")
        return producer

    def _new_transactional(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._options, acks="all", linger_ms=0, transactional_id=f"{self._prefix}enforcer",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )  # fmt: skip

    async def write(self, records: Sequence[tuple[Topic, str, bytes | None]]) -> Goals:
        """Write records in order and return the offsets behind them, once all replicas in sync have them.

        Raises:
            TransportError: not acknowledged in time; a record may be written all the same.
        """
        goals: Goals = {}
        producer = self._started(self._plain)
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                for topic, key, value in records:
                    sent = await producer.send_and_wait(
                        topic_name(topic, self._prefix), value=value, key=key.encode(), partition=0
                    )
                    goals[TopicPartition(sent.topic, 0)] = sent.offset + 1
        except (KafkaError, TimeoutError) as error:
            raise TransportError(
                f"broker {self._bootstrap} has not acknowledged the change within {ACK_DEADLINE_S:g} s "
                f"({str(error) or type(error).__name__}); it may still take effect"
            ) from error
        return goals

    async def write_alerts(self, alerts: Sequence[Alert], now_ms: int) -> Goals:
        """Write alerts and the markers that they were sent in one transaction; return the offsets behind them.

        Raises:
            TransportError: it is not known whether the transaction was committed; `renew`, then read the markers.
            Fenced: another enforcer has taken over.
        """
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                return await self._transaction(alerts, now_ms)
        except ProducerFenced as error:
            raise Fenced("another enforcer of this deployment has started; this one ends") from error
        except (KafkaError, TimeoutError) as error:
            raise TransportError(f"broker {self._bootstrap}: alerts: {str(error) or type(error).__name__}") from error

    async def _transaction(self, alerts: Sequence[Alert], now_ms: int) -> Goals:
        producer, sending = self._started(self._transactional), []
        await producer.begin_transaction()
        for alert in alerts:
            for topic, key, value, headers in (
                (ALERTS, alert.partitionkey, encode_json(alert), CLOUDEVENTS),
                (ALERTS_SENT, alert.id, encode_json(now_ms), None),
            ):
                name = topic_name(topic, self._prefix)
                sending.append(await producer.send(name, value=value, key=key.encode(), partition=0, headers=headers))
        sent = await asyncio.gather(*sending)
        await producer.commit_transaction()
        return {TopicPartition(record.topic, 0): record.offset + 1 for record in sent}


async def _retire(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError):
        await producer.stop()
