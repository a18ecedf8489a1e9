"""Waits for the broker when a process starts: tries again, less and less often, for a stated time.

What is connected to is the caller's; every fault of a broker that is away or not up yet counts as "not yet".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from schemas.connection import KafkaConnection
from schemas.errors import TransportError

WAIT_S = 60.0
"""A process that has not found its broker by then ends: whoever keeps it running starts it anew."""
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0
TELL_S = 10.0
"""What is waited for is said once in this time, and whenever the fault is another one."""


async def until_connected(
    connection: KafkaConnection, prefix: str, connect: Callable[[], Awaitable[None]],
    disconnect: Callable[[], Awaitable[None]], tell: Callable[..., object],
    faults: tuple[type[Exception], ...] = (), wait_s: float = WAIT_S,
) -> None:  # fmt: skip
    """Call `connect` until it succeeds; after each failure `disconnect`, which may find anything half done.

    Args:
        connection: where the broker is.
        prefix: of the settings that say so.
        connect: may fail by TransportError, OSError (TimeoutError is one) or one of `faults`; all else comes out.
        disconnect: undoes what `connect` has done of its work.
        tell: called with a line and its fields, as a logger's method is.
        faults: other exceptions that mean "not yet".
        wait_s: seconds; may be infinite.

    Raises:
        TransportError: not connected within `wait_s`; says where the broker was looked for, and what to do.
    """
    not_yet: tuple[type[Exception], ...] = (TransportError, OSError, *faults)
    loop = asyncio.get_running_loop()
    address, remedy = connection.bootstrap, f"start the broker, or name another in {prefix}KAFKA__BOOTSTRAP"
    began, told_at, told, backoff_s = loop.time(), 0.0, "", FIRST_BACKOFF_S
    while True:
        try:
            await connect()
            return
        except not_yet as error:
            fault = str(error) or type(error).__name__
        await disconnect()
        waited_s = loop.time() - began
        if waited_s >= wait_s:
            raise TransportError(f"the broker at {address} did not answer for {waited_s:.0f} s ({fault}); {remedy}")
        if fault != told or loop.time() - told_at >= TELL_S:
            told, told_at = fault, loop.time()
            tell(
                "waiting for the broker", address=address, fault=fault, waited_s=round(waited_s, 1),
                gives_up_after_s=wait_s if wait_s < math.inf else None, remedy=remedy,
            )  # fmt: skip
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
