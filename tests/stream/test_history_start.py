"""The history before its broker is there: it waits for it, and can be stopped meanwhile."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pydantic import SecretStr

from meter.sink.settings import HistorySettings
from meter.sink.worker import Worker
from schemas.connection import KafkaConnection
from tests.history_fakes import FakeStore

WITHIN_S = 20.0


async def test_a_history_without_a_broker_says_what_it_waits_for_and_can_be_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It goes on asking for as long as nobody says stop, and then ends without a fault."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        settings = HistorySettings(kafka=KafkaConnection(bootstrap=address), admin_token=SecretStr("t" * 16))
        worker = Worker(settings, FakeStore())
        running = asyncio.create_task(worker.run(), name="history")
        said = ""
        async with asyncio.timeout(WITHIN_S):
            while "waiting for the broker" not in said:
                await asyncio.sleep(0.01)
                said += "".join(capsys.readouterr())
            assert address in said
            assert "TOLLWAY_HISTORY_KAFKA__BOOTSTRAP" in said
            assert not running.done()
            assert worker.waiting == ["partitions of the log"]
            worker.stop()
            await running
