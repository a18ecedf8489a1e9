"""Brings the embedded broker's artifacts into the user's cache before its first start, where progress can be seen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from deploy.kafka import artifacts
from deploy.supervisor.child import Spec
from schemas.errors import TransportError


async def fetch_artifacts(broker: Spec, say: Callable[[str], None]) -> None:
    """Download what the cache lacks, saying each line of progress; nothing if it lacks nothing.

    A process does it, because that can be ended when the start is called off.

    Raises:
        TransportError: something could not be had; with the reason and the remedy.
    """
    directory = artifacts.cache_dir() / "kafka"
    if all(jar.path(directory).exists() for jar in artifacts.load_lock()):
        return
    process = await asyncio.create_subprocess_exec(
        broker.command[0], "-m", "deploy.kafka", "fetch",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=dict(broker.environment), start_new_session=True,
    )  # fmt: skip
    last = ""
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            last = line.decode(errors="replace").rstrip()
            say(last)
        if await process.wait() != 0:
            raise TransportError(last.removeprefix("error: ") or "the broker's artifacts could not be fetched")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
