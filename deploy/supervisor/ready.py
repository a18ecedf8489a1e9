"""Waits until a supervised process can do its work, and gives up early where it never will."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx

from deploy.supervisor.child import Child
from schemas.errors import ConfigError, TransportError

DEADLINE_S = 120.0
POLL_S = 0.08
GIVE_UP_AFTER_DEATHS = 3
"""A process that dies this often while a deployment starts is not going to work."""
CONFIG_EXIT = 2
MISSING_CHARACTERS = 100

Answer = tuple[bool, str]
"""Whether a process is ready, and if not, what is missing."""


async def until_ready(
    child: Child, check: Callable[[], Awaitable[Answer]], note: Callable[[str, str], None],
    deadline_s: float = DEADLINE_S,
) -> None:  # fmt: skip
    """Return when `check` says that `child` is ready; `note(role, missing)` is told what it waits for.

    Raises:
        ConfigError: the process ended with the exit code of a wrong configuration.
        TransportError: it keeps dying, or is not ready at the deadline.
    """
    role = child.spec.role
    deadline = asyncio.get_running_loop().time() + deadline_s
    while True:
        ready, missing = await check()
        if ready:
            return
        note(role, missing)
        if child.last_exit is not None and child.last_exit.code == CONFIG_EXIT:
            raise ConfigError(
                [f"{role}: {line}" for line in problems_in(child.crash_report()) or [str(child.last_exit)]]
            )
        if child.deaths >= GIVE_UP_AFTER_DEATHS:
            raise TransportError(f"{role} died {child.deaths} times while starting; its log is {child.spec.log}")
        if asyncio.get_running_loop().time() > deadline:
            why = f" ({missing})" if missing else ""
            raise TransportError(f"{role} is not ready after {deadline_s:g} s{why}; its log is {child.spec.log}")
        await asyncio.sleep(POLL_S)


def problems_in(lines: list[str]) -> list[str]:
    """Return the problems that a process has logged, without the log around them; else its lines as they are."""
    problems: list[str] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("problems"), list):
            problems += map(str, entry["problems"])
    return problems or lines


def http_check(client: httpx.AsyncClient, url: str, path: str = "/readyz") -> Callable[[], Awaitable[Answer]]:
    """Return a check that asks `url` + `path`."""

    async def check() -> Answer:
        try:
            answer = await client.get(url + path)
        except httpx.HTTPError:
            return False, ""
        return answer.status_code == httpx.codes.OK, "" if answer.is_success else missing_of(answer)

    return check


def sent_check(client: httpx.AsyncClient, url: str) -> Callable[[], Awaitable[Answer]]:
    """Return a check that asks the ingress at `url` whether everything in its write-ahead log has been sent."""

    async def check() -> Answer:
        try:
            wal = (await client.get(f"{url}/tollway/v1/status")).json()["wal"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False, ""
        return bool(wal["replayed"]) and not wal["unsent_events"], f"{wal['unsent_events']} events to be sent"

    return check


def missing_of(answer: httpx.Response) -> str:
    """Return in a few words what a process that is not ready says it lacks."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text.strip()[:MISSING_CHARACTERS]
    if not isinstance(body, dict):
        return ""
    waits = body.get("waiting") or body.get("missing") or body.get("reason") or body.get("problems") or ""
    if not isinstance(waits, list):
        return str(waits)[:MISSING_CHARACTERS]
    more = f" and {len(waits) - 1} more" if len(waits) > 1 else ""
    return f"{str(waits[0])[:MISSING_CHARACTERS]}{more}" if waits else ""
