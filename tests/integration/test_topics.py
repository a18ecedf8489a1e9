from __future__ import annotations

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy import topics
from schemas.connection import KafkaConnection
from schemas.errors import ConfigError, TransportError
from schemas.topics import ALERTS, TOPICS, USAGE, USAGE_DLQ, topic_name
from tests.fixtures.broker import Broker


@pytest.fixture
def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own on the shared broker."""
    return KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)


async def test_creates_every_topic_of_the_table_with_its_settings(connection: KafkaConnection) -> None:
    """A first creation makes all topics; the broker then reports exactly the table's partitions and settings."""
    outcome = await topics.create(connection)
    assert set(outcome.created) == {topic_name(topic, connection.topic_prefix) for topic in TOPICS}
    again = await topics.create(connection)
    assert again.created == ()
    assert set(again.existing) == set(outcome.created)
    assert again.differences == ()


async def test_completes_what_a_killed_creation_left_undone(connection: KafkaConnection) -> None:
    """Topics that exist stay, the missing ones are created."""
    await _make(connection, NewTopic(topic_name(USAGE, connection.topic_prefix), 2, 1, topic_configs=USAGE.config()))
    outcome = await topics.create(connection)
    assert topic_name(USAGE, connection.topic_prefix) in outcome.existing
    assert len(outcome.created) == len(TOPICS) - 1


async def test_refuses_a_topic_with_other_partitions(connection: KafkaConnection) -> None:
    """A deployment must not change its shards: the fault names topic, both numbers and what to do."""
    await topics.create(connection)
    other = connection.model_copy(update={"partitions": 3})
    with pytest.raises(ConfigError, match=r"usage: partitions is 2, expected 3; set .*partitions to 2"):
        await topics.create(other)


async def test_refuses_a_topic_without_broker_time(connection: KafkaConnection) -> None:
    """The meter reads time from the log, so `usage` with the producers' time is no topic for it."""
    config = {**USAGE.config(), "message.timestamp.type": "CreateTime"}
    await _make(connection, NewTopic(topic_name(USAGE, connection.topic_prefix), 2, 1, topic_configs=config))
    with pytest.raises(ConfigError, match=r"message\.timestamp\.type is CreateTime, expected LogAppendTime"):
        await topics.create(connection)


async def test_reports_another_retention_without_refusing(connection: KafkaConnection) -> None:
    """How long a topic is kept is the operator's to change; the difference is said and nothing is altered."""
    name = topic_name(ALERTS, connection.topic_prefix)
    config = {**ALERTS.config(), "retention.ms": "1234567"}
    await _make(connection, NewTopic(name, 1, 1, topic_configs=config))
    for _ in range(2):
        outcome = await topics.create(connection)
        found = [(item.topic, item.setting, item.found) for item in outcome.differences]
        assert found == [(name, "retention.ms", "1234567")]


async def test_says_which_broker_does_not_answer(unused_tcp_port: int) -> None:
    """A broker that is not there is a fault that names its address and what to check."""
    with pytest.raises(TransportError, match=rf"broker 127.0.0.1:{unused_tcp_port}: .*check that it runs"):
        await topics.create(KafkaConnection(bootstrap=f"127.0.0.1:{unused_tcp_port}"))


async def test_counts_what_a_topic_holds(connection: KafkaConnection) -> None:
    """Offsets over all partitions, from the first that is kept."""
    await topics.create(connection)
    assert await topics.held(connection, USAGE_DLQ) == 0
    producer = AIOKafkaProducer(bootstrap_servers=connection.bootstrap)
    await producer.start()
    for partition in (0, 1, 1):
        await producer.send_and_wait(topic_name(USAGE_DLQ, connection.topic_prefix), b"{}", partition=partition)
    await producer.stop()
    assert await topics.held(connection, USAGE_DLQ) == 3


async def _make(connection: KafkaConnection, topic: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=connection.bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([topic])
        assert [code for _, code, _ in response.topic_errors] == [0]
    finally:
        await admin.close()
