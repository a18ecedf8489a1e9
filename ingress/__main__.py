"""`python -m ingress [--check-config]`: settings, loop, signals, exit codes (0 ok, 1 fault, 2 configuration)."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from ingress.app import run
from ingress.settings import IngressSettings
from ingress.telemetry import configure_logging
from schemas.errors import ConfigError
from schemas.faults import setting_problems

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


def main() -> int:
    """Run the process; return its exit code."""
    settings = read_settings()
    if settings is None:
        return 2
    if "--check-config" in sys.argv[1:]:
        return 0
    configure_logging(settings.log_level)
    try:
        return uvloop.run(serve(settings))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except Exception:  # the last line of the process
        _log.critical("the ingress ends", exc_info=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
