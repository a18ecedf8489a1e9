"""Reads what replicas saw of batches, writes what is charged, and remembers it: `batches`, `usage`, `batches.charged`.

Adapts aiokafka. Steps are written in transactions of one name, each time anew: who starts ends the right of whoever had
it before, whose next step then fails for good. So of several enforcers one charges, and none charges what it did not
note first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from enforcer.adapters.adjust_log import AdjustLog
from enforcer.adapters.log import ACK_DEADLINE_S, STOP_DEADLINE_S, TRANSACTION_TIMEOUT_MS, Fenced
from schemas.connection import KafkaConnection, fetch_fault
from schemas.errors import TransportError
from schemas.topics import BATCHES, BATCHES_CHARGED, topic_name

POLL_MS = 500
MAX_POLL_RECORDS = 200
FETCH_BYTES = 4 * 1024 * 1024
TOPICS_DEADLINE_S = 30.0


class Placed(NamedTuple):
    """A record and where it is."""

    offset: int
    value: bytes


class BatchLog:
    """The three topics. After a TransportError: `stop`, `start`, read the steps again."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._usage = AdjustLog(connection)
        self._seen = TopicPartition(topic_name(BATCHES, connection.topic_prefix), 0)
        self._charged = TopicPartition(topic_name(BATCHES_CHARGED, connection.topic_prefix), 0)
        self._reader: AIOKafkaConsumer | None = None
        self._writer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect, and take the right to write steps. TransportError if there is no broker, or a topic is missing."""
        self._reader = self._new_reader()
        self._writer = AIOKafkaProducer(
            **self._connection.client_options(), acks="all", linger_ms=0,
            transactional_id=f"{self._connection.topic_prefix}enforcer-batches",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )  # fmt: skip
        try:
            self._reader.assign([self._seen])
            await self._reader.start()
            await self._until_topics(self._reader)
            await self._writer.start()
            await self._usage.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise self._away("cannot charge batches", error) from error
        except TransportError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect."""
        clients = [client for client in (self._reader, self._writer) if client is not None]
        self._reader = self._writer = None
        for client in clients:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await client.stop()
        await self._usage.stop()

    async def steps(self) -> AsyncIterator[bytes]:
        """Yield all steps that there are, in their order. TransportError if they cannot be read."""
        reader = self._new_reader()
        reader.assign([self._charged])
        try:
            await reader.start()
            end = (await reader.end_offsets([self._charged]))[self._charged]
            await reader.seek_to_beginning(self._charged)
            while await reader.position(self._charged) < end:
                if (fault := fetch_fault(reader)) is not None:
                    raise fault
                for records in (await reader.getmany(timeout_ms=POLL_MS)).values():
                    for record in records:
                        if record.value is not None:
                            yield record.value
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._away(f"cannot read {self._charged.topic}", error) from error
        finally:
            with contextlib.suppress(KafkaError):
                await reader.stop()

    def seek(self, position: int) -> None:
        """Read sightings from an offset on; from the oldest if that is gone."""
        self._started(self._reader).seek(self._seen, position)

    async def read(self) -> list[Placed]:
        """Return the next sightings; none if there are none for a while."""
        try:
            reader = self._started(self._reader)
            found = await reader.getmany(timeout_ms=POLL_MS, max_records=MAX_POLL_RECORDS)
            if not found and (fault := fetch_fault(reader)) is not None:
                raise fault
        except (KafkaError, OSError) as error:
            raise self._away(f"cannot read {self._seen.topic}", error) from error
        return [Placed(record.offset, record.value or b"") for records in found.values() for record in records]

    def lag(self, position: int) -> int | None:
        """Return how many sightings there are from an offset on, as of the last answer of the broker."""
        end = None if self._reader is None else self._reader.highwater(self._seen)
        return None if end is None else max(0, end - position)

    async def write_step(self, key: str, value: bytes) -> None:
        """Write a step.

        Raises:
            TransportError: it is not known whether it is written.
            Fenced: another enforcer charges batches.
        """
        writer = self._started(self._writer)
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                await writer.begin_transaction()
                await writer.send_and_wait(self._charged.topic, value=value, key=key.encode(), partition=0)
                await writer.commit_transaction()
        except ProducerFenced as error:
            raise Fenced("another enforcer of this deployment charges batches; this one ends") from error
        except (KafkaError, TimeoutError) as error:
            raise self._away("a step of charging batches is not acknowledged", error) from error

    async def write_usage(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Write records of usage in order; return how many. TransportError: each of them may be written."""
        return await self._usage.write(records)

    def _new_reader(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._connection.client_options(), group_id=None, enable_auto_commit=False,
            auto_offset_reset="earliest", isolation_level="read_committed", max_partition_fetch_bytes=FETCH_BYTES,
        )  # fmt: skip

    async def _until_topics(self, reader: AIOKafkaConsumer) -> None:
        wanted = {self._seen.topic, self._charged.topic}
        async with asyncio.timeout(TOPICS_DEADLINE_S):
            while wanted - await reader.topics():
                await asyncio.sleep(0.5)

    def _started(self, client: Any) -> Any:
        if client is None:
            raise TransportError(f"broker {self._connection.bootstrap} is not connected")
        return client

    def _away(self, what: str, error: BaseException) -> TransportError:
        return TransportError(f"broker {self._connection.bootstrap}: {what}: {str(error) or type(error).__name__}")
