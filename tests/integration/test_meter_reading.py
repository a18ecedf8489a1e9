"""The meter's reader over a real broker: when its client has given up for good, it says so instead of waiting."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.fetch import FetchRequest

from deploy import topics
from meter.adapters.engine import Engine
from meter.settings import MeterSettings
from schemas.connection import KafkaConnection
from tests.fixtures.broker import Broker
from tests.integration.meter_lab import until


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Faust's reader ends by the fault
async def test_an_engine_that_gave_up_reading_says_why(
    broker: Broker, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uvloop says of a connection that was just closed ends aiokafka's fetcher; Faust would wait for ever."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
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
    try:
        await until(lambda: engine.assigned() == [0, 1], 30)
        assert engine.fault is None
        monkeypatch.setattr(AIOKafkaConnection, "send", fail_once)
        await until(lambda: engine.fault is not None, 30)
        assert "data retrieval" in str(engine.fault)
    finally:
        monkeypatch.undo()
        await engine.app.stop()
