"""`python -m deploy.simulator --port N [--ledger FILE]`: the simulated provider as a process."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from deploy.simulator import __doc__ as about
from deploy.simulator.server import Simulator


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line; exits with 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.simulator",
        description=about,
        epilog="example: python -m deploy.simulator --port 8701 --ledger ledger.jsonl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8701, help="port to listen on, 0 for a free one (%(default)s)")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="append a JSON line per completed answer")
    parser.add_argument("--require-key", metavar="KEY", help="refuse every other provider key with 401")
    return parser.parse_args(argv)


async def serve(arguments: argparse.Namespace) -> int:
    """Listen until SIGINT or SIGTERM."""
    simulator = Simulator(ledger=arguments.ledger, require_key=arguments.require_key)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        url = await simulator.start(arguments.port, arguments.host)
    except OSError as error:
        print(f"simulator: cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    print(f"simulator: ready at {url}", flush=True)
    await stopped.wait()
    await simulator.stop()
    print("simulator: stopped", flush=True)
    return 0


def main() -> int:
    """Run the process; returns its exit code."""
    arguments = parse_arguments(sys.argv[1:])
    try:
        return uvloop.run(serve(arguments))
    except OSError as error:
        print(f"simulator: --ledger {arguments.ledger}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
