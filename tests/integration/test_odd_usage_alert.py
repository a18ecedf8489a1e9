"""The enforcer as a process on a real broker: what it says of usage that cannot be true, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from deploy import topics
from schemas.connection import KafkaConnection
from schemas.decisions import Action, Decision
from schemas.topics import ALERTS, ALERTS_SENT
from schemas.usage import Attribution
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import FakeMeter, fake_meter, now_ms, records, running, until, values

pytestmark = pytest.mark.slow
ODD = "dev.tollway.usage.odd.v1"


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    return connection


@pytest_asyncio.fixture
async def meter(connection: KafkaConnection) -> AsyncIterator[FakeMeter]:
    """Yield somebody who writes decisions."""
    async with fake_meter(connection) as meter:
        yield meter


def _decision(number: int, flag: str, at_ms: int) -> Decision:
    told = Attribution(org="acme", provider="openai", model="gpt-x")
    return Decision(bytes([number]) * 16, bytes([number + 100]) * 16, at_ms, "in", Action.ODD.value, flag, told)


async def _odd(connection: KafkaConnection, count: int) -> list[Any]:
    async def enough() -> list[Any] | None:
        found = [alert for alert in await values(connection, ALERTS) if alert["type"] == ODD]
        return found if len(found) >= count else None

    found: list[Any] = await until(enough, f"{count} alerts")
    return found


async def test_odd_usage_is_told_once_an_hour(connection: KafkaConnection, meter: FakeMeter) -> None:
    """Two replicas say the same, a third something else; the next run of the enforcer says nothing of it again."""
    at_ms = now_ms()
    async with running(connection) as enforcer:
        await enforcer.apply()
        await meter.decide([_decision(1, "negative", at_ms), _decision(2, "negative", at_ms)])
        (alert,) = await _odd(connection, 1)
    assert alert["subject"] == "provider=openai,model=gpt-x"
    assert (alert["data"]["flag"], alert["data"]["first_org"]) == ("negative", "acme")
    assert alert["data"]["meaning"].startswith("A count was below zero")
    async with running(connection):
        await meter.decide([_decision(3, "negative", at_ms), _decision(4, "oversized", at_ms)])
        alerts = await _odd(connection, 2)
    assert [each["data"]["flag"] for each in alerts] == ["negative", "oversized"]
    assert len({each["id"] for each in alerts}) == 2
    sent = {record.key.decode() for record in await records(connection, ALERTS_SENT)}
    assert {each["id"] for each in alerts} <= sent
