"""A simulated provider that writes down what it saw, as a process: its options, its signals, its ready line."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import uvloop

from deploy.simulator import Simulator


def run(name: str, about: str | None, book: str, make: Callable[[Path], Simulator]) -> int:
    """Serve what `make` returns for the file of `--book` until a signal comes; return the exit code.

    `name` is the module's, and the last part of it what the ready line begins with.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--port", type=int, required=True, help="port to listen on, 0 for a free one")
    parser.add_argument(f"--{book}", dest="book", type=Path, required=True, metavar="FILE", help="file to append to")
    options = parser.parse_args()
    uvloop.run(_serve(name.rpartition(".")[2], options.port, make, options.book))
    return 0


async def _serve(name: str, port: int, make: Callable[[Path], Simulator], book: Path) -> None:
    provider = make(book)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await provider.start(port)
    print(f"{name}: ready at {provider.url}", flush=True)
    await stopped.wait()
    await provider.stop()
