"""The ladder at the cap, over real sockets: queue, wait for room, throttle, downgrade, warn; hang-up and stop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ingress.adapters.driver import wall_clock_ms
from ingress.core.ladder import Pacer
from schemas.keys import VirtualKey
from schemas.quota import Member, Snapshot, Weight
from tests.stream.ingress_lab import POLICY, SECRET, Lab, chat, client, running

SLOW = chat("[[sim delay_ms=200]] hello")
CRITICAL = "tw-" + "c" * 43
ONE_AT_ONCE = """
limits: [{name: one, per: [org], concurrency: 1, ladder: {100%: queue}, queue: {wait: 5s, most: 2}}]
"""


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.002)


async def _post(http: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await http.post("/v1/chat/completions", json=body, headers=headers)


def _begin(http: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(_post(http, body, **headers), name="request")


async def _busy_and_queued(lab: Lab, http: httpx.AsyncClient) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
    """Return a request that holds the only place, and one that waits for it."""
    first = _begin(http, SLOW)
    await _until(lambda: len(lab.journal.admissions) == 1)
    second = _begin(http, chat())
    await _until(lambda: len(lab.waiters) == 1)
    return first, second


async def test_queued_request_is_served_when_its_turn_comes() -> None:
    """It gets its answer as soon as the one before has ended, and is told its place and how long it took."""
    async with running(POLICY + ONE_AT_ONCE) as lab, client(lab) as http:
        first, second = await _busy_and_queued(lab, http)
        assert (await first).status_code == (await second).status_code == 200
        headers = second.result().headers
        assert headers["x-tollway-queue-position"] == "1"
        assert 0 < int(headers["x-tollway-waited-ms"]) < 2_000
        assert "x-tollway-waited-ms" not in first.result().headers
        (decision,) = lab.journal.decisions
        assert (decision.action, decision.rule) == ("queue", "one")
        metrics = (await http.get("/metrics")).text
        assert 'tollway_ingress_rule_actions_total{action="queue"} 1.0' in metrics
        assert "tollway_ingress_requests_waiting 0.0" in metrics
        assert 'tollway_ingress_waited_seconds_count{for="queue"} 1.0' in metrics


async def test_full_queue_refuses_and_more_important_requests_come_first() -> None:
    """Two may wait; of those, tier 0 is served first, whenever it came."""
    async with running(POLICY + ONE_AT_ONCE) as lab, client(lab) as http:
        digest = hashlib.sha256(CRITICAL.encode()).hexdigest()
        lab.keyring.put("k-0", VirtualKey("k-0", f"sha256:{digest}", "acme", team="search", tier=0))
        first, normal = await _busy_and_queued(lab, http)
        critical = _begin(http, SLOW, authorization=f"Bearer {CRITICAL}")
        await _until(lambda: len(lab.waiters) == 2)
        refused = await _post(http, chat())
        assert refused.status_code == 429
        assert "no free place in the queue" in refused.json()["error"]["message"]
        await critical
        assert not normal.done()
        assert [task.result().status_code for task in (first, critical)] == [200, 200]
        assert critical.result().headers["x-tollway-queue-position"] == "1"
        assert (await normal).status_code == 200


async def test_queue_ends_at_its_deadline() -> None:
    """A request whose turn does not come gets 429 with what happened; it was never sent."""
    policy = POLICY + ONE_AT_ONCE.replace("wait: 5s", "wait: 60ms")
    async with running(policy) as lab, client(lab) as http:
        first, second = await _busy_and_queued(lab, http)
        refused = await second
        assert refused.status_code == 429
        assert not first.done()
        assert "in the queue" in refused.json()["error"]["message"]
        assert int(refused.headers["x-tollway-waited-ms"]) >= 60
        await first
        assert lab.simulator.ledger.totals.requests == 1


async def test_client_that_hangs_up_leaves_the_queue() -> None:
    """Its place is free at once, and its end is recorded."""
    async with running(POLICY + ONE_AT_ONCE) as lab, client(lab) as http:
        first, second = await _busy_and_queued(lab, http)
        second.cancel()
        (event,) = await lab.journal.until(1)
        assert (event.status, event.error, event.charge_requests) == ("cancelled", "client_gone", 0)
        assert len(lab.waiters) == 0
        assert (await first).status_code == 200


async def test_stopping_replica_sends_the_queue_elsewhere() -> None:
    """503 at once, while the request that runs is let to its end."""
    async with running(POLICY + ONE_AT_ONCE, drain_s=10) as lab, client(lab) as http:
        first, second = await _busy_and_queued(lab, http)
        lab.waiters.drain()
        refused = await second
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["retry-after"] == "1"
        assert not first.done()
        assert (await first).status_code == 200
        late = _begin(http, SLOW)
        await _until(lambda: len(lab.journal.admissions) == 2)
        assert (await _post(http, chat())).status_code == 429
        await late


async def test_request_waits_for_room_that_other_replicas_have() -> None:
    """Where the limit has room and this replica does not, a snapshot brings it, and nobody is refused."""
    policy = POLICY + "limits: [{name: minute, per: [org], rpm: 2}]\n"
    async with running(policy) as lab, client(lab) as http:
        for shard in lab.registry.shards:
            shard.weight = Weight(1, 2, 0)
        wanted: list[int] = []
        lab.registry.waiting.on_want = wanted.append
        assert (await _post(http, chat())).status_code == 200
        second = _begin(http, chat())
        await _until(lambda: len(lab.waiters) == 1)
        (partition,) = set(wanted)
        members = [Member("ingress-1", 1, 0, Weight(1, 1, 0))]
        snapshot = Snapshot(partition, "meter", 1, 5, 0, 0, True, 0, 1, members, [], [])
        assert lab.registry.install(snapshot, "ingress-1", 1, wall_clock_ms()).is_installed
        answer = await second
        assert answer.status_code == 200
        assert "x-tollway-waited-ms" in answer.headers
        assert "x-tollway-queue-position" not in answer.headers
        assert lab.journal.decisions == []


async def test_request_waits_for_room_no_longer_than_the_published_time() -> None:
    """If nobody gives room, the refusal comes after a quarter of a second."""
    policy = POLICY + "limits: [{name: minute, per: [org], rpm: 2}]\n"
    async with running(policy) as lab, client(lab) as http:
        for shard in lab.registry.shards:
            shard.weight = Weight(1, 2, 0)
        assert (await _post(http, chat())).status_code == 200
        refused = await _post(http, chat())
        assert refused.status_code == 429
        assert 250 <= int(refused.headers["x-tollway-waited-ms"]) < 1_000
        assert refused.headers["retry-after"] == "1"


async def test_throttled_request_is_delayed_and_served() -> None:
    """Each request takes its time, but no longer than the bound; none is refused before the limit."""
    policy = POLICY + "limits: [{name: day, per: [org], rpd: 90, ladder: {1%: throttle, 100%: block}}]\n"
    async with running(policy) as lab, client(lab) as http:
        lab.context.pacer = Pacer(longest_ms=80)
        answers = [await _post(http, chat()) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert all(int(answer.headers["x-tollway-waited-ms"]) >= 79 for answer in answers)
        assert all("rule=day" in answer.headers["x-tollway-warning"] for answer in answers)
        actions = sorted(decision.action for decision in lab.journal.decisions)
        assert actions == ["throttle", "throttle", "warn"]  # warned once a minute, throttled each time


async def test_client_that_hangs_up_is_paced_no_longer() -> None:
    """The timer goes with the client."""
    policy = POLICY + "limits: [{name: day, per: [org], rpd: 10, ladder: {1%: throttle, 100%: block}}]\n"
    async with running(policy) as lab, client(lab) as http:
        paced = _begin(http, chat())
        await _until(lambda: lab.stats.waiting == 1)
        paced.cancel()
        (event,) = await lab.journal.until(1)
        assert (event.status, lab.stats.waiting) == ("cancelled", 0)
        assert lab.simulator.ledger.totals.requests == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_downgraded_request_is_served_by_the_cheaper_model(stream: bool) -> None:
    """The provider is asked for the other model; headers and record name both."""
    models = POLICY.replace("models:\n", "models:\n  gpt-4o: {provider: oai, downgrade: gpt-4o-mini}\n")
    rule = "limits: [{name: big, match: {model: gpt-4o}, per: [org], rpm: 10, ladder: {1%: downgrade, 100%: block}}]\n"
    async with running(models + rule) as lab, client(lab) as http:
        answer = await _post(http, chat(stream=stream) | {"model": "gpt-4o"})
        assert answer.status_code == 200
        assert answer.headers["x-tollway-model"] == "gpt-4o-mini"
        assert answer.headers["x-tollway-downgraded-from"] == "gpt-4o"
        assert '"model":"gpt-4o-mini' in answer.text.replace(" ", "")
        (decision,) = lab.journal.decisions
        assert (decision.action, decision.attribution.model, decision.downgraded_to) == (
            "downgrade", "gpt-4o", "gpt-4o-mini",
        )  # fmt: skip
        assert (await lab.journal.until(1))[0].status == "settled"


async def test_warned_and_shadowed_requests_go_on() -> None:
    """Both are recorded; only the warning is told, and both cost the client nothing."""
    rules = """
