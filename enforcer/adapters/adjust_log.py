"""Writes records to `usage`, by a producer that lives as long as one posting, or as the charging of batches goes well.

Adapts aiokafka. On return of `write` all replicas in sync have the records, each once and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.connection import KafkaConnection
from schemas.errors import TransportError
from schemas.topics import USAGE, topic_name

ACK_DEADLINE_S = 30.0
STOP_DEADLINE_S = 5.0


class AdjustLog:
    """Producer of corrections, and of usage of batches."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._topic = topic_name(USAGE, connection.topic_prefix)
        self._producer: AIOKafkaProducer | None = None
        self.partitions = [TopicPartition(self._topic, number) for number in range(connection.partitions)]
        """Of the topic."""

    async def start(self) -> None:
        """Connect; TransportError if there is no broker."""
        await self.stop()
        producer = AIOKafkaProducer(
            **self._connection.client_options(), acks="all", enable_idempotence=True, linger_ms=0
        )
        try:
            await producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            with contextlib.suppress(KafkaError):
                await producer.stop()
            raise TransportError(f"broker {self._connection.bootstrap}: cannot write: {_words(error)}") from error
        self._producer = producer

    async def stop(self) -> None:
        """Disconnect; what is on its way is waited for."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await producer.stop()

    async def write(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Write records, (partition, value) each, in order; return how many, once they are acknowledged.

        Raises:
            TransportError: not acknowledged in time; each of them may be written all the same.
        """
        producer = self._producer
        if producer is None:
            raise TransportError(f"broker {self._connection.bootstrap} is not connected")
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                sending = [
                    await producer.send(self._topic, value=value, partition=partition) for partition, value in records
                ]
                await asyncio.gather(*sending)
        except (KafkaError, TimeoutError) as error:
            raise TransportError(
                f"broker {self._connection.bootstrap} has not acknowledged the records within "
                f"{ACK_DEADLINE_S:g} s ({_words(error)})"
            ) from error
        return len(sending)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
