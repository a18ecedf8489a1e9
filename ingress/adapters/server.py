"""uvicorn as a part of a process: started, and stopped with a drain, by the composition root.

Signals are the process's own business; uvicorn is not asked to handle any.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

from ingress.adapters.client_protocol import serving
from ingress.adapters.driver import Services
from ingress.settings import IngressSettings

BACKLOG = 4_096
_log = structlog.get_logger("ingress.server")


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class HttpServer:
    """Listens, serves exchanges by `services` and everything else by an ASGI application."""

    def __init__(self, app: Any, services: Services, settings: IngressSettings) -> None:
        """Make a server that does not listen yet."""
        self._settings = settings
        self._drains = services.drains
        tls: dict[str, Any] = {}
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            tls = {"ssl_certfile": str(settings.tls_cert_file), "ssl_keyfile": str(settings.tls_key_file)}
        self._config = uvicorn.Config(
            app,
            http=serving(services),
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.drain_s,
            **tls,
        )
        self._server = _QuietServer(self._config)
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen; OSError if that is not possible."""
        host = self._settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, self._settings.port), family=family, backlog=BACKLOG)
        self.port = listener.getsockname()[1]
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listener]), name="http-server")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)
        if self._task.done():
            self._task.result()

    @property
    def connections(self) -> int:
        """Open connections of clients."""
        return len(self._server.server_state.connections)

    async def stop(self) -> None:
        """Stop accepting, let running requests end within the drain time, then cut those that are left.

        Answers that are read on without their clients have the same time.
        """
        if self._task is None:
            return
        deadline_s = asyncio.get_running_loop().time() + self._settings.drain_s
        self._server.should_exit = True
        await self._task
        self._task = None
        await self._drains.close(deadline_s)
        left: Any = list(self._server.server_state.connections)
        for connection in left:
            connection.transport.abort()
        if left:
            _log.warning("requests cut at the end of the drain", connections=len(left), drain_s=self._settings.drain_s)
        while self._server.server_state.connections:
            await asyncio.sleep(0.001)
