"""Whether a broker serves: it answers for its cluster and for every consumer group, not only on its port."""

from __future__ import annotations

import asyncio

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

_PROBE_GROUPS = ("a", "b", "c", "d")
"""Java's hash of a one-letter string is its code: four neighbours fall into the four partitions of the offsets topic,
so that between them they ask every group coordinator."""

_CONNECT_TIMEOUT_S = 1.0
_POLL_S = 0.02
_REQUEST_TIMEOUT_MS = 2_000


async def is_serving(bootstrap: str) -> bool:
    """Tell whether the broker at `bootstrap` answers a metadata request and, for groups, each of its coordinators."""
    if not await _listens(bootstrap):
        return False  # asked first: the client would log every refused connection as an error
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await client.start()
        if not (await client.describe_cluster())["brokers"]:
            return False
        for group in _PROBE_GROUPS:
            await client.list_consumer_group_offsets(group)
    except (KafkaError, OSError, TimeoutError):
        return False
    else:
        return True
    finally:
        await client.close()


async def until_serving(bootstrap: str, deadline_s: float) -> None:
    """Return when the broker at `bootstrap` serves.

    Raises:
        TimeoutError: it does not within `deadline_s` seconds.
    """
    async with asyncio.timeout(deadline_s):
        while not await is_serving(bootstrap):
            await asyncio.sleep(_POLL_S)


async def _listens(bootstrap: str) -> bool:
    host, _, port = bootstrap.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
