"""Journal, sender and views of a replica over a real broker, with the real fold at the other end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError
from aiokafka.protocol.fetch import FetchRequest

from deploy import topics
from deploy.kafka import EmbeddedKafka
from ingress.adapters import producer
from ingress.adapters.governance import Governance
from ingress.adapters.wal import find_segments
from schemas.blocks import BlockEntry
from schemas.codec import encode_json
from schemas.connection import KafkaConnection
from schemas.ids import shard_of
from schemas.topics import BLOCKS, KEYS, POLICY, USAGE
from schemas.usage import Batch
from tests.fixtures.broker import Broker
from tests.integration.ingress_lab import Client, Lab, ids_of, lab, now_ms, until
from tests.unit.ingress import governed

PARTITIONS = 2
MINE = shard_of("acme", PARTITIONS)


@pytest_asyncio.fixture
async def deployment(broker: Broker, topic_prefix: str) -> AsyncIterator[Lab]:
    """Yield a deployment with a policy and a key."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=PARTITIONS)
    await topics.create(connection)
    async with lab(connection) as ready:
        await ready.apply(1)
        await ready.issue(governed.key_of())
        yield ready
        assert ready.faults == []


async def ready(replica: Governance) -> Client:
    """Start a replica and wait until it may admit."""
    replica.start()
    await until(lambda: not replica.problem, "ready", 30.0)
    await until(lambda: now_ms() % 60_000 < 50_000, "a minute that lasts long enough for the test")
    return Client(replica)


def kill(replica: Governance) -> list[asyncio.Task[None]]:
    """Stop every task of a replica where it is, as a kill would; its log stays."""
    tasks = [*replica.sender._tasks, replica.sender._watcher, replica.views._task, replica._starter]
    alive = [task for task in tasks if task is not None]
    for task in alive:
        task.cancel()
    replica._state_dir.release()
    return alive


async def test_a_replica_becomes_ready_counts_and_ends(deployment: Lab, tmp_path: Path) -> None:
    """What was admitted reaches the rows; the clean end leaves no log and no member."""
    replica = deployment.governance(tmp_path)
    assert replica.problem
    async with deployment.meter() as shards:
        client = await ready(replica)
        ends = [client.begin(20) for _ in range(3)]
        assert client.send(30)
        await until(lambda: len(client.answered) == 1, "answered")
        row = next(key for key in replica.registry.shards[MINE].rows if key.startswith("team-minute/tokens"))
        await until(lambda: getattr(shards[MINE].rows.by_key.get(row), "total", 0) == 90, "90 tokens at the meter")
        assert shards[MINE].rows.by_key[row].inflight == 60
        for end in ends:
            assert end is not None
            end()
        await until(lambda: shards[MINE].rows.by_key[row].inflight == 0, "nothing in flight")
        assert shards[MINE].rows.by_key[row].settled == 90
        mine = replica.registry.shards[MINE].rows[row]
        assert (mine.used, mine.room) == (90, 910), "what was used is known here without the meter"
        await until(lambda: mine.right == mine.right_limit == 1000, "the only replica has the whole limit by right")
        assert (mine.others, mine.used, mine.room) == (0, 90, 910)
        assert await replica.stop(10.0)
        await until(lambda: not any(shard.runs.members for shard in shards), "no members")
    assert find_segments(tmp_path / "wal") == {}
    records = await deployment.usage()
    assert ids_of(records) == sorted(client.answered)
    for partition in records:
        batches = [record for record in partition if isinstance(record, Batch)]
        assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
        assert [batch.final for batch in batches] == [False] * (len(batches) - 1) + [True]


async def test_the_end_of_an_epoch_is_not_taken_for_an_eviction(deployment: Lab, tmp_path: Path) -> None:
    """A replica that reads, while it stops, that the meter has taken its end begins no new epoch."""
    replica = deployment.governance(tmp_path)
    async with deployment.meter():
        client = await ready(replica)
        assert client.send(1)
        assert await replica.sender.stop(10.0)
        shards = replica.registry.shards
        await until(lambda: not any(shard.members for shard in shards), "snapshots without any member")
        assert await replica.stop(10.0)
    assert replica.rejoins == 0
    assert replica.journal.epoch == replica.sender._journal.epoch


