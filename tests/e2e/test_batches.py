"""Batches on the whole stack: a line is charged once, to whom it belongs, whoever fetches it and whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.batches import (
    Provider,
    batches,
    charged,
    cost_of,
    create,
    file_of,
    provider,
    requests_of,
    results,
    stands_for,
    until,
    used_by,
)  # fmt: skip
from tests.e2e.corrections import settled
from tests.e2e.stack import Stack, eventually
from tests.surroundings import Surroundings

POINTS = ("enforcer.batch_written", "enforcer.batch_charged", "enforcer.batch_noted")
"""The first while something is charged, the second while that is completed, the third at what is charged next."""
DIED = re.compile(r"enforcer \(pid \d+\) died with signal SIGKILL")
LAST = 100_000
"""The number of a line that is charged after everything that was seen before it."""


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Provider]:
    """Yield a provider of the test's own."""
    with provider(tmp_path) as found:
        yield found


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    """Return surroundings for the processes of a stack."""
    place = tmp_path / "surroundings"
    place.mkdir()
    return Surroundings(place)


def fence(stack: Stack, secret: str, org: str, number: int = LAST) -> list[dict[str, Any]]:
    """Return the rows once a batch that is seen only now is charged, and with it all that was seen before."""
    batch = create(stack, secret, range(number, number + 1), "o4-mini", sim="no_usage")
    results(stack, secret, batch)
    return until(stack, org, lambda found: any(row["note"] == f"batch {batch}" for row in found))


def break_off(stack: Stack, secret: str, batch: str, replica: int) -> None:
    """Begin to fetch results, and hang up after the first bytes."""
    file_id = stack.openai(secret, replica).batches.retrieve(batch).output_file_id
    url = f"{stack.ready['ingress'][replica]}/v1/files/{file_id}/content"
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("GET", url, headers={"Authorization": f"Bearer {secret}"}) as answer,
    ):
        assert len(next(answer.iter_bytes(100))) == 100


def check(stack: Stack, upstream: Provider, org: str, found: list[dict[str, Any]]) -> None:
    """Compare the provider's ledger with the history, with the budget's row in the meter, and all books with verify."""
    used = upstream.used()
    lines = [row for row in found if row["kind"] != "folded"]
    totals = [row for row in found if row["kind"] == "folded"]
    assert stands_for(found) == used.total()
    left = used - used_by(lines)
    assert not used_by(lines) - used, "a line is charged twice, or otherwise than it was used"
    assert stands_for(totals) == left.total()
    for at, name in enumerate(("input", "cached", "output", "reasoning"), 1):
        assert sum(int(row[name]) for row in totals) == sum(key[at] * count for key, count in left.items())  # type: ignore[misc]  # the first is no number
    assert {(row["team"], row["tier"], row["status"]) for row in found} == {("search", "batch", "settled")}
    assert sum(int(row["cost_nanos"]) for row in found) == cost_of(used)
    eventually(lambda: settled(stack, org).get("search") == cost_of(used))
    assert not settled(stack, org).get("ml")
    assert stack.json("verify")["ok"] is True


