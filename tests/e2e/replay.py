"""Replays a trace of real LLM traffic (arrival, input tokens, output tokens) through ingress replicas."""

from __future__ import annotations

import asyncio
import csv
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Call:
    """One invocation of the trace: seconds after its beginning, and its tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int


@dataclass
class Told:
    """What the clients were told, summed."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    longest_wait_ms: int = 0
    """What the request waited for room that waited longest."""


def peak(amounts: list[tuple[float, int]], window_s: float) -> int:
    """Return the most that a window which slides over two buckets ever counts, wherever its edges fall.

    `amounts` are (second, amount) in order. At a moment it counts its own bucket so far, and of the one before the
    part that is not yet past.
    """
    most = 0.0
    for phase in range(12):
        buckets: dict[int, int] = {}
        for at_s, amount in amounts:
            number, into_s = divmod(at_s + phase * window_s / 12, window_s)
            buckets[int(number)] = buckets.get(int(number), 0) + amount
            before = buckets.get(int(number) - 1, 0) * (1 - into_s / window_s)
            most = max(most, buckets[int(number)] + before)
    return math.ceil(most)


def read_trace(path: Path) -> list[Call]:
    """Return the calls of a trace file in order of arrival."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    moments = [datetime.fromisoformat(row["TIMESTAMP"][:26] + "+00:00") for row in rows]
    return [
        Call((at - moments[0]).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for at, row in zip(moments, rows, strict=True)
    ]


async def replay(calls: list[Call], urls: list[str], secrets: list[str], speed: float) -> Told:
    """Send every call at its time divided by `speed`, spread over `urls` and `secrets`; return what was told."""
    told = Told()
    loop = asyncio.get_running_loop()
    began = loop.time()
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client, asyncio.TaskGroup() as group:
        for number, call in enumerate(calls):
            await asyncio.sleep(max(0.0, began + call.at_s / speed - loop.time()))  # the trace's own pace
            group.create_task(_send(client, urls[number % len(urls)], secrets[number % len(secrets)], call, told))
    return told


async def _send(client: httpx.AsyncClient, url: str, secret: str, call: Call, told: Told) -> None:
    wish = f"[[sim usage_input={call.input_tokens} output={call.output_tokens}]] Replayed."
    body = {
        "model": "gpt-4o-mini",
        "max_tokens": max(1, call.output_tokens),
        "messages": [{"role": "user", "content": wish}],
    }
    answer = await client.post(url + "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"})
    answer.raise_for_status()
    usage = answer.json()["usage"]
    told.requests += 1
    told.longest_wait_ms = max(told.longest_wait_ms, int(answer.headers.get("x-tollway-waited-ms", 0)))
    told.input_tokens += usage["prompt_tokens"]
    told.output_tokens += usage["completion_tokens"]
