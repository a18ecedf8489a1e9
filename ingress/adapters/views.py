"""What this replica reads: policy, keys and blocks from their beginning, the meter's snapshots from now on.

One consumer with assigned partitions and no group. A policy or key that cannot be used leaves the last good one in
force and is counted; a missing snapshot is answered with a new epoch, which makes the meter send everything.
Decides nothing about requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ingress.core.admission import Registry
from ingress.core.keyring import Keyring
from ingress.core.laps import Laps
from ingress.core.overrides import Overrides
from ingress.core.resolver import Resolver
from schemas.blocks import BlockEntry
from schemas.codec import decode_json, decode_snapshot
from schemas.connection import KafkaConnection, fetch_fault
from schemas.errors import ConfigError, DecodeError
from schemas.keys import VirtualKey
from schemas.overrides import INCREASE, Freeze, Increase, override_key
from schemas.policy import PolicyRecord
from schemas.policy_file import load_policy
from schemas.topics import BLOCKS, KEYS, POLICY, QUOTA_UPDATES, topic_name

POLL_MS = 1_000
RECONNECT_S = 0.5
_log = structlog.get_logger("ingress.views")


class Views:
    """The reader of this replica."""

    def __init__(
        self,
        connection: KafkaConnection,
        registry: Registry,
        instance: str,
        *,
        epoch: Callable[[], int],
        now_ms: Callable[[], int],
        on_resolver: Callable[[Resolver], None],
        on_ack_due: Callable[[int], None],
        on_rejoin: Callable[[str], None],
        on_fault: Callable[[BaseException], None],
        laps: Laps | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            connection: of the deployment.
            registry: gets snapshots and blocks.
            instance: this replica.
            epoch: returns its present epoch.
            now_ms: the wall clock.
            on_resolver: called with each new policy, in the step in which its ceilings come into force.
            on_ack_due: called with a partition whose snapshot the meter wants acknowledged.
            on_rejoin: called when this replica was evicted or has lost snapshots; it has to begin a new epoch.
            on_fault: called when reading fails for a reason that does not pass: the process has to stop.
            laps: told which records of this replica installed snapshots include.
        """
        self._connection = connection
        self._registry = registry
        self._instance = instance
        self._epoch = epoch
        self._now_ms = now_ms
        self._on_resolver = on_resolver
        self._on_ack_due = on_ack_due
        self._on_rejoin = on_rejoin
        self._on_fault = on_fault
        self._laps = laps
        self._task: asyncio.Task[None] | None = None
        prefix = connection.topic_prefix
        self._policy, self._keys, self._blocks, self._updates = (
            topic_name(topic, prefix) for topic in (POLICY, KEYS, BLOCKS, QUOTA_UPDATES)
        )
        self._ends: dict[TopicPartition, int] = {}
        self.keyring = Keyring()
        self.overrides = Overrides()
        self.resolver: Resolver | None = None
        self._prices_revision = -1
        self.started = asyncio.Event()
        """Set once snapshots are read: what is joined from now on is seen."""
        self.is_caught_up = False
        """Whether policy, keys and blocks have been read to the end."""
        self.policy_faults = 0
        self.key_faults = 0
        self.block_faults = 0
        self.snapshots = 0
        self.lost_snapshots = 0

    @property
    def problem(self) -> str:
        """Why this replica is not ready; empty if it is."""
        if not self.is_caught_up:
            return "policy, keys and blocks have not been read to the end yet"
        if self.resolver is None:
            return "no policy has been applied yet; apply one with `tollway policy apply FILE`"
        waiting = [shard.partition for shard in self._registry.shards if not shard.is_member]
        return f"no share of the limits yet in partitions {waiting}; the meter gives one" if waiting else ""

    def start(self) -> None:
        """Begin to read on the running loop."""
        self._task = asyncio.create_task(self._run(), name="views")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("views_failed", fault=f"{type(error).__name__}: {error}")
            self._on_fault(error)

    # --------------------------------------------------------------------------------------------------- reading

    async def _run(self) -> None:
        """Read; after a fault of the connection go on where reading had stopped."""
        positions: dict[TopicPartition, int] = {}
        while True:
            consumer = AIOKafkaConsumer(
                **self._connection.client_options(),
                client_id=f"{self._instance}-views",
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=250,
            )
            try:
                await consumer.start()
                await self._assign(consumer, positions)
                await self._read(consumer, positions)
            except (KafkaError, OSError, TimeoutError) as error:
                _log.warning("broker_fault", fault=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RECONNECT_S)
            finally:
                await _close(consumer)

    async def _assign(self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> None:
        tables = [TopicPartition(name, 0) for name in (self._policy, self._keys, self._blocks)]
        updates = [TopicPartition(self._updates, shard.partition) for shard in self._registry.shards]
        consumer.assign([*tables, *updates])
        if not positions:
            positions.update(dict.fromkeys(tables, 0))
            positions.update(await consumer.end_offsets(updates))
            self._ends = await consumer.end_offsets(tables)
        for where, position in positions.items():
            consumer.seek(where, position)
        self.started.set()
        self._check_caught_up(positions)

    async def _read(self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> None:
        while True:
            found = await consumer.getmany(timeout_ms=POLL_MS)
            if not found and (fault := fetch_fault(consumer)) is not None:
                raise fault
            # Policies first: keys and blocks mean something only with one.
            for where in sorted(found, key=lambda where: where.topic != self._policy):
                for message in found[where]:
                    await self._take(where, message)
                    positions[where] = message.offset + 1
            if not self.is_caught_up:
                for where in self._ends:
                    positions[where] = max(positions[where], await consumer.position(where))
                self._check_caught_up(positions)

    def _check_caught_up(self, positions: dict[TopicPartition, int]) -> None:
        if not self.is_caught_up and all(positions[where] >= end for where, end in self._ends.items()):
            self.is_caught_up = True
            _log.info("views_caught_up", policy=self.policy_version, keys=len(self.keyring))

    async def _take(self, where: TopicPartition, message: Any) -> None:
        topic = where.topic
        if topic == self._updates:
            self._snapshot(where.partition, message.value)
        elif topic == self._keys:
            self._key((message.key or b"").decode(errors="replace"), message.value)
        elif topic == self._blocks:
            self._block((message.key or b"").decode(errors="replace"), message.value)
        else:
            override = override_key((message.key or b"").decode(errors="replace"))
            if override is not None:
                self._override(*override, message.value)
            elif message.value is not None:
                await self._take_policy(message.value)

    # ------------------------------------------------------------------------------------------------- the views

    @property
    def policy_version(self) -> int:
        """The policy in force; 0 before the first."""
        return 0 if self.resolver is None else self.resolver.policy_version

    async def _take_policy(self, value: bytes) -> None:
        try:
            record = decode_json(PolicyRecord, value)
            if (record.version, record.prices_revision) <= (self.policy_version, self._prices_revision):
                return
            # A large document takes long to check and compile; requests go on meanwhile.
            resolver = await asyncio.to_thread(self._compile, record)
        except (DecodeError, ConfigError, ValueError) as error:
            self.policy_faults += 1
            _log.error("policy_unusable", in_force=self.policy_version, fault=str(error))
            return
        resolver.activate()  # with what was read meanwhile: increases are looked up here, freezes with each plan
        self.resolver, self._prices_revision = resolver, record.prices_revision
        self._on_resolver(resolver)
        _log.info("policy_in_force", version=record.version, prices_revision=record.prices_revision)

    def _compile(self, record: PolicyRecord) -> Resolver:
        policy = load_policy(record.document, f"policy version {record.version}")
        return Resolver(
            policy, record.version, record.prices, self.keyring, self._registry, self.overrides, record.org_prices
        )

    def _override(self, kind: str, name: str, value: bytes | None) -> None:
        """Take an increase or a freeze; one that cannot be read leaves what was there, and is counted."""
        try:
            if kind == INCREASE:
                increase = decode_json(Increase, value) if value is not None else None
                if self.overrides.put_increase(name, increase) and self.resolver is not None:
                    self.resolver.set_limits()
            else:
                freeze = decode_json(Freeze, value) if value is not None else None
                if self.overrides.put_freeze(name, freeze) and self.resolver is not None:
                    self.resolver.forget_plans()
        except DecodeError as error:
            self.policy_faults += 1
            _log.error("override_unusable", key=f"{kind}/{name}", fault=str(error))
            return
        _log.info("override", kind=kind, name=name, ended=value is None)

    def _key(self, key_id: str, value: bytes | None) -> None:
        try:
            self.keyring.put(key_id, decode_json(VirtualKey, value) if value is not None else None)
        except (DecodeError, ValueError) as error:
            self.key_faults += 1
            _log.error("key_unusable", key_id=key_id, fault=str(error))
            return
        if self.resolver is not None:
            self.resolver.forget_key(key_id)

    def _block(self, key: str, value: bytes | None) -> None:
        try:
            entry = decode_json(BlockEntry, value) if value is not None else None
        except DecodeError as error:
            self.block_faults += 1
            _log.error("block_unusable", key=key, fault=str(error))
            return
        if self._registry.blocks.put(key, entry):
            self._registry.changed()

    def _snapshot(self, partition: int, value: bytes) -> None:
        snapshot = decode_snapshot(value)
        if snapshot.partition != partition:
            raise DecodeError(f"a snapshot of partition {snapshot.partition} on partition {partition}")
        now_ms = self._now_ms()
        installed = self._registry.install(snapshot, self._instance, self._epoch(), now_ms)
        self.snapshots += installed.is_installed
        if installed.is_installed and self._laps is not None:
            self._laps.end(partition, self._registry.shards[partition].hw, now_ms)
        if installed.ack_is_due:
            self._on_ack_due(partition)
        if installed.is_lost or installed.is_evicted:
            self.lost_snapshots += installed.is_lost
            self._on_rejoin("snapshots were lost" if installed.is_lost else "the meter has evicted this replica")


async def _close(consumer: Any) -> None:
    """Close a consumer, also one that has given up: what it died of comes out before its connections are closed."""
    try:
        await consumer.stop()
    except KafkaError:
        await consumer._client.close()
