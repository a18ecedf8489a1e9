"""The embedded broker as its users need it: serves when it says so, durable, alone in its directory, no orphan."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.kafka import BrokerError, EmbeddedKafka
from tests.fixtures.broker import Broker

DEADLINE_S = 20.0


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds, at most DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.02)


async def create_topic(bootstrap: str, name: str) -> None:
    """Create a topic of one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    """Produce `values` one after the other, each acknowledged."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, max_request_size=8 << 20
    ) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def read_all(bootstrap: str, topic: str) -> list[bytes]:
    """Return every value in the topic's only partition."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed") as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        (end,) = (await consumer.end_offsets([partition])).values()
        values: list[bytes] = []
        while await consumer.position(partition) < end:
            records = await consumer.getmany(partition, timeout_ms=500)
            values += [record.value for batch in records.values() for record in batch]
        return values


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of this module's own broker."""
    return tmp_path_factory.mktemp("own-broker")


@pytest_asyncio.fixture(scope="module")
async def own_broker(directory: Path) -> AsyncGenerator[EmbeddedKafka]:
    """Yield a broker of this module's own, not started."""
    owned = EmbeddedKafka(directory)
    yield owned
    await owned.stop()


@pytest_asyncio.fixture
async def kafka(own_broker: EmbeddedKafka) -> EmbeddedKafka:
    """Return a running broker to stop and to kill: the next test starts it again. The first has it as it began."""
    if own_broker.pid is None:
        await own_broker.start()
    return own_broker


async def test_serves_consumer_groups_as_soon_as_it_is_ready(kafka: EmbeddedKafka, topic_prefix: str) -> None:
    """The first join after start() succeeds at once: no coordinator is still loading, no rebalance delay."""
    events = topic_prefix + "events"
    await create_topic(kafka.bootstrap, events)
    await produce(kafka.bootstrap, events, b"one")
    began = time.monotonic()
    async with AIOKafkaConsumer(
        events, bootstrap_servers=kafka.bootstrap, group_id=f"{topic_prefix}readers", auto_offset_reset="earliest"
    ) as consumer:
        record = await asyncio.wait_for(consumer.getone(), DEADLINE_S)
    assert record.value == b"one"
    assert time.monotonic() - began < 3.0  # the broker's own default would hold the first join back for 3 s


async def test_keeps_what_was_acknowledged_through_a_kill(kafka: EmbeddedKafka, topic_prefix: str) -> None:
    """After SIGKILL in mid-flight the broker comes back at the same address with every acknowledged record."""
    events = topic_prefix + "events"
    await create_topic(kafka.bootstrap, events)
    values = [str(number).encode() for number in range(50)]
    await produce(kafka.bootstrap, events, *values)
    address = kafka.bootstrap
    kafka.kill()
    assert await kafka.wait() == -signal.SIGKILL
    assert kafka.pid is None
    await kafka.start()
    assert kafka.bootstrap == address
    assert await read_all(address, events) == values


async def test_stops_cleanly_and_continues(kafka: EmbeddedKafka, topic_prefix: str) -> None:
    """SIGTERM ends it by itself well before the deadline; stopping twice is harmless; the data is there again."""
    events = topic_prefix + "events"
    await create_topic(kafka.bootstrap, events)
    await produce(kafka.bootstrap, events, b"kept")
    await kafka.stop()
    assert await kafka.wait() == 128 + signal.SIGTERM  # Java's own code after its shutdown hooks; a kill is -9
    await kafka.stop()
    await kafka.start()
    assert await read_all(kafka.bootstrap, events) == [b"kept"]


async def test_chooses_another_port_when_its_own_was_taken(kafka: EmbeddedKafka, topic_prefix: str) -> None:
    """Without a fixed port, a stranger on the old one does not keep the broker down."""
    events = topic_prefix + "events"
    await create_topic(kafka.bootstrap, events)
    await produce(kafka.bootstrap, events, b"kept")
    await kafka.stop()
    old = int(kafka.bootstrap.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", old)):
        await kafka.start()
        assert kafka.bootstrap != f"127.0.0.1:{old}"
        assert await read_all(kafka.bootstrap, events) == [b"kept"]


async def test_listens_on_loopback_only(kafka: EmbeddedKafka) -> None:
    """No socket of the broker can be reached from another machine."""
    listening = [c for c in psutil.Process(kafka.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 2
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}


async def test_refuses_a_port_in_use(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A fixed port that someone has is an error that names it, not a broker somewhere else."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match="ended with code 1"):
            await EmbeddedKafka(tmp_path, port).start()
    assert f"port {port} is in use" in capfd.readouterr().err


async def test_refuses_a_directory_in_use(kafka: EmbeddedKafka, directory: Path) -> None:
    """Two brokers never share a log: the second is refused, and told which process has it."""
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.kafka", "run", "--state", str(directory), "--lock-deadline", "0",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(second.communicate(), DEADLINE_S)
    assert second.returncode == 1
    assert f"in use by a running broker (pid {kafka.pid})" in err.decode()


OWNER = """
import asyncio, sys
from pathlib import Path
from deploy.kafka import EmbeddedKafka

async def main():
    kafka = EmbeddedKafka(Path(sys.argv[1]))
    await kafka.start()
    print(kafka.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_dies_with_its_owner(tmp_path: Path) -> None:
    """An owner that is killed leaves no Java behind, so that the next start finds its directory free."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    java = psutil.Process(int(await asyncio.wait_for(owner.stdout.readline(), DEADLINE_S)))
    assert java.name() == "java"
    owner.kill()
    await owner.wait()
    await until(lambda: not java.is_running() or java.status() == psutil.STATUS_ZOMBIE, "the broker is gone")


async def test_takes_transactions_and_large_records(broker: Broker, topic_prefix: str) -> None:
    """A transaction commits at the first try, an aborted one shows nothing, and a record may have 4 MiB."""
    topic = topic_prefix + "events"
    await create_topic(broker.bootstrap, topic)
    large = b"x" * (4 << 20)
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, transactional_id=topic_prefix + "writer", max_request_size=8 << 20
    ) as producer:
        async with producer.transaction():
            await producer.send(topic, large)
        await producer.begin_transaction()
        await producer.send(topic, b"never")
        await producer.abort_transaction()
    assert await read_all(broker.bootstrap, topic) == [large]
