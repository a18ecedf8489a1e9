"""The meter's reader over a real broker: when its client has given up for good, it says so instead of waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.fetch import FetchRequest

from deploy import topics
from meter.adapters.engine import Engine
from meter.settings import MeterSettings
from schemas.connection import KafkaConnection
from tests.fixtures.broker import Broker
from tests.integration.meter_lab import until


async def test_an_engine_that_gave_up_reading_says_why(broker: Broker, topic_prefix: str) -> None:
    """What uvloop says of a connection that was just closed ends aiokafka's fetcher; Faust would wait for ever."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    command = [sys.executable, "-m", "tests.integration.test_meter_reading", broker.bootstrap, topic_prefix]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=90, check=False)
    assert "data retrieval" in ended.stdout, ended.stderr[-4_000:]


async def give_up(bootstrap: str, prefix: str) -> None:
    """Read with an engine whose connection is closed when it is written to; print what the engine says of it, and end.

    Whatever Faust still holds on to, its threads and the dead reader's connections, ends with the process.
    """
    connection = KafkaConnection(bootstrap=bootstrap, topic_prefix=prefix, partitions=2)
    engine = Engine(MeterSettings(kafka=connection))
    send, failed = AIOKafkaConnection.send, list[Any]()

    def fail_once(self: Any, request: Any, expect_response: bool = True) -> Any:
        if isinstance(request, FetchRequest) and not failed:
            failed.append(request)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return send(self, request, expect_response)

    async def read(stream: Any) -> None:
        async for _ in stream.events():
            pass

    engine.app.agent(engine.source)(read)
    await engine.start(dict)
    await until(lambda: engine.assigned() == [0, 1], 30)
    assert engine.fault is None
    setattr(AIOKafkaConnection, "send", fail_once)  # noqa: B010 - a method is replaced
    await until(lambda: engine.fault is not None, 30)
    print(engine.fault, flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(give_up(*sys.argv[1:]))
