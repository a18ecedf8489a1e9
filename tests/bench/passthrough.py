"""The pass-through of our benchmarks: raw ASGI on uvicorn that forwards with aiohttp, and does nothing else.

Run as `python -m tests.bench.passthrough PORT UPSTREAM_URL`. It is the bar that a governed request is compared with:
no key, no limit, no usage, no log.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn

_DROPPED = {b"host", b"content-length", b"connection", b"transfer-encoding"}


class PassThrough:
    """An ASGI application that forwards each request to the same path of `upstream`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.rstrip("/")
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name not in _DROPPED}
        assert self.session is not None
        async with self.session.request(
            scope["method"], self.upstream + scope["path"], data=body, headers=headers
        ) as answer:
            kept = [(name, value) for name, value in answer.raw_headers if name.lower() not in _DROPPED]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60)
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.session.close()
        await send({"type": "lifespan.shutdown.complete"})


def main() -> None:
    """Serve on loopback until stopped."""
    port, upstream = int(sys.argv[1]), sys.argv[2]
    uvicorn.run(
        PassThrough(upstream), host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
