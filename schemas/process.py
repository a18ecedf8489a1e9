"""How a service's process runs and ends: with an exit code, at once, whatever its clients still hold on to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVar


class Settings(Protocol):
    """Of any service."""

    @property
    def log_level(self) -> str:
        """Return the lowest level that is logged."""


S = TypeVar("S", bound=Settings)


def run_service(
    read_settings: Callable[[], S | None], configure_logging: Callable[[str], None],
    work: Callable[[S], Coroutine[Any, Any, int]], new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> NoReturn:  # fmt: skip
    """Do what `python -m <service> [--check-config]` does; ends this process.

    Args:
        read_settings: returns None once it has told what is wrong with them: exit code 2.
        configure_logging: given the level.
        work: see `run_process`.
        new_loop: see `run_process`.
    """
    settings = read_settings()
    if settings is None:
        sys.exit(2)
    if "--check-config" in sys.argv[1:]:
        sys.exit(0)
    configure_logging(settings.log_level)
    run_process(work(settings), new_loop)


def run_process(
    work: Coroutine[Any, Any, int], new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> NoReturn:
    """Run `work`, then end this process with the exit code that it returns.

    The process ends inside of the loop. Closing a loop waits, without a limit, for every task that is left and for
    every thread of its executor; and tasks of a Kafka client that has lost its broker need not end when they are
    cancelled. So `work` closes what has to be closed, within times of its own, and reports its own faults: an
    exception that leaves it takes the long way out.

    Args:
        work: what the process does.
        new_loop: makes the loop; None for asyncio's own.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_then_exit(work))
    raise AssertionError("the process has ended")


async def _then_exit(work: Coroutine[Any, Any, int]) -> None:
    code = await work
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
