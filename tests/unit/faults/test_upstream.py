"""The provider of `make test-faults`: what reaches it is on the medium before it is answered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.faults.upstream import Reader, Upstream


def _request(wish: str, nonce: str, model: str = "m", first: str = "") -> bytes:
    prompt = f"[[sim {wish}]] {first} nonce={nonce}"
    body = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": prompt}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_arrivals_and_whole_answers_are_written_down(tmp_path: Path) -> None:
    """An answer in full has both lines, one that is cut off and an error have arrived; errors use nothing."""
    upstream, ledger = Upstream(tmp_path / "ledger"), Reader(tmp_path / "ledger")
    await upstream.start()
    for wish, nonce in (("output=5 cached=1", "n1"), ("output=5 fail=truncate", "n2"), ("status=500", "n3")):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.rpartition(":")[2]))
        writer.write(_request(wish, nonce))
        assert (await reader.readline()).startswith(b"HTTP/1.1")
        writer.close()
    first, second, third = ledger.read()
    assert (first.nonce, first.output, first.cached, first.is_complete) == ("n1", 5, 1, True)
    assert (second.nonce, second.output, second.is_complete) == ("n2", 5, False)
    assert (third.nonce, third.input, third.output) == ("n3", 0, 0)
    await upstream.stop()


async def test_a_model_that_fails_first_does_and_the_next_one_serves(tmp_path: Path) -> None:
    """Both attempts are written down, each with its model; the same words in the prompt do nothing to other models."""
    upstream, ledger = Upstream(tmp_path / "ledger"), Reader(tmp_path / "ledger")
    await upstream.start()
    said = []
    for model in ("chat-first", "chat-second"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.rpartition(":")[2]))
        writer.write(_request("output=5", "n1", model, "first=status:503"))
        said.append((await reader.readline()).split()[1])
        writer.close()
    assert said == [b"503", b"200"]
    first, second = ledger.read()
    assert (first.nonce, first.model, first.output) == ("n1", "chat-first", 0)
    assert (second.nonce, second.model, second.output, second.is_complete) == ("n1", "chat-second", 5, True)
    await upstream.stop()


async def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    """A line that is not whole yet is read when it is."""
    path = tmp_path / "ledger"
    ledger = Reader(path)
    assert not list(ledger.read())
    line = b'{"type":"a","id":"i","nonce":"n","input":1,"output":2,"cached":0}\n'
    path.write_bytes(line + line[:9].replace(b"i", b"i"))
    assert len(list(ledger.read())) == 1
    with path.open("ab") as file:
        file.write(line[9:].replace(b'"i"', b'"j"') + b'{"type":"e","id":"j"}\n')
    assert [each.is_complete for each in ledger.read()] == [False, True]
