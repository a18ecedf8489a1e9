"""Requests that do not arrive: they have a time, and no connection, event or reservation is kept for them beyond it."""

from __future__ import annotations

import asyncio

import msgspec

from tests.stream.ingress_lab import RawClient, chat, client, post, running

BODY = msgspec.json.encode(chat())


async def test_a_body_that_does_not_arrive_is_refused() -> None:
    """408 in the provider's shape, an event that charges nothing, and the connection ends."""
    async with running() as lab:
        lab.services.upload_s = 0.1
        raw = await RawClient.connect(lab)
        raw.send(post(BODY, f"content-length: {len(BODY)}")[:-5])
        status, headers, body = await raw.answer()
        assert (status, headers["connection"]) == (408, "close")
        error = msgspec.json.decode(body)["error"]
        assert (error["code"], "0.1 s" in error["message"]) == ("request_timeout", True)
        assert await raw.at_end()
        (event,) = await lab.journal.until(1)
        assert (event.status, event.error, event.http_status) == ("refused", "upload_timeout", 408)
        assert (event.usage_source, event.charge_requests) == ("none", 0)
        await raw.close()


async def test_a_trickle_is_no_arrival() -> None:
    """Bytes that keep coming do not prolong the time."""
    async with running() as lab:
        lab.services.upload_s = 0.1
        raw = await RawClient.connect(lab)
        raw.send(post(BODY, "content-length: 60000"))

        async def trickle() -> None:
            while True:
                raw.send(b" ")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(trickle())
        assert (await raw.answer())[0] == 408
        dripping.cancel()
        await raw.close()


async def test_a_head_that_does_not_arrive_is_refused() -> None:
    """408 too; there is no exchange yet, so there is no event."""
    async with running() as lab:
        lab.services.upload_s = 0.1
        raw = await RawClient.connect(lab)
        raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        assert (await raw.answer())[0] == 408
        assert await raw.at_end()
        assert lab.journal.events == []
        await raw.close()


async def test_requests_that_arrive_in_time_are_not_disturbed() -> None:
    """In pieces, one after the other, longer than the time in all; an answer may take longer than an upload."""
    async with running() as lab, client(lab) as http:
        lab.services.upload_s = 0.2
        raw = await RawClient.connect(lab)
        for _ in range(3):
            request = post(msgspec.json.encode(chat("[[sim delay_ms=120]] x")))
            raw.send(request[:-7])
            await asyncio.sleep(0.02)
            raw.send(request[-7:])
            assert (await raw.answer())[0] == 200
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200
        await raw.close()


async def test_a_request_behind_another_waits_for_its_turn() -> None:
    """A pipelined request that arrives in part while the one before is answered is refused in its turn, not before."""
    async with running() as lab:
        lab.services.upload_s = 0.1
        raw = await RawClient.connect(lab)
        raw.send(post(msgspec.json.encode(chat("[[sim delay_ms=300]] x"))) + post(BODY)[:-5])
        assert (await raw.answer())[0] == 200
        assert (await raw.answer())[0] == 408
        assert [event.http_status for event in await lab.journal.until(2)] == [200, 408]
        await raw.close()
