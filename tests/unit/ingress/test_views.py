"""What the reader makes of records, good and bad; reading them from a broker is an integration test."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest
from aiokafka import TopicPartition

from ingress.adapters.views import Views
from ingress.core.admission import Registry
from schemas.codec import encode_json, encode_snapshot
from schemas.connection import KafkaConnection
from schemas.errors import DecodeError
from schemas.keys import VirtualKey
from schemas.money import Price
from schemas.overrides import Freeze, Increase
from schemas.policy import PolicyRecord
from tests.unit.ingress.governed import (
    EPOCH,
    INSTANCE,
    POLICY,
    PRICE,
    SECRET,
    START_MS,
    key_of,
    plan_of,
    refused,
    snapshot_of,
)


class Message(NamedTuple):
    """What the reader looks at."""

    value: bytes | None
    key: bytes | None = None


class Reader:
    """Views without a consumer."""

    def __init__(self) -> None:
        self.registry = Registry(1)
        self.calls: list[tuple[str, Any]] = []
        self.views = Views(
            KafkaConnection(topic_prefix="x."),
            self.registry,
            INSTANCE,
            epoch=lambda: EPOCH,
            now_ms=lambda: START_MS,
            on_resolver=lambda resolver: self.calls.append(("resolver", resolver.policy_version)),
            on_ack_due=lambda partition: self.calls.append(("ack", partition)),
            on_rejoin=lambda why: self.calls.append(("rejoin", why)),
            on_fault=lambda error: self.calls.append(("fault", error)),
        )

    async def take(self, topic: str, value: bytes | None, key: str = "", partition: int = 0) -> None:
        """Read a record."""
        await self.views._take(TopicPartition(f"x.{topic}", partition), Message(value, key.encode()))

    async def policy(self, version: int, document: str = POLICY, revision: int = 0, price: Price = PRICE) -> None:
        """Read a policy record; acme pays `price`."""
        record = PolicyRecord(version, document, "", 0, "", "", {"small": PRICE}, {"acme": {"small": price}}, revision)
        await self.take("policy", encode_json(record), record.key)


async def test_the_highest_policy_is_in_force() -> None:
    """An older one that is read later, and one that was read before, change nothing."""
    reader = Reader()
    for version in (3, 2, 3, 4):
        await reader.policy(version)
    await reader.take("policy", None, "0000000009")
    assert reader.calls == [("resolver", 3), ("resolver", 4)]
    assert reader.views.policy_version == 4


async def test_new_prices_of_the_same_version_come_into_force() -> None:
    """The document is the same; a revision that is read again or late changes nothing."""
    reader = Reader()
    dear = msgspec.structs.replace(PRICE, version="p2")
    for version, revision, price in ((1, 0, PRICE), (1, 2, dear), (1, 1, PRICE), (1, 2, PRICE)):
        await reader.policy(version, revision=revision, price=price)
    assert reader.calls == [("resolver", 1), ("resolver", 1)]
    resolver = reader.views.resolver
    assert resolver is not None
    assert plan_of(resolver).price == dear
    await reader.policy(2)
    assert reader.views.policy_version == 2
    assert plan_of(reader.views.resolver).price == PRICE  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("value", [b"no json", b"{}"], ids=["no json", "no policy record"])
async def test_a_policy_that_cannot_be_read_keeps_the_last_one(value: bytes) -> None:
    """It is counted."""
    reader = Reader()
    await reader.policy(1)
    await reader.take("policy", value, "0000000002")
    await reader.policy(3, "limits: [{name: broken}]")
    assert (reader.views.policy_version, reader.views.policy_faults) == (1, 2)


async def test_a_changed_key_is_resolved_anew() -> None:
    """Its plans go; a key that cannot be read changes nothing and is counted."""
    reader = Reader()
    await reader.take("keys", encode_json(key_of()), "k1")
    await reader.policy(1)
    resolver = reader.views.resolver
    assert resolver is not None
    plan = plan_of(resolver)
    await reader.take("keys", b"{}", "k1")
    await reader.take("keys", encode_json(key_of()).replace(b"sha256:", b"sha1:"), "k1")
    assert reader.views.key_faults == 2
    assert plan_of(resolver) is plan
    await reader.take("keys", encode_json(key_of(SECRET, team="chat")), "k1")
    assert plan_of(resolver) is not plan
    key = resolver.authenticate(SECRET, START_MS)
    assert isinstance(key, VirtualKey)
    assert key.team == "chat"
    await reader.take("keys", None, "k1")
    assert len(reader.views.keyring) == 0


async def test_a_block_that_cannot_be_read_is_counted() -> None:
    """And leaves what was there."""
    reader = Reader()
    await reader.take("blocks", b"{}", "rule/org=acme")
    await reader.take("blocks", None, "rule/org=acme")
    assert (reader.views.block_faults, len(reader.registry.blocks)) == (1, 0)


async def test_snapshots_are_installed_acknowledged_and_missed() -> None:
    """What is missing asks for a new epoch, once."""
    reader = Reader()
    await reader.take("quota.updates", encode_snapshot(snapshot_of()))
    await reader.take("quota.updates", encode_snapshot(snapshot_of(fence=2, number=2, full=False)))
    assert reader.calls == [("ack", 0)]
    await reader.take("quota.updates", encode_snapshot(snapshot_of(fence=9, number=9, full=False)))
    assert reader.calls[1:] == [("rejoin", "snapshots were lost")]
    assert (reader.views.snapshots, reader.views.lost_snapshots) == (2, 1)


@pytest.mark.parametrize("value", [b"\x00", encode_snapshot(snapshot_of(partition=1))], ids=["garbage", "partition 1"])
async def test_a_snapshot_that_is_none_stops_the_reader(value: bytes) -> None:
    """The meter's word is never skipped."""
    with pytest.raises(DecodeError):
        await Reader().take("quota.updates", value)