limits:
  - {name: loud, per: [org], rpm: 10, ladder: {1%: warn}}
  - {name: quiet, per: [org], rpm: 1, mode: shadow}
  - {name: gentle, per: [org], rpm: 1, mode: soft}
"""
    async with running(POLICY + rules) as lab, client(lab) as http:
        answers = [await _post(http, chat()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        told = [answer.headers.get_list("x-tollway-warning") for answer in answers]
        assert [[line.split(";")[0] for line in lines] for lines in told] == [
            ["rule=loud"], ["rule=loud", "rule=gentle"], ["rule=loud", "rule=gentle"],
        ]  # fmt: skip
        actions = sorted((decision.action, decision.rule) for decision in lab.journal.decisions)
        assert actions == [("shadow", "quiet")] * 2 + [("soft", "gentle")] * 2 + [("warn", "loud")]


async def test_cap_on_a_request_is_400_with_the_parameter() -> None:
    """The client's own protocol, the field to change, and the most that it may be."""
    policy = POLICY + "limits: [{name: brief, per: [org], max_output_tokens: 50}]\n"
    async with running(policy) as lab, client(lab) as http:
        refused = await _post(http, chat(max_tokens=51))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
        assert (await _post(http, chat(max_tokens=50))).status_code == 200
        body = {"model": "claude-sonnet", "max_tokens": 51, "messages": [{"role": "user", "content": "x"}]}
        refused = await http.post("/v1/messages", json=body, headers={"x-api-key": SECRET})
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert "'max_tokens' of at most 50" in refused.json()["error"]["message"]
        assert lab.simulator.ledger.totals.requests == 1
