"""Decides which port each process listens on, so that restarts keep them and nothing collides."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from schemas.errors import ConfigError

EPHEMERAL = 32_768
"""From here on, systems hand out ports to outgoing connections."""
INTERNAL_OFFSET = 1_000
HIGHEST = 65_535
DEADLINE_S = 5.0
"""What a killed supervisor left behind is gone by then."""


def is_free(port: int) -> bool:
    """Tell whether a server may listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def ingress_ports(first: int, count: int) -> dict[str, int]:
    """Return the port of each ingress replica: `first`, `first + 1`, …; ConfigError beyond the last port."""
    if first + count - 1 > HIGHEST:
        raise ConfigError([f"--port {first}: {count} replicas need ports up to {first + count - 1}; use a lower port"])
    return {f"ingress-{number + 1}": first + number for number in range(count)}


def internal_ports(
    roles: Sequence[str], remembered: Mapping[str, int], ingress: Mapping[str, int], free: Callable[[int], bool]
) -> dict[str, int]:
    """Return a port for each of `roles`: the remembered one, else the next free one away from the ingress ports.

    A remembered port is kept even if it is taken now (`taken` reports that), unless an ingress needs it.
    """
    used = set(ingress.values())
    chosen: dict[str, int] = {}
    for role in roles:
        if remembered.get(role) and remembered[role] not in used:
            chosen[role] = remembered[role]
            used.add(remembered[role])
    candidates = _candidates(min(ingress.values()))
    for role in roles:
        if role not in chosen:
            chosen[role] = next(port for port in candidates if port not in used and free(port))
            used.add(chosen[role])
    return chosen


def _candidates(first: int) -> Iterator[int]:
    start = first + INTERNAL_OFFSET
    if start + 1_000 >= EPHEMERAL:
        start = 10_000 + first % 20_000
    yield from range(start, EPHEMERAL)
    yield from range(10_000, start)
    raise ConfigError(["no free port between 10000 and 32767 on 127.0.0.1; stop what listens there"])


def taken(ports: Mapping[str, int], free: Callable[[int], bool]) -> list[str]:
    """Return a problem for each port that something else listens on, with the remedy."""
    return [_problem(role, port) for role, port in ports.items() if not free(port)]


def _problem(role: str, port: int) -> str:
    if role.startswith("ingress"):
        remedy = "stop what listens there, or name another first port with --port"
    else:
        remedy = "stop what listens there, or remove ports.json from the state directory to have others chosen"
    return f"port {port} (for {role}) is in use on 127.0.0.1; {remedy}"


async def until_free(ports: Mapping[str, int]) -> None:
    """Return when all ports are free; ConfigError naming those that stay taken."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        problems = taken(ports, is_free)
        if not problems:
            return
        if time.monotonic() > deadline:
            raise ConfigError(problems)
        await asyncio.sleep(0.05)
