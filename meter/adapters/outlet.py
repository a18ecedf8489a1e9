"""The outlet on Kafka: one idempotent producer, so that records arrive once and in order, however often it retries."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.connection import KafkaConnection

MAX_RECORD_BYTES = 4 << 20


class KafkaOutlet:
    """A producer of its own for each kind of traffic: a broker takes one request at a time of each producer."""

    def __init__(self, connection: KafkaConnection, client_id: str, compression: str | None = None) -> None:
        self._options: dict[str, Any] = {
            **connection.client_options(),
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "compression_type": compression,
            "max_batch_size": 1 << 20,
            "max_request_size": MAX_RECORD_BYTES,
        }
        self._producer: Any = None

    async def start(self) -> None:
        """Connect."""
        self._producer = AIOKafkaProducer(**self._options)
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> asyncio.Future[object]:
        """Hand over a record, after all others to its partition; the future ends when the broker has it."""
        future: asyncio.Future[object] = await self._producer.send(topic, value=value, key=key, partition=partition)
        return future