async def test_two_replicas_share_a_limit(deployment: Lab, tmp_path: Path) -> None:
    """Together they admit ten requests a minute, not twenty."""
    first, second = (deployment.governance(tmp_path / name, name) for name in ("a", "b"))
    async with deployment.meter() as shards:
        clients = [await ready(first), await ready(second)]
        await until(lambda: all(len(shard.runs.members) == 2 for shard in shards), "two members")
        halves = [replica.registry.shards[MINE] for replica in (first, second)]
        await until(lambda: all(shard.weight.den == 2 for shard in halves), "half a share each")
        admitted = 0

        def send() -> int:
            nonlocal admitted
            admitted += sum(client.send(1) for client in clients)
            return admitted

        await until(lambda: send() >= 10, "ten of ten")
        for _ in range(40):
            send()
            await asyncio.sleep(0.01)
        assert admitted == 10
        await until(lambda: acknowledged(first, second) == admitted, "all of it at the broker")
        assert await first.stop(10.0)
        assert await second.stop(10.0)


def acknowledged(*replicas: Governance) -> int:
    """Return how many events the broker has acknowledged."""
    return sum(lane.events.sent for replica in replicas for lane in replica.journal.lanes)


async def test_a_killed_replica_comes_back_with_everything(deployment: Lab, tmp_path: Path) -> None:
    """Answered requests count once, requests in flight count as reserved, the old epoch ends before the new one."""
    replica = deployment.governance(tmp_path)
    async with deployment.meter() as shards:
        client = await ready(replica)
        assert client.send(10)
        await until(lambda: replica.journal.unsent_events == 0 and client.answered, "the first is sent")
        assert client.send(20)
        client.begin(40)
        await until(lambda: len(client.answered) == 2 and len(client.dispatched) == 3, "on the log")
        await asyncio.gather(*kill(replica), return_exceptions=True)
        await replica.producer.stop()
        again = deployment.governance(tmp_path)
        assert again.journal.epoch > replica.journal.epoch
        await ready(again)
        assert again.sender.has_replayed
        row = next(key for key in shards[MINE].rows.by_key if key.startswith("team-minute/tokens"))
        assert (shards[MINE].rows.by_key[row].settled, shards[MINE].rows.by_key[row].inflight) == (70, 0)
        assert list(find_segments(tmp_path / "wal")) == [again.journal.epoch]
        assert await again.stop(10.0)
    records = await deployment.usage()
    assert ids_of(records) == sorted(client.dispatched)
    epochs = [record.epoch for record in records[MINE]]
    assert epochs == sorted(epochs)
    assert [r.final for r in records[MINE] if r.epoch == replica.journal.epoch and isinstance(r, Batch)][-1]


async def test_deliveries_do_not_wait_for_a_producer_that_was_given_up(deployment: Lab) -> None:
    """Records that wait for a producer which another record has found broken are sent by the next one at once."""
    pool = producer.Producer(deployment.connection, "test")
    broken = await pool._connected()
    await broken.client.close()
    broken.client.cluster._partitions.clear()  # whoever waits for its metadata now waits for ever
    waiting = [asyncio.create_task(pool.deliver(deployment.name(USAGE), p, b"x")) for p in range(PARTITIONS)]
    await until(lambda: len(pool._limits) == PARTITIONS, "all wait")
    await pool._give_up(broken, KafkaError())
    async with asyncio.timeout(producer.STUCK_S / 2):
        await asyncio.gather(*waiting)
    await pool.stop()


