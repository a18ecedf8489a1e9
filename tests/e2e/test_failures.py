"""The failure table by real faults: broker, meter and a replica frozen by process id, a replica killed under load."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.stack import Stack, eventually, policy

pytestmark = pytest.mark.slow

REPLICAS = 2
LIMIT, ALLOWANCE = 40, 4
AFTER_S = 3.0
LIMITS = f"""[
  {{name: key-hour, match: {{tier: ["0", "1"]}}, per: [key], rph: {LIMIT}}},
  {{name: experiment-hour, match: {{tier: "2"}}, per: [key], rph: 10000}},
]"""
FAILURE = """
failure: {after: 3s, default: share, tiers: {0: {kafka: open, allowance: 10%}, 2: {kafka: closed, meter: closed}}}
"""


class Answer(NamedTuple):
    """What a client got."""

    status: int
    event: str
    text: str


class Client:
    """One virtual key, whose limit nobody else uses."""

    def __init__(self, stack: Stack, org: str, tier: int) -> None:
        issued = stack.json("keys", "create", "--org", org, "--project", "chat", "--team", "search", "--user", "ada",
                            "--name", f"tier-{tier}", "--tier", str(tier))  # fmt: skip
        self.stack, self.id, self.secret = stack, issued["id"], issued["secret"]
        self.passed: list[str] = []
        """Events of requests that were answered."""

    def send(self, replica: int, count: int = 1) -> list[Answer]:
        """Send requests to one replica, some at a time, and return what came of them."""
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: self._send(replica), range(count)))
        self.passed += [answer.event for answer in answers if answer.status == 200]
        return answers

    def passes(self, replica: int, count: int) -> int:
        """Send requests to one replica; return how many passed. All others were refused by the limit."""
        answers = self.send(replica, count)
        statuses = collections.Counter(answer.status for answer in answers)
        assert set(statuses) <= {200, 429}, answers
        return statuses[200]

    def _send(self, replica: int) -> Answer:
        body = {"model": "gpt-4o-mini", "max_tokens": 16,
                "messages": [{"role": "user", "content": "[[sim usage_input=10 output=5]] Hello."}]}  # fmt: skip
        headers = {"Authorization": f"Bearer {self.secret}"}
        url = self.stack.ready["ingress"][replica] + "/v1/chat/completions"
        answer = httpx.post(url, headers=headers, json=body, timeout=60, trust_env=False)
        return Answer(answer.status_code, answer.headers.get("x-tollway-event-id", ""), answer.text)


@contextlib.contextmanager
def frozen(stack: Stack, role: str) -> Iterator[Callable[[], None]]:
    """Stop a process where it is; yield what lets it go on, which the end does in any case."""
    pid = stack.pid(role)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def is_refused(client: Client, replica: int, what: str) -> bool:
    """Tell whether a request is refused with a 503 that names its tier and what is gone."""
    (answer,) = client.send(replica)
    assert answer.status in (200, 503), answer
    if answer.status == 503:
        assert f"tier 2: the {what}" in json.loads(answer.text)["error"]["message"]
    return answer.status == 503


def goes_on(client: Client, replica: int) -> bool:
    """Tell whether a request passes."""
    return client.send(replica)[0].status == 200


def counted(stack: Stack, client: Client) -> list[dict[str, Any]]:
    """Return the rows of the history that were charged to the client's limit."""
    query = (
        "SELECT toString(id) AS event, instance, epoch, charge_requests, arrayJoin(row_keys) AS row"
        f" FROM tollway.usage_events WHERE key_id = '{client.id}' AND charge_requests > 0"
    )
    rows: list[dict[str, Any]] = json.loads(stack.run("sql", query, "--format", "json"))
    return rows


def assert_counted_once(stack: Stack, *clients: Client, most: int = LIMIT) -> None:
    """Check the ledgers, and that the history has of each client what was answered, once and within `most` a row."""
    verified = stack.json("verify")
    assert verified["ok"] is True, verified
    for client in clients:
        rows = counted(stack, client)
        events = collections.Counter(row["event"] for row in rows)
        assert set(events) >= set(client.passed), "an answer is not counted"
        assert set(events.values()) <= {1}, "an answer is counted twice"
        by_row: collections.Counter[str] = collections.Counter()
        for row in rows:
            by_row[row["row"]] += int(row["charge_requests"])
        assert all(count <= most for count in by_row.values()), by_row


def enough_of_the_hour() -> bool:
    """Tell whether the hour, which limits here count in, lasts for another while."""
    return time.time() % 3600 < 3600 - 90


@pytest.fixture
def failing(stack: Stack, org: str) -> Stack:
    """Return the running stack under a policy whose tiers differ in what they do while something is gone."""
    eventually(enough_of_the_hour, 120)
    stack.apply(policy(LIMITS, org=org) + FAILURE)
    return stack


