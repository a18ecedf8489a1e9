"""Creates the topics of `schemas.topics` on a broker, and says how topics that exist differ from that table.

Adapts aiokafka's admin client. Never alters a topic that exists: what differs is for a person to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from schemas.connection import KafkaConnection
from schemas.errors import ConfigError, TransportError
from schemas.topics import TOPICS, Topic, topic_name

REQUEST_TIMEOUT_MS = 20_000
VISIBLE_DEADLINE_S = 20.0
POLL_S = 0.03
MAX_REPLICATION = 3
CORRECTNESS = frozenset({"partitions", "cleanup.policy", "message.timestamp.type"})
"""Settings that the services rely on; the others (retention, compaction) only decide how much is kept."""


@dataclass(frozen=True)
class Difference:
    """One setting of an existing topic that is not what the table says."""

    topic: str
    setting: str
    expected: str
    found: str

    @property
    def breaks(self) -> bool:
        """Whether the services would go wrong with it."""
        return self.setting in CORRECTNESS

    def __str__(self) -> str:
        """Return a line for people: topic, setting, value, remedy."""
        if self.setting == "partitions":
            remedy = f"set the deployment's partitions to {self.found}, or use another topic prefix"
        else:
            command = f"kafka-configs.sh --alter --topic {self.topic} --add-config {self.setting}={self.expected}"
            remedy = f"mend it with {command}"
        return f"topic {self.topic}: {self.setting} is {self.found}, expected {self.expected}; {remedy}"


@dataclass(frozen=True)
class Outcome:
    """What `create` did and found."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Found:
    """A topic as the broker has it."""

    partitions: int
    config: Mapping[str, str]


def partitions_of(topic: Topic, shards: int) -> int:
    """Return how many partitions `topic` has in a deployment with `shards` shards."""
    return shards if topic.sharded else 1


def differences(topic: Topic, name: str, shards: int, found: Found) -> tuple[Difference, ...]:
    """Return what of `found` is not what the table says of `topic`. Settings that the broker hides are left out."""
    wanted = {"partitions": str(partitions_of(topic, shards)), **topic.config()}
    actual = {"partitions": str(found.partitions), **found.config}
    return tuple(
        Difference(name, setting, value, actual[setting])
        for setting, value in wanted.items()
        if setting in actual and not _same(setting, value, actual[setting])
    )


def _same(setting: str, expected: str, found: str) -> bool:
    if setting == "min.cleanable.dirty.ratio":
        return float(expected) == float(found)
    return expected == found


async def create(connection: KafkaConnection) -> Outcome:
    """Create the topics that are missing and compare the others with the table. Doing it twice changes nothing.

    Raises:
        ConfigError: a topic exists with settings that the services cannot work with.
        TransportError: the broker cannot be reached, or refuses.
    """
    try:
        outcome = await _create(connection)
    except (KafkaError, OSError, TimeoutError) as error:
        what = str(error) or type(error).__name__
        raise TransportError(
            f"broker {connection.bootstrap}: cannot create topics: {what}; check that it runs, that the address and "
            "the security settings are right, and that this user may create and describe topics"
        ) from error
    broken = [str(difference) for difference in outcome.differences if difference.breaks]
    if broken:
        raise ConfigError(broken)
    return outcome


async def _create(connection: KafkaConnection) -> Outcome:
    admin = _admin(connection)
    try:
        await admin.start()
        names = {topic_name(topic, connection.topic_prefix): topic for topic in TOPICS}
        present = set(await admin.list_topics()) & names.keys()
        missing = {name: topic for name, topic in names.items() if name not in present}
        created = await _create_missing(admin, missing, connection.partitions) if missing else ()
        existing = tuple(name for name in names if name not in created)
        found = await _visible(admin, tuple(names))
        return Outcome(
            created,
            existing,
            tuple(
                difference
                for name in existing
                for difference in differences(names[name], name, connection.partitions, found[name])
            ),
        )
    finally:
        await admin.close()


def _admin(connection: KafkaConnection) -> AIOKafkaAdminClient:
    options = connection.client_options()
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_TIMEOUT_MS)
    # aiokafka 0.14 takes SASL options here and drops them on the way to its client.
    admin._client = AIOKafkaClient(**options, request_timeout_ms=REQUEST_TIMEOUT_MS)
    return admin


async def _create_missing(admin: AIOKafkaAdminClient, missing: dict[str, Topic], shards: int) -> tuple[str, ...]:
    brokers = len((await admin.describe_cluster())["brokers"])
    replication = max(1, min(MAX_REPLICATION, brokers))
    response = await admin.create_topics(
        [NewTopic(name, partitions_of(topic, shards), replication, topic_configs=topic.config())
         for name, topic in missing.items()]
    )  # fmt: skip
    created = []
    for name, code, message in response.topic_errors:
        fault = for_code(code)
        if fault is TopicAlreadyExistsError:
            continue  # another process was faster
        if code:
            raise fault(f"{name}: {message or fault.__name__}")
        created.append(name)
    return tuple(name for name in missing if name in created)


async def _visible(admin: AIOKafkaAdminClient, names: tuple[str, ...]) -> dict[str, Found]:
    """Return the topics once the broker serves all of them: it answers «created» before it does."""
    async with asyncio.timeout(VISIBLE_DEADLINE_S):
        while True:
            if (found := await _describe(admin, names)) is not None:
                return found
            await asyncio.sleep(POLL_S)


async def _describe(admin: AIOKafkaAdminClient, names: tuple[str, ...]) -> dict[str, Found] | None:
    """Return the topics as the broker has them; None while it does not serve all of them."""
    entries = await admin.describe_topics(list(names))
    if any(entry["error_code"] or _leaderless(entry) for entry in entries):
        return None
    try:
        configs = await _configs(admin, names)
    except UnknownTopicOrPartitionError:
        return None
    return {entry["topic"]: Found(len(entry["partitions"]), configs[entry["topic"]]) for entry in entries}


def _leaderless(entry: Mapping[str, Any]) -> bool:
    return any(partition["leader"] < 0 for partition in entry["partitions"])


async def _configs(admin: AIOKafkaAdminClient, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"{name}: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def held(connection: KafkaConnection, topic: Topic) -> int:
    """Return how many offsets of a topic the broker holds (records, and markers of transactions).

    Raises:
        TransportError: the broker cannot be reached, or refuses.
    """
    consumer = AIOKafkaConsumer(**connection.client_options(), request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await consumer.start()
        name = topic_name(topic, connection.topic_prefix)
        partitions = [TopicPartition(name, number) for number in range(partitions_of(topic, connection.partitions))]
        first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        return int(sum(end.values()) - sum(first.values()))
    except (KafkaError, OSError, TimeoutError) as error:
        what = str(error) or type(error).__name__
        raise TransportError(f"broker {connection.bootstrap}: cannot read offsets of {topic.name}: {what}") from error
    finally:
        await consumer.stop()


def table() -> list[dict[str, Any]]:
    """Return the table of topics as plain values, for `tollway topics`."""
    return [
        {
            "topic": topic.name,
            "sharded": topic.sharded,
            "cleanup": "compact" if topic.compacted else "delete",
            "retention_ms": topic.retention_ms,
            "key": topic.key,
            "content": topic.content,
            "writer": topic.writer,
            "readers": topic.readers,
            "summary": topic.summary,
        }
        for topic in TOPICS
    ]
