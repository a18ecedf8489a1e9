"""Waiting for room that another replica holds: two replicas, a real broker, the real fold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from deploy import topics
from ingress.adapters.waiting import Waiting
from ingress.core.plan import Hold
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.connection import KafkaConnection
from schemas.published import WAIT_MS
from tests.fixtures.broker import Broker
from tests.integration.ingress_lab import Client, Lab, lab, now_ms, until
from tests.unit.ingress import governed

LIMIT = 10
POLICY = governed.POLICY.replace("rpm: 10, tpm: 1000", f"rpd: {LIMIT}")


class Guest:
    """A request that waits."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Hold | Denied] = asyncio.get_running_loop().create_future()

    def served(self, outcome: Hold | Denied) -> None:
        self.outcome.set_result(outcome)

    def drain(self) -> None:
        raise AssertionError("nothing stops here")


@pytest_asyncio.fixture
async def deployment(broker: Broker, topic_prefix: str) -> AsyncIterator[Lab]:
    """Yield a deployment with a policy and a key."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    await topics.create(connection)
    async with lab(connection) as ready:
        await ready.apply(1, POLICY)
        await ready.issue(governed.key_of())
        yield ready
        assert ready.faults == []


async def _ask(client: Client, waiting: Waiting) -> tuple[Hold | Denied, int]:
    """Ask for one request as an exchange does; return what came of it, and how long it waited."""
    plan, began_ms = client.plan(), now_ms()
    outcome = plan.admit(began_ms, 1, 1)
    if isinstance(outcome, Hold) or not outcome.may_wait:
        return outcome, 0
    guest = Guest()
    ticket = Ticket(plan, 1, 1, 0, 0, tier=1, since_ms=began_ms, until_ms=began_ms + 20 * WAIT_MS)
    assert waiting.enter(ticket, outcome, guest)
    async with asyncio.timeout(30):
        return await guest.outcome, now_ms() - began_ms


async def test_all_of_a_limit_can_be_used_at_one_replica(deployment: Lab, tmp_path: Path) -> None:
    """Who comes to the replica without room waits for the other's; only what is beyond the limit is refused."""
    replicas = [deployment.governance(tmp_path / name, name) for name in ("ingress-1", "ingress-2")]
    async with deployment.meter():
        for replica in replicas:
            replica.start()
        for replica in replicas:
            await until(lambda replica=replica: not replica.problem, "ready", 30.0)  # type: ignore[misc]  # bound early
        client, waiting = Client(replicas[0]), Waiting(replicas[0].registry.waiting, now_ms)
        asked = [await _ask(client, waiting) for _ in range(LIMIT + 1)]
        held = [outcome for outcome, _ in asked if isinstance(outcome, Hold)]
        assert len(held) == LIMIT
        assert max(waited_ms for _, waited_ms in asked[:LIMIT]) > 0
        assert all(waited_ms < 20 * WAIT_MS for _, waited_ms in asked)
        refused = asked[LIMIT][0]
        assert isinstance(refused, Denied)
        assert (refused.used, refused.may_wait) == (LIMIT, False)
        for hold in held:
            hold.settle(1, 1, 1)
        for replica in replicas:
            assert await replica.stop(10.0)
