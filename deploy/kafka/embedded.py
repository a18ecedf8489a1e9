"""The embedded broker as its owner sees it: start and wait until it serves, stop, address.

Adapts `python -m deploy.kafka run`, which becomes the broker. Knows no topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Self

from deploy.kafka.broker import BrokerError, BrokerFiles, port_of
from deploy.kafka.readiness import until_serving

_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 10.0
_LOG_TAIL_BYTES = 4_000
_POLL_S = 0.02


class EmbeddedKafka:
    """A single-node Apache Kafka whose state is under `state_dir/broker`; it dies with the thread that started it.

    Args:
        state_dir: where everything is kept; the broker continues with what it finds there.
        port: the port to listen on; None: that of the last start where it is free, else a free one.
    """

    def __init__(self, state_dir: Path, port: int | None = None) -> None:
        self._files = BrokerFiles(state_dir.resolve())
        self._wanted_port = port
        self._port: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def bootstrap(self) -> str:
        """Return `HOST:PORT` for clients. Known once the broker has started."""
        if self._port is None:
            raise BrokerError("the broker has no address before start()")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Return the process id of the broker's Java, None while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    @property
    def log_file(self) -> Path:
        """Return the file with Kafka's warnings."""
        return self._files.log

    async def start(self, deadline_s: float = _START_DEADLINE_S) -> None:
        """Start the broker and return when metadata and every group coordinator answer.

        Downloads (at the first start of this user) do not count towards the deadline.

        Raises:
            BrokerError: it ended, or does not serve within the deadline; the message holds the end of its log.
        """
        if self.pid is not None:
            return
        command = [sys.executable, "-m", "deploy.kafka", "run", "--state", str(self._files.state_dir)]
        if self._wanted_port is not None:
            command += ["--port", str(self._wanted_port)]
        # A session of its own: Ctrl-C is for the owner, who stops the broker last.
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            await self._until_serving(deadline_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, deadline_s: float = _STOP_DEADLINE_S) -> None:
        """Stop the broker cleanly; kill it at the deadline. Returns when the process is gone."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), deadline_s)
            except TimeoutError:
                self.kill()
        await process.wait()

    def kill(self) -> None:
        """Kill the broker at once (SIGKILL), as a crash would."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> int:
        """Wait until the broker's process ends; return its exit code."""
        if self._process is None:
            raise BrokerError("the broker was not started")
        return await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _until_serving(self, deadline_s: float) -> None:
        process = self._process
        assert process is not None
        ended = asyncio.create_task(process.wait(), name="broker ended while starting")
        serving = asyncio.create_task(self._serving(process.pid, deadline_s), name="broker serves")
        try:
            await asyncio.wait({ended, serving}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise BrokerError(f"the broker ended with code {ended.result()} while starting.{self._log_tail()}")
            await serving
        except TimeoutError:
            raise BrokerError(f"the broker does not serve after {deadline_s:g} s.{self._log_tail()}") from None
        finally:
            ended.cancel()
            serving.cancel()

    async def _serving(self, pid: int, deadline_s: float) -> None:
        """Wait without a limit for the broker's preparations (they may download), then for its service."""
        while (port := port_of(self._files.state_dir, pid)) is None:
            await asyncio.sleep(_POLL_S)
        self._port = port
        await until_serving(self.bootstrap, deadline_s)

    def _log_tail(self) -> str:
        if not self._files.log.exists():
            return ""
        with self._files.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f" The end of {self._files.log}:\n{tail}" if tail else ""
