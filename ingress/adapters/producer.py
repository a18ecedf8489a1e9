"""Delivers records to Kafka and does not give up: an idempotent producer that is made anew if need be.

aiokafka's producer retries by itself while a broker is away, but ends for good on some errors (a sequence that the
broker does not expect, for one). It is closed then, another is made, and the record is sent again; what arrives twice
is recognised by its seq. Decides nothing about records.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, UnknownError

from schemas.connection import KafkaConnection

STUCK_S = 30.0
"""A record that is not acknowledged for this long is sent again by a new producer."""
CONNECT_S = 30.0
"""A producer that is not connected within this long is given up: one whose metadata task has died waits for ever."""
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
CLOSE_S = 3.0
_log = structlog.get_logger("ingress.producer")


class Producer:
    """The one producer of this replica."""

    def __init__(self, connection: KafkaConnection, client_id: str) -> None:
        """Prepare; nothing is connected before the first delivery."""
        self._options: dict[str, Any] = {
            **connection.client_options(),
            "client_id": client_id,
            "enable_idempotence": True,
            "acks": "all",
            "linger_ms": 0,
            # Events repeat their rows and attributions: a tenth of the bytes, for a third of a microsecond an event.
            "compression_type": "snappy",
            "max_batch_size": 1024 * 1024,
            "max_request_size": 8 * 1024 * 1024,
            "request_timeout_ms": 20_000,
        }
        self._client: AIOKafkaProducer | None = None
        self._limits: dict[asyncio.Timeout, AIOKafkaProducer] = {}
        """Of the deliveries that wait for a producer."""
        self._connecting = asyncio.Lock()
        self.recreated = 0
        """How often a producer had to be given up."""
        self.last_fault = ""

    async def deliver(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> int:
        """Return the record's offset once the broker has it (-1 if it had it already); waits as long as it takes."""
        while True:
            client = self._client or await self._connected()
            try:
                async with asyncio.timeout(STUCK_S) as limit:
                    self._limits[limit] = client
                    try:
                        sent = await client.send(topic, value, key=key, partition=partition)
                        offset: int = (await sent).offset
                        return offset
                    finally:
                        del self._limits[limit]
            except MessageSizeTooLargeError:
                raise
            except (KafkaError, OSError, TimeoutError) as error:
                await self._give_up(client, error)

    async def _connected(self) -> AIOKafkaProducer:
        """Return a producer that is connected; tries until it is."""
        backoff_s = FIRST_BACKOFF_S
        async with self._connecting:
            while self._client is None:
                client = AIOKafkaProducer(**self._options)
                try:
                    async with asyncio.timeout(CONNECT_S):
                        await client.start()
                    self._client = client
                except (KafkaError, OSError, TimeoutError) as error:
                    self._note(error)
                    await _close(client)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                except BaseException:
                    await _close(client)
                    raise
            return self._client

    async def _give_up(self, client: AIOKafkaProducer, error: BaseException) -> None:
        self._note(error)
        if isinstance(error, UnknownError):  # also what a broker says that cannot load the codec's native library
            self._options["compression_type"] = None
        if self._client is client:
            self._client = None
            self.recreated += 1
            await _close(client)
            # What still waits for a closed producer would wait for ever: its tasks have ended.
            for limit in [limit for limit, of in self._limits.items() if of is client and not limit.expired()]:
                limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(FIRST_BACKOFF_S)

    def _note(self, error: BaseException) -> None:
        fault = f"{type(error).__name__}: {error}"
        if fault != self.last_fault:
            _log.warning("broker_fault", fault=fault)
        self.last_fault = fault

    async def stop(self) -> None:
        """Close; what is not acknowledged is not waited for."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)


async def _close(client: AIOKafkaProducer) -> None:
    """Close a producer, also one that will never deliver what it holds."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.stop()
            return
    except (KafkaError, OSError, TimeoutError) as error:
        _log.info("producer_closed_hard", fault=f"{type(error).__name__}: {error}")
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.client.close()
            await client._sender.close()
    except (KafkaError, OSError, TimeoutError) as error:
        _log.info("producer_left_behind", fault=f"{type(error).__name__}: {error}")