async def test_a_producer_that_ended_is_replaced(
    deployment: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends aiokafka's producer for good, nothing is lost and nothing counts twice."""
    # One that ends before it knows the topics says nothing to those that wait for it, only their patience ends.
    monkeypatch.setattr(producer, "STUCK_S", 2.0)
    replica = deployment.governance(tmp_path)
    async with deployment.meter():
        client = await ready(replica)
        for _ in range(3):
            assert client.send(1)
            broken = replica.producer._client
            assert broken is not None
            await broken.stop()
            assert client.send(1)
            await until(lambda: replica.producer._client not in (None, broken), "another producer")  # noqa: B023 - awaited
        await until(lambda: replica.journal.unsent_events == 0, "all sent")
        assert replica.producer.recreated >= 2
        assert await replica.stop(10.0)
    assert ids_of(await deployment.usage()) == sorted(client.answered)


async def test_policies_keys_and_blocks_come_into_force(deployment: Lab, tmp_path: Path) -> None:
    """A new policy changes limits of rows in use, a bad one nothing; revocation and blocks reach the next request."""
    replica = deployment.governance(tmp_path)
    async with deployment.meter():
        client = await ready(replica)
        assert client.send(500)
        await deployment.put(POLICY, "0000000002", b"{}")
        await deployment.apply(3, "orgs: {}")
        await deployment.apply(4, governed.POLICY.replace("tpm: 1000", "tpm: 600"))
        await until(lambda: replica.views.policy_version == 4, "policy 4")
        assert replica.views.policy_faults == 2
        assert not client.send(101)
        assert client.send(100)
        entry = BlockEntry("team-minute", "org=acme,team=search", "block", "r", "tokens", 1, 1, "w", 0, 1 << 40, 4)
        await deployment.put(BLOCKS, entry.key, encode_json(entry))
        await until(lambda: len(replica.registry.blocks) == 1, "the block")
        assert not client.send(0)
        await deployment.put(BLOCKS, entry.key, None)
        await until(lambda: not len(replica.registry.blocks), "the block lifted")
        assert client.send(0)
        await deployment.put(KEYS, "bad", b"{}")
        await deployment.issue(governed.key_of(governed.SECRET, revoked_ms=1))
        resolver = replica.resolver
        assert resolver is not None
        await until(lambda: not hasattr(resolver.authenticate(governed.SECRET, 0), "org"), "the revocation")
        assert replica.views.key_faults == 1
        assert await replica.stop(10.0)


async def test_an_evicted_replica_begins_a_new_epoch(deployment: Lab, tmp_path: Path) -> None:
    """It carries what is in flight into it, ends the old one, and gets a share again."""
    replica = deployment.governance(tmp_path)
    async with deployment.meter() as shards:
        client = await ready(replica)
        end = client.begin(70)
        assert end is not None
        assert client.send(5)
        old = replica.journal.epoch
        row = next(key for key in replica.registry.shards[MINE].rows if key.startswith("team-minute/tokens"))
        await until(lambda: getattr(shards[MINE].rows.by_key.get(row), "total", 0) == 75, "75 tokens at the meter")
        for shard in shards:
            shard._evict(("ingress-1", old))
            shard._finish()
            shard.urgent = True
        await until(lambda: replica.rejoins == 1, "a new epoch")
        await until(lambda: not replica.problem, "ready again")
        await until(lambda: not any(("ingress-1", old) in shard.runs.open for shard in shards), "the old epoch over")
        found = shards[MINE].rows.by_key[row]
        assert (found.settled, found.inflight) == (5, 70)
        end()
        await until(lambda: (found.settled, found.inflight) == (75, 0), "settled")
        assert await replica.stop(10.0)
    assert ids_of(await deployment.usage()) == sorted(client.answered)


async def test_a_reader_that_gave_up_without_a_word_is_replaced(
    deployment: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uvloop says of a connection that was just closed ends aiokafka's fetcher: the views go on with another."""
    replica = deployment.governance(tmp_path / "replica")
    send, failed = AIOKafkaConnection.send, list[Any]()

    def fail_once(self: Any, request: Any, expect_response: bool = True) -> Any:
        if isinstance(request, FetchRequest) and self._client_id == "ingress-1-views" and not failed:
            failed.append(request)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return send(self, request, expect_response)

    async with deployment.meter():
        await ready(replica)
        monkeypatch.setattr(AIOKafkaConnection, "send", fail_once)
        await until(lambda: failed, "a fetch that fails")
        await deployment.issue(governed.key_of(b"tw-another", id="k2"))
        await until(lambda: len(replica.views.keyring) == 2, "the key that was issued since")
        assert await replica.stop(10.0)


@pytest.mark.slow
@pytest.mark.parametrize("stuck_s", [30.0, 0.3], ids=["short", "longer than a producer is waited for"])
async def test_a_broker_outage_delays_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck_s: float
) -> None:
    """Requests go on while the broker is killed; what does not fit in memory waits on disk; all of it arrives."""
    monkeypatch.setattr(producer, "STUCK_S", stuck_s)
    async with EmbeddedKafka(tmp_path / "broker") as kafka:
        connection = KafkaConnection(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        await topics.create(connection)
        async with lab(connection) as deployment:
            await deployment.apply(1, governed.POLICY[: governed.POLICY.index("limits:")])
            await deployment.issue(governed.key_of())
            replica = deployment.governance(tmp_path / "replica", segment_bytes=64 * 1024)
            replica.journal._memory.limit = 50_000
            async with deployment.meter():
                client = await ready(replica)
                assert client.send(1)
                await until(lambda: replica.journal.unsent_events == 0, "the first is sent")
            assert kafka.pid is not None
            os.kill(kafka.pid, signal.SIGKILL)
            for _ in range(1_500):
                assert client.send(1)
                await asyncio.sleep(0)
            assert len(client.answered) >= 1_499
            assert replica.journal.wal_bytes > 64 * 1024
            await kafka.stop()
            if stuck_s < 1:
                await until(lambda: replica.producer.recreated, "the producer given up")
                monkeypatch.setattr(producer, "STUCK_S", 30.0)  # a busy machine may not connect within the short time
            await kafka.start()
            assert kafka.bootstrap == connection.bootstrap
            await until(lambda: replica.journal.unsent_events == 0, "all sent", 40.0)
            assert replica.journal.wal_bytes < 4 * 64 * 1024
            assert await replica.stop(10.0)
            assert ids_of(await deployment.usage()) == sorted(client.answered)
            assert deployment.faults == []


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_broker_that_has_forgotten_a_sequence_gets_another_producer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is set back on the broker makes it refuse the producer's next sequence: what follows arrives."""
    monkeypatch.setattr(producer, "STUCK_S", 120.0)
    async with EmbeddedKafka(tmp_path / "broker") as kafka:
        connection = KafkaConnection(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        await topics.create(connection)
        async with lab(connection) as deployment:
            await deployment.apply(1, governed.POLICY[: governed.POLICY.index("limits:")])
            await deployment.issue(governed.key_of())
            replica = deployment.governance(tmp_path / "replica")
            replica.producer._options["request_timeout_ms"] = 120_000  # it outlasts two starts on a busy machine
            async with deployment.meter():
                client = await ready(replica)
            assert client.send(1)
            await until(lambda: replica.journal.unsent_events == 0 and client.answered, "the first is sent")
            await kafka.stop()
            (log,) = (tmp_path / "broker").rglob(f"{deployment.name(USAGE)}-{MINE}")
            shutil.copytree(log, tmp_path / "earlier")
            await kafka.start()
            sent = replica.sender.sent_records
            await until(lambda: replica.sender.sent_records > sent + 4 * PARTITIONS, "heartbeats", 60.0)
            assert kafka.pid is not None
            os.kill(kafka.pid, signal.SIGKILL)  # one that stops says so, and the producer is given up before
            await kafka.stop()
            recreated = replica.producer.recreated
            shutil.rmtree(log)
            shutil.copytree(tmp_path / "earlier", log)  # without the heartbeats, and what it knew of the producer
            await kafka.start()
            await until(lambda: replica.producer.recreated > recreated, "another producer", 60.0)
            assert "OutOfOrderSequence" in replica.producer.last_fault
            assert client.send(1)
            await until(lambda: len(client.answered) == 2 and not replica.journal.unsent_events, "all sent", 60.0)
            assert await replica.stop(10.0)
            assert ids_of(await deployment.usage()) == sorted(client.answered)
            assert deployment.faults == []
