"""Asks the broker where the log begins and ends, over a connection of its own.

Faust's connection is mostly waiting in a fetch, and a question would wait behind it for more than a second.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.connection import KafkaConnection


class LogEnds:
    """The first and the next offset of the partitions of one topic, as of now."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._topic = topic
        self._options: dict[str, Any] = connection.client_options() | {"request_timeout_ms": 10_000}
        self._client: Any = None

    async def start(self) -> None:
        """Connect."""
        self._client = AIOKafkaConsumer(**self._options)
        await self._client.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.stop()

    async def ends(self, partitions: list[int]) -> dict[int, int]:
        """Return the offset that the next record of each partition will have."""
        return _by_partition(await self._client.end_offsets(self._of(partitions))) if partitions else {}

    async def beginnings(self, partitions: list[int]) -> dict[int, int]:
        """Return the offset of the oldest record of each partition."""
        return _by_partition(await self._client.beginning_offsets(self._of(partitions))) if partitions else {}

    def _of(self, partitions: list[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]


def _by_partition(offsets: dict[TopicPartition, int]) -> dict[int, int]:
    return {tp.partition: offset for tp, offset in offsets.items()}
