"""What tests of batches share: a provider with its ledger in a file, files of lines, and what was charged."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy.supervisor.spawn import _tie_to_parent
from tests.e2e.corrections import rows_of
from tests.e2e.stack import Stack, eventually

CHAT: Any = "/v1/chat/completions"
POLICY = """
version: 1
orgs:
  ORG: {projects: [chat], teams: [search, ml], users: [ada, bob]}
providers:
  o-ORG: {protocol: openai, base_url: URL}
  a-ORG: {protocol: anthropic, base_url: URL}
models:
  gpt-4o-mini:
    provider: o-ORG
    price: {input: 0.15, cache_read: 0.08, output: 0.60, service_tiers: {batch: {input: 0.07, cache_read: 0.04, output: 0.30}}}
  o4-mini:
    provider: o-ORG
    price: {input: 1.10, cache_read: 0.60, output: 4.40, service_tiers: {batch: {input: 0.55, cache_read: 0.30, output: 2.20}}}
  claude-haiku-4-5:
    provider: a-ORG
    price: {input: 1, cache_read: 0.1, output: 5, service_tiers: {batch: {input: 0.5, cache_read: 0.05, output: 2.5}}}
  account: {provider: o-ORG, operations: [files, batches]}
  claude-account: {provider: a-ORG, operations: [messages.batches]}
limits: [{name: minute, per: [team], rpm: 1000000, tpm: 1000}]
budgets: [{name: team-month, per: [team], amount: 1000 USD, period: month}]
"""  # noqa: E501  (one price a line)
NANOS_PER_TOKEN = {
    "gpt-4o-mini": (70, 40, 300), "o4-mini": (550, 300, 2_200), "claude-haiku-4-5": (500, 50, 2_500),
}  # fmt: skip
"""At the tier `batch`: input, cached input, output."""

Used = tuple[str, int, int, int, int]
"""Model; tokens of input, cached input, output and reasoning."""


class Provider:
    """The simulated provider as a process of the test's own, which outlives deployments."""

    def __init__(self, url: str, ledger: Path) -> None:
        self.url = url
        self._ledger = ledger

    def used(self) -> Counter[Used]:
        """Return what each completed answer used, by its ledger; all of them are lines of batches."""
        entries = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        assert {entry["tier"] for entry in entries} <= {"batch"}
        return Counter(
            (
                entry["model"], entry["input"] - entry.get("cached", 0), entry.get("cached", 0),
                entry["output"] - entry.get("reasoning", 0), entry.get("reasoning", 0),
            )
            for entry in entries
        )  # fmt: skip

    def policy(self, org: str) -> str:
        """Return a policy for one organisation with accounts here."""
        return POLICY.replace("ORG", org).replace("URL", f"{self.url}/v1")


@contextlib.contextmanager
def provider(place: Path) -> Iterator[Provider]:
    """Run a simulated provider."""
    ledger = place / "ledger.jsonl"
    ledger.touch()
    command = [sys.executable, "-m", "deploy.simulator", "--port", "0", "--ledger", str(ledger)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_tie_to_parent())
    try:
        assert process.stdout is not None
        yield Provider(process.stdout.readline().split()[-1], ledger)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wish(number: int) -> str:
    """Return a prompt whose answer uses what no other answer does."""
    return f"[[sim output={50 + number} usage_input={200 + number} cached={number % 90} reasoning={number % 40}]] x"


def file_of(numbers: range, *models: str) -> bytes:
    """Return an input file of OpenAI's with a line a number; models take turns."""
    return b"".join(
        json.dumps(
            {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": {
                "model": models[number % len(models)], "messages": [{"role": "user", "content": wish(number)}]}}
        ).encode() + b"\n"
        for number in numbers
    )  # fmt: skip


def requests_of(numbers: range) -> Any:
    """Return the requests of a message batch, one a number."""
    return [
        {"custom_id": f"line-{number}", "params": {
            "model": "claude-haiku-4-5", "max_tokens": 50_000, "messages": [{"role": "user", "content": wish(number)}]}}
        for number in numbers
    ]  # fmt: skip


def create(stack: Stack, secret: str, numbers: range, *models: str, sim: str = "", replica: int = 0) -> str:
    """Create a batch through a replica and return its id."""
    client = stack.openai(secret, replica)
    file = client.files.create(file=("in.jsonl", file_of(numbers, *models)), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"sim": sim} if sim else {}
    )
    return made.id


def results(stack: Stack, secret: str, batch: str, replica: int = 0) -> list[str]:
    """Fetch the results of a batch of either provider; returns the names of its lines."""
    if batch.startswith("msgbatch_"):
        return [line.custom_id for line in stack.anthropic(secret, replica).messages.batches.results(batch)]
    client = stack.openai(secret, replica)
    file_id = client.batches.retrieve(batch).output_file_id
    assert file_id is not None
    return [json.loads(line)["custom_id"] for line in client.files.content(file_id).text.splitlines()]


def cost_of(used: Counter[Used]) -> int:
    """Return what usage costs in nano-dollars."""
    return sum(count * _cost(*key) for key, count in used.items())


def _cost(model: str, given: int, cached: int, made: int, thought: int) -> int:
    of_input, of_cached, of_output = NANOS_PER_TOKEN[model]
    return given * of_input + cached * of_cached + (made + thought) * of_output


def rows(stack: Stack, org: str) -> list[dict[str, Any]]:
    """Return the history's rows about lines and whole batches of an organisation."""
    return rows_of(
        stack,
        "SELECT model, operation, team, toInt64(tokens_input) AS input, toInt64(tokens_cache_read) AS cached, "
        "toInt64(tokens_output) AS output, toInt64(tokens_reasoning) AS reasoning, service_tier AS tier, flags, note, "
        "toInt64(stands_for) AS stands_for, toInt64(ifNull(cost_usd, -1) * 1000000000) AS cost_nanos, status, kind "
        f"FROM tollway.usage WHERE org = '{org}' AND note LIKE 'batch %'",
    )


def used_by(found: list[dict[str, Any]]) -> Counter[Used]:
    """Return what each row says that was used, as `Provider.used` does; of rows that stand for a line."""
    return Counter(
        (row["model"], *(int(row[name]) for name in ("input", "cached", "output", "reasoning"))) for row in found
    )


def until(stack: Stack, org: str, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Return the rows of an organisation once they are enough."""

    def look() -> list[dict[str, Any]] | None:
        found = rows(stack, org)
        return found if is_enough(found) else None

    return eventually(look, 90)  # type: ignore[no-any-return]  # what `look` returns


def charged(stack: Stack, org: str, count: int) -> None:
    """Wait until an organisation is charged for as many lines, and not for more."""
    assert stands_for(until(stack, org, lambda found: stands_for(found) >= count)) == count


def stands_for(found: list[dict[str, Any]]) -> int:
    """Return how many lines rows stand for."""
    return sum(int(row["stands_for"]) for row in found)


def batches(stack: Stack) -> dict[str, dict[str, Any]]:
    """Return what `tollway batches` says, by batch."""
    return {batch["batch"]: batch for batch in stack.json("batches")["batches"]}
