"""Kill −9 at any moment: nothing that a client received is lost, and nothing is counted twice."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading

import httpx
import pytest

from tests.e2e.stack import Stack, eventually, policy

BUDGET = "[{name: org-month, per: [org], amount: 1000 USD, period: month}]"


PAUSE_S = 0.01
"""Of a client after each answer: so many requests that something is always under way, and time for what is killed."""


class Traffic:
    """Clients that send until told to stop, and remember the tokens of each whole answer they received."""

    def __init__(self, stack: Stack, secret: str, threads: int = 4) -> None:
        self.stack, self.secret = stack, secret
        self.received: list[tuple[str, int, int]] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _send(self, number: int) -> None:
        urls = self.stack.ready["ingress"]
        url = urls[number % len(urls)] + "/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self.secret}"}
        with httpx.Client(timeout=10) as client:
            while not self.ending.is_set() and self.sent < 20_000:
                with self.lock:
                    self.sent += 1
                    output = 1 + self.sent % 50
                body = {"model": "gpt-4o-mini", "max_tokens": 64,
                        "messages": [{"role": "user", "content": f"[[sim output={output}]] Hello."}]}  # fmt: skip
                try:
                    answer = client.post(url, headers=headers, json=body)
                except httpx.HTTPError:
                    self.ending.wait(0.05)
                    continue
                if answer.status_code == 200:
                    usage = answer.json()["usage"]
                    found = (answer.headers["x-tollway-event-id"], usage["prompt_tokens"], usage["completion_tokens"])
                    with self.lock:
                        self.received.append(found)
                self.ending.wait(PAUSE_S)

    def stop(self) -> None:
        """Let running requests end."""
        self.ending.set()
        for thread in self.threads:
            thread.join(30)


def _assert_counted_once(stack: Stack, received: list[tuple[str, int, int]]) -> None:
    verified = stack.json("verify")
    assert verified["ok"] is True, verified
    query = "SELECT toString(id) AS event, input_tokens, output_tokens FROM tollway.usage_events"
    rows = json.loads(stack.run("sql", query + " WHERE status = 'settled'", "--format", "json"))
    stored = {row["event"]: (int(row["input_tokens"]), int(row["output_tokens"])) for row in _records(rows)}
    assert len(stored) == len(_records(rows)), "an event is stored twice"
    missing = [event for event in received if event[0] not in stored]
    assert not missing, f"{len(missing)} of {len(received)} answers were lost: {missing[:3]}"
    assert all(stored[event] == (given, out) for event, given, out in received)


def _records(found: object) -> list[dict[str, str]]:
    if isinstance(found, dict):
        return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    assert isinstance(found, list)
    return found


def test_kill_everything_and_start_again(stack: Stack, org: str) -> None:
    """After kill −9 of all processes under load, the next start has every answer that a client received."""
    stack.apply(policy(budgets=BUDGET, org=org))
    key = stack.key(org=org)
    traffic = Traffic(stack, key["secret"])
    eventually(lambda: len(traffic.received) > 300, 60)
    stack.kill()
    traffic.stop()
    stack.up()
    _assert_counted_once(stack, traffic.received)
    more = Traffic(stack, key["secret"])
    eventually(lambda: len(more.received) > 50, 30)
    more.stop()
    _assert_counted_once(stack, more.received)


@pytest.mark.slow
def test_kill_each_process_under_load(stack: Stack, org: str) -> None:
    """Each process is killed twice and started again while clients go on; afterwards everything is counted once."""
    stack.apply(policy(budgets=BUDGET, org=org))
    traffic = Traffic(stack, stack.key(org=org)["secret"])
    eventually(lambda: len(traffic.received) > 100, 60)
    for role in 2 * ("meter", "history", "enforcer", "ingress-1", "broker"):
        victim = stack.pid(role)
        os.kill(victim, signal.SIGKILL)
        eventually(functools.partial(_is_back, stack, role, victim), 60)
        seen = len(traffic.received)
        eventually(functools.partial(_has_more, traffic, seen + 100), 60)
    traffic.stop()
    _assert_counted_once(stack, traffic.received)


def _has_more(traffic: Traffic, count: int) -> bool:
    return len(traffic.received) > count


def _is_back(stack: Stack, role: str, victim: int) -> bool:
    try:
        return stack.pid(role) not in (victim, 0)
    except (AssertionError, KeyError):
        return False
