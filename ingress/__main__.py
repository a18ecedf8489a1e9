"""`python -m ingress [--check-config | --replay DIR]`: settings, loop, signals, exit codes.

0 stopped, and the broker has everything; 1 fault; 2 configuration; 3 stopped, and the log has events left for the next
run. `--replay` sends the spool of another instance, which is dead, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path

import structlog
import uvloop
from pydantic import ValidationError

from ingress.adapters.driver import wall_clock_ms
from ingress.adapters.foreign import replay, spools_in
from ingress.adapters.wal import WalCorrupt
from ingress.app import run
from ingress.settings import IngressSettings
from ingress.telemetry import configure_logging
from schemas.errors import ConfigError, TransportError
from schemas.faults import setting_problems
from schemas.process import run_service

REPLAY_S = 3_600.0
"""How long a spool may take to be sent."""
_log = structlog.get_logger("ingress")


def read_settings() -> IngressSettings | None:
    """Return the settings, or None after all their faults were printed."""
    try:
        return IngressSettings()
    except ValidationError as error:
        print(*setting_problems(error, "TOLLWAY_INGRESS_"), sep="\n", file=sys.stderr)
        return None


async def serve(settings: IngressSettings) -> int:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # Requests make short-lived objects without cycles, and rows and plans stay: look for garbage rarely.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    return await run(settings, stopping)


async def replay_all(settings: IngressSettings, paths: list[str]) -> int:
    """Send the spools in the first of `paths`."""
    if not paths:
        raise ConfigError(["--replay: name the state directory of an instance that is dead"])
    for path in spools_in(Path(paths[0])):
        sent = await replay(path, settings.kafka, wall_clock_ms, REPLAY_S)
        _log.info("replayed", path=sent.path, runs=sent.runs, records=sent.records)
    return 0


async def work(settings: IngressSettings) -> int:
    """Do what the command line asks for; return the exit code."""
    arguments = sys.argv[1:]
    try:
        if "--replay" in arguments:
            return await replay_all(settings, arguments[arguments.index("--replay") + 1 :])
        return await serve(settings)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except (TransportError, WalCorrupt) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception:  # the last line of the process
        _log.critical("the ingress ends", exc_info=True)
        return 1


def main() -> None:
    """Run the process."""
    run_service(read_settings, configure_logging, work, uvloop.new_event_loop)


if __name__ == "__main__":
    main()
