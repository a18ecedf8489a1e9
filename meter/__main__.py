"""`python -m meter`: settings, the worker, its HTTP side, signals, exit codes (0 ok, 1 fault, 2 configuration)."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from typing import Any

import structlog
import uvloop
from pydantic import ValidationError

from meter.adapters.http import HttpServer, application
from meter.settings import MeterSettings
from meter.telemetry import configure_logging
from meter.worker import Worker, build
from schemas.errors import TransportError
from schemas.faults import setting_problems
from schemas.process import run_service

STOP_S = 10.0

_log = structlog.get_logger("meter")


def read_settings() -> MeterSettings | None:
    """Return the settings, or None after all their faults were printed."""
    try:
        return MeterSettings()
    except ValidationError as error:
        print(*setting_problems(error, "TOLLWAY_METER_"), sep="\n", file=sys.stderr)
        return None


async def _start(server: HttpServer, worker: Worker) -> None:
    await server.start()
    await worker.start()


async def run(settings: MeterSettings) -> int:
    """Run until a signal or a fault; return the exit code."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    worker = build(settings)
    server = HttpServer(application(worker.waiting, worker.metrics.registry), settings.host, settings.port)
    stopped = asyncio.create_task(stopping.wait(), name="signals")
    starting = asyncio.create_task(_start(server, worker), name="start")
    await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        _log.info("stopped while starting")
        return 0
    try:
        await starting
    except (TransportError, OSError) as error:
        _log.error("cannot start", error=str(error))
        return 1
    # Millions of short-lived events, and rows that stay: look for garbage cycles rarely.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    ends: set[asyncio.Future[Any]] = {stopped, worker.failed}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if worker.failed.done():
        _log.critical("the meter ends", exc_info=worker.failed.result())
        return 1
    _log.info("stopping")
    stop = asyncio.create_task(_stop(server, worker), name="stop")
    await asyncio.wait({stop}, timeout=STOP_S)
    if not stop.done():
        _log.error("did not stop in time; the log is folded again from the last flush")
        return 0
    await stop
    return 0


async def _stop(server: HttpServer, worker: Worker) -> None:
    await worker.stop()
    await server.stop()


async def work(settings: MeterSettings) -> int:
    """Run, and report what ends the meter; return the exit code."""
    try:
        return await run(settings)
    except Exception:  # the last line of the process
        _log.critical("the meter ends", exc_info=True)
        return 1


def main() -> None:
    """Run the meter."""
    uvloop.install()  # for the loop of Faust's consumer thread too
    run_service(read_settings, configure_logging, work)


if __name__ == "__main__":
    main()
