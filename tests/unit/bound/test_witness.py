"""The provider of `make test-bound`: what reaches it is on disk before it is answered, however the connection ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.bound.witness import Served, Witness, read

BODY = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": ""}]}


def _request(wish: str) -> bytes:
    body = json.dumps({**BODY, "messages": [{"role": "user", "content": f"[[sim {wish}]] nonce=r.1"}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _seen(journal: Path, is_enough: int) -> list[Served]:
    """Return what the journal holds once it has so many lines."""
    async with asyncio.timeout(10):
        while (text := _text(journal)).count(b"\n") < is_enough:
            await asyncio.sleep(0.005)
    return read(text)


def _text(journal: Path) -> bytes:
    return journal.read_bytes()


async def test_an_answer_is_written_down_with_arrival_and_end(tmp_path: Path) -> None:
    """Tokens, nonce and both moments are there once the answer is."""
    witness = Witness(tmp_path / "journal")
    await witness.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(witness.url.rpartition(":")[2]))
    writer.write(_request("usage_input=5 output=7 delay_ms=20"))
    assert b"200 OK" in await reader.readline()
    (request,) = await _seen(tmp_path / "journal", 2)
    assert (request.nonce, request.input, request.output) == ("r.1", 5, 7)
    assert request.end_ms - request.at_ms >= 15
    writer.close()
    await witness.stop()


async def test_a_request_ends_with_its_connection(tmp_path: Path) -> None:
    """Whoever hangs up is not being answered any more: long before the answer would be complete."""
    witness = Witness(tmp_path / "journal")
    await witness.start()
    _, writer = await asyncio.open_connection("127.0.0.1", int(witness.url.rpartition(":")[2]))
    writer.write(_request("usage_input=5 output=7 delay_ms=60000"))
    (request,) = await _seen(tmp_path / "journal", 1)
    assert request.end_ms == request.at_ms + 60_000
    writer.transport.abort()
    (request,) = await _seen(tmp_path / "journal", 2)
    assert request.end_ms - request.at_ms < 30_000
    await witness.stop()
