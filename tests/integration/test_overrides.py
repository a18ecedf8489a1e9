"""Limits, increases and freezes from the enforcer to two replicas over a real broker, within the published time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy import topics
from ingress.adapters.governance import Governance
from ingress.core.plan import Plan
from ingress.core.resolver import Refused
from schemas.connection import KafkaConnection
from schemas.published import OVERRIDES_MS
from schemas.topics import AUDIT, POLICY
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import POLICY as DOCUMENT
from tests.integration.enforcer_lab import Enforcer, records, running
from tests.integration.ingress_lab import lab, now_ms, until

SCOPE = "org=acme,team=search"


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    await topics.create(connection)
    return connection


@pytest_asyncio.fixture
async def replicas(connection: KafkaConnection, tmp_path: Path) -> AsyncIterator[list[Governance]]:
    """Yield two replicas of the ingress that read what the enforcer writes."""
    async with lab(connection) as hands:
        found = [hands.governance(tmp_path / name, name) for name in ("ingress-1", "ingress-2")]
        for replica in found:
            replica.start()
        yield found
        await asyncio.gather(*(replica.stop(deadline_s=0.1) for replica in found))
        assert hands.faults == []


def frozen(replica: Governance, secret: str) -> bool:
    """Return whether a request with `secret` is refused as frozen."""
    return isinstance(found := _plan(replica, secret), Refused) and found.reason == "frozen"


def goes_on(replica: Governance, secret: str) -> bool:
    """Return whether a request with `secret` has a plan."""
    return isinstance(_plan(replica, secret), Plan)


def _plan(replica: Governance, secret: str) -> Plan | Refused | None:
    resolver = replica.resolver
    if resolver is None:
        return None
    key = resolver.authenticate(secret.encode(), now_ms())
    return key if isinstance(key, Refused) else resolver.plan(key, "gpt-4o-mini", "chat.completions")


def limit(replica: Governance) -> int:
    """Return what the team's monthly budget allows on a replica now, in dollars."""
    ceiling = replica.registry.ceiling("team-month", "cost", "month")
    nanos = ceiling.limit if ceiling.plan is None else ceiling.plan.limit_at(SCOPE, now_ms() // 1000)[0]
    return nanos // 10**9


class Watch:
    """Takes the time from the moment a change is asked for until both replicas act on it."""

    def __init__(self, enforcer: Enforcer, replicas: list[Governance]) -> None:
        self.enforcer, self.replicas = enforcer, replicas
        self.took_ms: dict[str, int] = {}

    async def change(self, what: str, seen: Callable[[Governance], bool], method: str, path: str, **more: Any) -> Any:
        """Ask for a change and wait until both replicas show it; return the answer."""
        begun_ms = now_ms()
        answer = await self.enforcer.client.request(method, path, **more)
        assert answer.status_code in (200, 201), answer.text
        await until(lambda: all(seen(replica) for replica in self.replicas), what)
        self.took_ms[what] = now_ms() - begun_ms
        return answer.json()


@pytest.mark.slow
async def test_changes_are_in_force_on_every_replica_within_the_published_time(
    connection: KafkaConnection, replicas: list[Governance]
) -> None:
    """An increase, its end, a freeze, its release, a limit of a new policy: asked for, audited, in force on both."""
    async with running(connection) as enforcer:
        await enforcer.apply()
        secret = (await enforcer.create_key(team="search"))["secret"]
        await until(lambda: all(goes_on(replica, secret) for replica in replicas), "policy and key")
        watch = Watch(enforcer, replicas)
        wish = {
            "rule": "team-month", "scope": "team=search,org=acme", "percent": 20, "reason": "launch",
            "requested_by": "ann", "approved_by": "bob", "expires_ms": now_ms() + 3_600_000,
        }  # fmt: skip
        increase = await watch.change(
            "increase", lambda replica: limit(replica) == 120, "POST", "/v1/increases", json=wish
        )
        assert (increase["scope"], increase["size"], increase["state"]) == (SCOPE, "+20%", "active")
        await watch.change(
            "revocation", lambda replica: limit(replica) == 100, "DELETE", f"/v1/increases/{increase['id']}"
        )
        asked = {"scope": SCOPE, "reason": "a key leaked", "actor": "bob"}
        await watch.change("freeze", lambda replica: frozen(replica, secret), "POST", "/v1/freezes", json=asked)
        listed = (await enforcer.get("/v1/freezes"))["freezes"]
        assert [(item["scope"], item["by"]) for item in listed] == [(SCOPE, "bob")]
        await watch.change(
            "release", lambda replica: goes_on(replica, secret), "DELETE", "/v1/freezes", params={"scope": SCOPE}
        )
        document = {"document": DOCUMENT.replace("100 USD", "90 USD")}
        await watch.change("policy", lambda replica: limit(replica) == 90, "POST", "/v1/policy", json=document)
        assert max(watch.took_ms.values()) <= OVERRIDES_MS, watch.took_ms

        own = await enforcer.client.post("/v1/increases", json={**wish, "approved_by": "Ann", "expires_ms": 1})
        assert own.status_code == 422
        assert [problem["path"] for problem in own.json()["error"]["problems"]] == ["approved_by", "expires_ms"]
        nobody = await enforcer.client.post("/v1/freezes", json={"scope": "org=acme,team=serach", "reason": "x"})
        assert nobody.status_code == 422
        entries = (await enforcer.get("/v1/audit"))["entries"]
        assert [entry["action"] for entry in entries][2:] == [
            "increase.grant", "increase.revoke", "scope.freeze", "scope.release", "policy.apply",
        ]  # fmt: skip
        assert (await enforcer.get("/v1/audit"))["broken_at"] is None
    keys = [(record.key.decode(), record.value is None) for record in await records(connection, POLICY)]
    granted, frozen_key = f"increase/{increase['id']}", f"freeze/{SCOPE}"
    assert keys[1:5] == [(granted, False), (granted, True), (frozen_key, False), (frozen_key, True)]
    assert len(await records(connection, AUDIT)) == 7


@pytest.mark.slow
async def test_what_is_in_force_survives_a_restart_of_the_enforcer_and_reaches_new_replicas(
    connection: KafkaConnection, tmp_path: Path
) -> None:
    """The topic is the truth: a replica that starts later reads increases and freezes before it is ready."""
    async with running(connection) as enforcer:
        await enforcer.apply()
        secret = (await enforcer.create_key(team="search"))["secret"]
        wish = {
            "rule": "team-month", "scope": "org=acme", "amount": "7 USD", "reason": "launch", "requested_by": "ann",
            "approved_by": "bob", "expires_ms": now_ms() + 3_600_000,
        }  # fmt: skip
        assert (await enforcer.client.post("/v1/increases", json=wish)).status_code == 201
        frozen_now = await enforcer.client.post(
            "/v1/freezes", json={"scope": "model=gpt-4o-mini", "reason": "incident"}
        )
        assert frozen_now.status_code == 201
    async with running(connection) as enforcer, lab(connection) as hands:
        assert [item["amount"] for item in (await enforcer.get("/v1/increases"))["increases"]] == [7 * 10**9]
        assert [item["scope"] for item in (await enforcer.get("/v1/freezes"))["freezes"]] == ["model=gpt-4o-mini"]
        replica = hands.governance(tmp_path / "late", "ingress-9")
        replica.start()
        await until(lambda: replica.views.is_caught_up, "the late replica has read everything")
        assert frozen(replica, secret)
        assert limit(replica) == 107
        await replica.stop(deadline_s=0.1)
