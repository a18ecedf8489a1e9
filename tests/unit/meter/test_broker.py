"""How a process waits for its broker: again and again, for a stated time, closing what was half open."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from meter.adapters.broker import until_connected
from schemas.connection import KafkaConnection
from schemas.errors import TransportError

CONNECTION = KafkaConnection(bootstrap="127.0.0.1:1")


class FakeClient:
    """Connects at the n-th attempt."""

    def __init__(self, succeeds_at: int, fault: BaseException) -> None:
        self.calls: list[str] = []
        self._left, self._fault = succeeds_at, fault

    async def connect(self) -> None:
        self.calls.append("connect")
        self._left -= 1
        if self._left:
            raise self._fault

    async def disconnect(self) -> None:
        """Fail, as clients do that were never whole."""
        self.calls.append("disconnect")
        raise self._fault


@pytest.mark.parametrize("fault", [KafkaConnectionError("gone"), TimeoutError(), OSError("refused")])
async def test_a_broker_that_is_late_is_waited_for(fault: BaseException) -> None:
    """Each failure closes what it left open, whatever that says."""
    client = FakeClient(2, fault)
    await until_connected(CONNECTION, "TOLLWAY_METER_", client.connect, client.disconnect)
    assert client.calls == ["connect", "disconnect", "connect"]


async def test_after_the_stated_time_the_fault_names_address_and_setting() -> None:
    """It ends with words that somebody can act upon."""
    client = FakeClient(-1, KafkaConnectionError("gone"))
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1 .*gone.*TOLLWAY_METER_KAFKA__BOOTSTRAP"):
        await until_connected(CONNECTION, "TOLLWAY_METER_", client.connect, client.disconnect, wait_s=0)
    assert client.calls == ["connect", "disconnect"]


async def test_a_cancellation_of_the_clients_own_tasks_is_not_ours() -> None:
    """A client without a broker hands on that its tasks were cancelled; that does not end the waiting."""
    client = FakeClient(2, KafkaConnectionError("gone"))

    async def disconnect() -> None:
        raise asyncio.CancelledError

    await until_connected(CONNECTION, "TOLLWAY_METER_", client.connect, disconnect)
    assert client.calls == ["connect", "connect"]


async def test_a_bug_is_not_waited_out() -> None:
    """What is no fault of a connection comes out at once."""
    client = FakeClient(2, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await until_connected(CONNECTION, "TOLLWAY_METER_", client.connect, client.disconnect)
