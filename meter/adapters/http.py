"""The meter's HTTP side: health, readiness and metrics, in the worker's own loop. It takes no signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


class QuietServer(uvicorn.Server):
    """A server whose process belongs to somebody else."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def application(waiting: Callable[[], list[str]], registry: CollectorRegistry) -> FastAPI:
    """Return the routes; `waiting` says what the worker still lacks, nothing if it is ready."""
    app = FastAPI(title="Tollway meter", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the loop turns."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether every assigned partition is published."""
        lacks = waiting()
        return JSONResponse({"ready": not lacks, "waiting": lacks}, status_code=503 if lacks else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in the Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class HttpServer:
    """Serves an application until it is stopped."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._server = QuietServer(
            uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, lifespan="off")
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen; OSError if the address is taken."""
        self._task = asyncio.create_task(self._serve(), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise OSError("the HTTP server ended while starting")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def _serve(self) -> None:
        try:
            await self._server.serve()
        except SystemExit as error:
            raise OSError(f"cannot listen on {self._server.config.host}:{self._server.config.port}") from error