def test_a_frozen_broker_meets_each_tier_as_the_policy_says(failing: Stack, org: str) -> None:
    """Tier 1 stays within its shares, tier 2 gets a 503 after 3 s, tier 0 has 10 % more a replica; all is counted."""
    stack = failing
    critical, normal, experiment, other = (Client(stack, org, tier) for tier in (0, 1, 2, 1))
    for client in (critical, normal, experiment, other):  # the keys are known everywhere
        for replica in range(REPLICAS):
            eventually(functools.partial(client.passes, replica, 1))
    with frozen(stack, "broker") as thaw:
        began = time.monotonic()
        assert not is_refused(experiment, 0, "broker")
        assert normal.passes(0, LIMIT) < LIMIT
        eventually(lambda: is_refused(experiment, 0, "broker"), 10)
        eventually(lambda: is_refused(experiment, 1, "broker"), 10)
        assert time.monotonic() - began > AFTER_S - 1
        assert normal.passes(1, LIMIT) < LIMIT
        assert normal.passes(0, 5) == 0, "the share is used, and stays so"
        assert LIMIT // 2 <= len(normal.passed) <= LIMIT
        assert critical.passes(0, LIMIT) < LIMIT
        assert critical.passes(1, LIMIT) < LIMIT
        assert LIMIT < len(critical.passed) <= LIMIT + REPLICAS * ALLOWANCE
        assert all(httpx.get(f"{url}/readyz", trust_env=False).is_success for url in stack.ready["ingress"])
        thaw()
        eventually(functools.partial(goes_on, experiment, 0), 30)
        eventually(functools.partial(goes_on, experiment, 1), 30)
    assert critical.passes(0, 5) == 0, "what the allowance was used for is counted, and the limit is used up"
    assert_counted_once(stack, normal, other)
    assert_counted_once(stack, experiment, most=10_000)
    assert_counted_once(stack, critical, most=LIMIT + REPLICAS * ALLOWANCE)
    decisions = stack.json("decision", "list", "--action", "open")["decisions"]
    opened = [decision["id"] for decision in decisions if critical.id in decision["scope"]]
    assert len(opened) == REPLICAS, "once a minute and replica"
    assert all(stack.run("explain", decision).rstrip().endswith("agrees") for decision in opened)


def test_a_frozen_meter_refuses_only_the_tier_that_says_so(failing: Stack, org: str) -> None:
    """Tier 2 is closed after 3 s without news; tiers 0 and 1 go on with what they may have, and no allowance."""
    stack = failing
    critical, normal, experiment = (Client(stack, org, tier) for tier in (0, 1, 2))
    for client in (critical, normal, experiment):
        for replica in range(REPLICAS):
            eventually(functools.partial(client.passes, replica, 1))
    with frozen(stack, "meter") as thaw:
        for replica in range(REPLICAS):
            eventually(functools.partial(is_refused, experiment, replica, "meter"), 15)
            assert critical.passes(replica, LIMIT) < LIMIT
            assert normal.passes(replica, LIMIT) < LIMIT
        assert all(LIMIT // 2 <= len(client.passed) <= LIMIT for client in (critical, normal))
        thaw()
        for replica in range(REPLICAS):
            eventually(functools.partial(goes_on, experiment, replica), 30)
    assert_counted_once(stack, critical, normal)
    assert_counted_once(stack, experiment, most=10_000)


def test_a_replica_that_was_frozen_keeps_the_limit(failing: Stack, org: str) -> None:
    """Cut off for a few seconds while the other one is asked for everything, it goes on with what is its own."""
    stack = failing
    client = Client(stack, org, 1)
    for replica in range(REPLICAS):
        eventually(functools.partial(client.passes, replica, 1))
    with frozen(stack, "ingress-2") as thaw:
        assert client.passes(0, LIMIT) < LIMIT
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > AFTER_S + 1)
        client.passes(0, 5)
        thaw()
        assert client.passes(1, LIMIT) < LIMIT
    eventually(stack.is_well)
    client.passes(0, 10)
    client.passes(1, 10)
    assert len(client.passed) <= LIMIT
    assert_counted_once(stack, client)


def test_a_killed_replica_brings_its_log_along(failing: Stack, org: str) -> None:
    """What it admitted while the broker was frozen is only in its log; it is counted, in its window, by its epoch."""
    stack = failing
    client = Client(stack, org, 1)
    for replica in range(REPLICAS):
        eventually(functools.partial(client.passes, replica, 1))
    victim = stack.pid("ingress-2")
    with frozen(stack, "broker"):
        unsent = {answer.event for answer in client.send(1, 8) if answer.status == 200}
        assert unsent
        os.kill(victim, signal.SIGKILL)
    eventually(lambda: stack.pid("ingress-2") not in (0, victim), 60)
    eventually(stack.is_well, 60)
    eventually(lambda: client.passes(1, 1))
    for replica in range(REPLICAS):
        client.passes(replica, LIMIT)
    assert len(client.passed) <= LIMIT
    assert_counted_once(stack, client)
    rows = counted(stack, client)
    runs = {(row["instance"], row["epoch"]) for row in rows}
    old = {(row["instance"], row["epoch"]) for row in rows if row["event"] in unsent}
    assert len(old) == 1, "they belong to the epoch that took them"
    assert len({run for run in runs if run[0] == min(old)[0]}) == 2, "and others to the next one"
    assert len({row["row"] for row in rows}) == 1, "and to its window"
