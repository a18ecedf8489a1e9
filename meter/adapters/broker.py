"""Waits for the broker when a process of this package starts: adapts `schemas.patience` to aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from aiokafka.errors import KafkaError

from schemas import patience
from schemas.connection import KafkaConnection

_log = structlog.get_logger("broker")


async def until_connected(
    connection: KafkaConnection, prefix: str, connect: Callable[[], Awaitable[None]],
    disconnect: Callable[[], Awaitable[None]], wait_s: float = patience.WAIT_S,
) -> None:  # fmt: skip
    """See `schemas.patience.until_connected`; faults of aiokafka mean "not yet", and those of `disconnect` nothing."""
    await patience.until_connected(
        connection, prefix, connect, partial(_quietly, disconnect), _log.warning, (KafkaError,), wait_s
    )


async def _quietly(disconnect: Callable[[], Awaitable[None]]) -> None:
    """Close what was opened, whatever state a lost broker has left it in."""
    try:
        with contextlib.suppress(KafkaError, OSError):
            await disconnect()
    except asyncio.CancelledError:
        # Without a broker aiokafka hands on the cancellation of its own tasks.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
