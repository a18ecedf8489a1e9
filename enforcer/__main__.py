"""`python -m enforcer`: settings, the worker, signals, exit codes (0 ok, 1 fault, 2 configuration)."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from enforcer.adapters.log import Fenced
from enforcer.settings import EnforcerSettings
from enforcer.telemetry import configure_logging
from enforcer.worker import Worker
from schemas.errors import TollwayError
from schemas.faults import setting_problems
from schemas.process import run_service

KNOWN = (TollwayError, OSError, Fenced)
"""Faults that a line says enough about."""

_log = structlog.get_logger("enforcer")


def read_settings() -> EnforcerSettings | None:
    """Return the settings, or None after all their faults were printed."""
    try:
        return EnforcerSettings()
    except ValidationError as error:
        print(*setting_problems(error, "TOLLWAY_ENFORCER_"), sep="\n", file=sys.stderr)
        return None


async def run(settings: EnforcerSettings) -> int:
    """Run until a signal or a fault; return the exit code."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _log.info("starting", settings=settings.model_dump(mode="json"))
    try:
        await Worker(settings).run(stopping)
    except KNOWN as error:
        _log.critical("the enforcer ends", error=str(error))
        return 1
    except ExceptionGroup as errors:
        known, unknown = errors.split(KNOWN)
        for fault in [] if known is None else known.exceptions:
            _log.critical("the enforcer ends", error=str(fault))
        if unknown is not None:
            _log.critical("the enforcer ends", exc_info=unknown)
        return 1
    except Exception:  # the last line of the process
        _log.critical("the enforcer ends", exc_info=True)
        return 1
    _log.info("stopped")
    return 0


def main() -> None:
    """Run the enforcer."""
    run_service(read_settings, configure_logging, run, uvloop.new_event_loop)


if __name__ == "__main__":
    main()
