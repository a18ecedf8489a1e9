"""The processes of a deployment together: who runs under which id, and the order in which they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.supervisor.child import Child, Spec

STOP_ORDER: tuple[tuple[str, ...], ...] = (
    ("ingress-",),  # no more events
    ("enforcer", "meter"),  # what is in the log is folded at the next start
    ("history",),
    ("provider", "broker"),
)
"""Prefixes of roles. Each group ends before the next is asked to."""


FIRST = ("broker", "meter", "history", "enforcer", "ingress", "provider")
"""How roles are listed."""


def _rank(role: str) -> tuple[int, int]:
    kind, _, number = role.partition("-")
    return FIRST.index(kind) if kind in FIRST else len(FIRST), int(number or 0)


def stop_group(role: str) -> int:
    """Return which group of `STOP_ORDER` a role belongs to; the last one if no prefix fits."""
    for number, prefixes in enumerate(STOP_ORDER):
        if role.startswith(prefixes):
            return number
    return len(STOP_ORDER) - 1


class Supervisor:
    """Keeps the children of one deployment.

    Args:
        state: the deployment's state directory.
        say: takes a line for people.
        changed: called when a process id has changed.
    """

    def __init__(self, state: Path, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.children: dict[str, Child] = {}
        self._state, self._say, self._changed = state, say, changed

    @property
    def pids(self) -> dict[str, int]:
        """Return the process id of every role, 0 while a process waits to be started again."""
        return {role: self.children[role].pid for role in sorted(self.children, key=_rank)}

    async def start(self, spec: Spec, gate: int | None = None) -> Child:
        """Start a process and keep it running; with a `gate` it warms up until that opens."""
        child = Child(spec, self._state, self._say, self._changed)
        self.children[spec.role] = child
        await child.start(gate if spec.warm_command else None)
        return child

    async def stop(self, force: asyncio.Event, roles: Sequence[str] | None = None) -> None:
        """Stop all processes (or `roles` alone) in order; `force` set at any time kills what is left."""
        wanted = [role for role in self.children if roles is None or role in roles]
        for number in range(len(STOP_ORDER)):
            group = [role for role in wanted if stop_group(role) == number]
            if group:
                self._say(f"stopping {', '.join(group)}")
            await asyncio.gather(*(self.children[role].stop(force) for role in group))
        for role in wanted:
            del self.children[role]
