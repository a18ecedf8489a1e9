"""The history process: opens the store, runs the worker, serves the API, stops in order. Its composition root."""

from __future__ import annotations

import asyncio
import gc
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from meter.adapters.http import HttpServer
from meter.sink import api
from meter.sink.auditor import Auditor
from meter.sink.core.errors import StoreUnavailable
from meter.sink.engines import embedded, server
from meter.sink.lane import LaneStatus
from meter.sink.repair import Repairer
from meter.sink.settings import HistorySettings
from meter.sink.store import ClickHouse, Store
from meter.sink.telemetry import Metrics
from meter.sink.worker import Worker
from schemas.errors import ConfigError, TransportError

HTTP_STOP_S = 3.0

_log = structlog.get_logger("history")


class History:
    """The parts of the process, and what the API shows of them."""

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self.store: Store = ClickHouse(_connect(settings), settings.database, _limits(settings))
        self.metrics = Metrics(self.lanes)
        self._worker = Worker(settings, self.store)
        self.auditor = Auditor(settings, self._worker, self.store, self.metrics.audited)
        self.repairer = Repairer(self._worker, self.store, self.auditor)
        self._opened = False
        self._stopping = asyncio.Event()

    def is_open(self) -> bool:
        """See `api.History`."""
        return self._opened

    def waiting(self) -> list[str]:
        """See `api.History`."""
        return self._worker.waiting if self._opened else ["the store and its schema"]

    def lanes(self) -> list[LaneStatus]:
        """See `api.History`."""
        return self._worker.status()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()
        self._worker.stop()

    async def run(self) -> int:
        """Run until a signal or a fault; return the exit code: 0 stopped, 1 fault, 2 a schema to be mended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        http = HttpServer(api.application(self, self._settings.admin_token), self._settings.host, self._settings.port)
        try:
            await http.start()
            await self._open()
            await self._work()
        except ConfigError as error:
            _log.error("cannot start", problems=error.problems)
            return 2
        except (TransportError, OSError) as error:
            _log.critical("the history ends", error=str(error))
            return 1
        finally:
            await self._close(http)
        return 0

    async def _open(self) -> None:
        began = time.monotonic()
        await asyncio.to_thread(self.store.open)
        seconds = time.monotonic() - began
        self.metrics.open_seconds.set(seconds)
        self._opened = True
        _log.info("store open", engine=self.store.version, seconds=round(seconds, 3))
        # Events live for a second and come by the thousands: look for garbage cycles rarely.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1_000)

    async def _work(self) -> None:
        work = asyncio.create_task(self._worker.run(), name="sink")
        stopping = asyncio.create_task(self._stopping.wait(), name="signals")
        audits = asyncio.create_task(self.auditor.run(), name="audit")
        try:
            await asyncio.wait({work, stopping, audits}, return_when=asyncio.FIRST_COMPLETED)
            if audits.done():  # it ends by a fault alone
                self._worker.stop()
                audits.result()
            _log.info("stopping: inserting what was read")
            await work
        finally:
            stopping.cancel()
            audits.cancel()

    async def _close(self, http: HttpServer) -> None:
        try:
            async with asyncio.timeout(HTTP_STOP_S):
                await http.stop()
        except TimeoutError:
            _log.warning("connections were cut")
        try:
            await asyncio.to_thread(self.store.close)
        except StoreUnavailable as error:
            _log.warning("closing the store failed", error=str(error))
        _log.info("stopped")


def _connect(settings: HistorySettings) -> Any:
    if settings.clickhouse_url is not None:
        return server(settings.clickhouse_url.get_secret_value(), settings.clickhouse_answer_s)
    # The embedded engine is handed batches in files. What a killed process left of them goes.
    place = settings.state_dir / "clickhouse-inserts"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.iterdir():
        left.unlink()
    tempfile.tempdir = str(place.resolve())
    return embedded(Path(settings.state_dir) / "clickhouse")


def _limits(settings: HistorySettings) -> dict[str, str | int]:
    return {
        "max_execution_time": max(1, round(settings.sql_seconds)),
        "max_result_rows": settings.sql_rows,
        "max_result_bytes": settings.sql_bytes,
        "max_memory_usage": settings.sql_memory_bytes,
        "result_overflow_mode": "throw",
    }