def made_elsewhere(upstream: Provider) -> str:
    """Create a batch of four lines at the provider itself, and return its id."""
    with openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="any", max_retries=0) as client:
        file = client.files.create(file=("in.jsonl", file_of(range(1_100, 1_104), "o4-mini")), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return made.id


@pytest.mark.slow
def test_a_line_is_charged_once_whoever_fetches_it(stack: Stack, upstream: Provider, org: str) -> None:
    """Several keys at both replicas, often, at once, and in part: the ledgers of provider, meter and history agree."""
    stack.apply(upstream.policy(org))
    owner, other = (stack.key(org=org, team=team)["secret"] for team in ("search", "ml"))
    lines = create(stack, owner, range(700), "gpt-4o-mini", "o4-mini", sim="no_usage no_model")
    summed = create(stack, owner, range(1_000, 1_020), "gpt-4o-mini", replica=1)
    messages = stack.anthropic(owner).messages.batches.create(requests=requests_of(range(2_000, 2_030))).id
    elsewhere = made_elsewhere(upstream)
    assert stack.openai(owner).batches.retrieve(elsewhere).status == "completed"
    assert len(results(stack, other, summed)) == 20
    for replica in (0, 1):
        assert stack.anthropic(other, replica).messages.batches.retrieve(messages).results_url == (
            f"{stack.ready['ingress'][replica]}/v1/messages/batches/{messages}/results"
        )
        break_off(stack, other, lines, replica)
    asked = [(secret, batch, replica) for secret in (owner, other) for batch in (lines, messages) for replica in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda one: results(stack, *one), asked * 2))
    assert [len(names) for names in told] == [700, 700, 30, 30] * 4
    found = fence(stack, owner, org)
    check(stack, upstream, org, found)
    totals = {row["note"]: (row["stands_for"], row["flags"]) for row in found if row["kind"] == "folded"}
    assert totals == {
        f"batch {summed}": (20, ["batch_total"]), f"batch {elsewhere}": (4, ["batch_total", "batch_found"]),
    }  # fmt: skip
    assert {row["operation"] for row in found} == {"chat.completions", "messages"}
    shown = batches(stack)
    assert [(shown[name]["charged_by"], shown[name]["requests"]) for name in (lines, summed, messages)] == [
        ("lines", 700), ("total", 20), ("lines", 30),
    ]  # fmt: skip
    assert summed in stack.run("batches")
    results(stack, other, lines, 1)
    stack.openai(other).batches.retrieve(summed)
    check(stack, upstream, org, fence(stack, owner, org, LAST + 1))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_change_nothing(
    new_stack: Callable[..., Stack], surroundings: Surroundings, upstream: Provider, org: str
) -> None:
    """The enforcer dies at each of its points while it charges batches, and a replica while results pass."""
    surroundings.crash("enforcer", *POINTS)
    stack = new_stack(ingress=2)
    stack.surroundings = surroundings.environment
    stack.up()
    stack.apply(upstream.policy(org))
    owner, other = (stack.key(org=org, team=team)["secret"] for team in ("search", "ml"))
    made = [
        create(stack, owner, range(510), "o4-mini", sim="no_usage"),
        stack.anthropic(owner, 1).messages.batches.create(requests=requests_of(range(600, 605))).id,
        create(stack, owner, range(700, 703), "gpt-4o-mini"),
    ]
    for batch in made:
        for secret, replica in ((other, 0), (owner, 1)):
            results(stack, secret, batch, replica)
    eventually(lambda: len(DIED.findall(stack.log())) == len(POINTS), 90)
    charged(stack, org, 510 + 5 + 3)
    replica_dies(stack, other, made[0])
    for batch in made:
        results(stack, other, batch, 1)
    check(stack, upstream, org, fence(stack, owner, org))


def pid(stack: Stack, role: str) -> int:
    """Return the id of the process that has a role now; 0 while there is none."""
    return int(json.loads((stack.state / "run.json").read_text())["pids"].get(role, 0))


def replica_dies(stack: Stack, secret: str, batch: str) -> None:
    """Kill a replica while results pass through it, and wait until it serves again."""
    file_id = stack.openai(secret).batches.retrieve(batch).output_file_id
    url = f"{stack.ready['ingress'][0]}/v1/files/{file_id}/content"
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("GET", url, headers={"Authorization": f"Bearer {secret}"}) as answer,
    ):
        next(answer.iter_bytes(100))
        os.kill(eventually(lambda: pid(stack, "ingress-1")), signal.SIGKILL)
    stack.hang_up()
    eventually(stack.is_well, 60)


def test_what_is_not_allowed(stack: Stack, upstream: Provider, org: str) -> None:
    """Nobody has batches who was not given them; a used-up budget lets none be created, and what is paid for be had."""
    document = upstream.policy(org)
    stack.apply(document.replace(", operations: [files, batches]", "").replace(", operations: [messages.batches]", ""))
    secret = stack.key(org=org)["secret"]
    gpt, claude = stack.openai(secret), stack.anthropic(secret)
    with pytest.raises(openai.PermissionDeniedError):
        gpt.batches.list()
    with pytest.raises(anthropic.PermissionDeniedError):
        claude.messages.batches.create(requests=requests_of(range(1)))
    stack.apply(document.replace("amount: 1000 USD", "amount: 0.0001 USD"))
    file = gpt.files.create(file=("in.jsonl", file_of(range(5), "o4-mini")), purpose="batch")
    done = create(stack, secret, range(5), "o4-mini")
    results(stack, secret, done)
    charged(stack, org, 5)

    def is_refused() -> bool:
        try:
            gpt.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        except openai.RateLimitError as refusal:
            return "Blocked by budget" in refusal.message and "team-month" in refusal.message
        return False

    eventually(is_refused)
    with pytest.raises(anthropic.RateLimitError, match="team-month"):
        claude.messages.batches.create(requests=requests_of(range(1)))
    assert len(results(stack, secret, done)) == 5