async def test_readiness_says_what_is_missing() -> None:
    """Tables first, then a policy, then a share in every partition."""
    reader = Reader()
    views = reader.views
    assert "read to the end" in views.problem
    views._ends = {TopicPartition("x.policy", 0): 1}
    views._check_caught_up({TopicPartition("x.policy", 0): 0})
    assert "read to the end" in views.problem
    views._check_caught_up({TopicPartition("x.policy", 0): 1})
    assert "policy apply" in views.problem
    await reader.policy(1)
    assert "partitions [0]" in views.problem
    await reader.take("quota.updates", encode_snapshot(snapshot_of()))
    assert views.problem == ""


async def test_increases_and_freezes_are_in_force_as_soon_as_they_are_read() -> None:
    """Before the policy or after it, in any order of keys; a tombstone ends them, garbage changes nothing."""
    reader = Reader()
    increase = Increase("i1", "team-minute", "org=acme", "launch", "ann", "bob", START_MS, START_MS + 60_000, 50)
    await reader.take("policy", encode_json(increase), increase.key)
    await reader.policy(1)
    resolver = reader.views.resolver
    assert resolver is not None
    ceiling = reader.registry.ceiling("team-minute", "requests", "minute")
    assert ceiling.plan is not None
    assert ceiling.plan.limit_at("org=acme,team=search", START_MS // 1000)[0] == 15
    plan = plan_of(resolver)
    freeze = Freeze("org=acme,team=search", "a leaked key", "bob", START_MS)
    await reader.take("policy", encode_json(freeze), freeze.key)
    assert refused(resolver.plan(key_of(), "small", "chat.completions")).reason == "frozen"
    for key in (freeze.key, increase.key):
        await reader.take("policy", b"{}", key)
    assert reader.views.policy_faults == 2
    assert refused(resolver.plan(key_of(), "small", "chat.completions")).reason == "frozen"
    await reader.take("policy", None, freeze.key)
    assert plan_of(resolver) is not plan
    await reader.take("policy", None, increase.key)
    await reader.take("policy", None, increase.key)
    assert reader.registry.ceiling("team-minute", "requests", "minute").plan is None
    assert reader.calls == [("resolver", 1)]
