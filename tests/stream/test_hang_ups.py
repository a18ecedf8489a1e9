"""Clients that hang up on real sockets: what is read on, what is hung up on, and what of it is charged."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ingress.adapters.driver import Driver
from schemas.usage import UsageEvent
from tests.stream.ingress_lab import POLICY, Lab, RawClient, chat, post, running

CANCEL = POLICY.replace("base_url: simulated", "base_url: simulated, on_disconnect: cancel")
LONG = "[[sim output=160 chunks=160 delay_ms=2]] x"


def _capped(cap: str) -> str:
    return POLICY.replace("oai: {protocol: openai,", f"oai: {{protocol: openai, drain: {cap},")


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def _flags(event: UsageEvent) -> tuple[str, ...]:
    return () if event.detail is None else event.detail.flags


async def _hang_up(lab: Lab, prompt: str, *, after: bytes = b"", **fields: Any) -> None:
    """Send a request, wait for `after` in the answer, or for the provider to have the request, and hang up."""
    before = lab.simulator.ledger.totals.received
    raw = await RawClient.connect(lab)
    raw.send(post(msgspec.json.encode(chat(prompt, **fields))))
    if after:
        await raw.reader.readuntil(after)
    else:
        await _until(lambda: lab.simulator.ledger.totals.received > before)
    await raw.close()


# -- read on ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_on_and_charged_as_the_provider_bills_it() -> None:
    """Usage, not an estimate; the provider's own account has the same; the connection serves the next request."""
    async with running() as lab:
        await _hang_up(lab, LONG, after=b"content", stream=True)
        (event,) = await lab.journal.until(1)
        assert (event.status, event.error, event.usage_source) == ("cancelled", "client_gone", "provider")
        assert (event.http_status, event.charge_requests, _flags(event)) == (200, 1, ("drained",))
        (billed,) = lab.simulator.ledger.entries
        assert (event.usage.all_input, event.usage.all_output) == (billed.input, billed.output) == (billed.input, 160)
        assert lab.stats.drains == {"whole": 1}
        await _until(lambda: lab.pool.idle_connections == 1)
        assert len(lab.simulator.connections) == lab.pool.opened_total == 1


async def test_a_whole_answer_is_read_on() -> None:
    """The client left before the head: it was told nothing, and pays for what was made."""
    async with running() as lab:
        await _hang_up(lab, "[[sim output=77 delay_ms=200]] x")
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, event.http_status) == ("cancelled", "provider", 0)
        assert (event.usage.output, _flags(event)) == (77, ("drained",))


async def test_an_answer_that_fails_while_it_is_read_on() -> None:
    """The provider's fault ends the reading; what came is charged by estimate."""
    async with running() as lab:
        await _hang_up(
            lab, "[[sim output=500 chunks=100 delay_ms=2 fail=reset_midway]] x", after=b"content", stream=True
        )
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, _flags(event)) == ("cancelled", "estimated", ("drain_cut",))
        assert 0 < event.usage.output < 500
        assert lab.stats.drains == {"failed": 1}


@pytest.mark.parametrize("cap", ["{most_time: 100ms}", "{most_bytes: 4 KiB}"])
async def test_an_answer_beyond_the_cap_is_given_up(cap: str) -> None:
    """Time or bytes: then the provider is hung up on, and what came is charged by estimate."""
    async with running(_capped(cap)) as lab:
        await _hang_up(lab, "[[sim output=500 chunks=500 delay_ms=5]] x", after=b"content", stream=True)
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, _flags(event)) == ("cancelled", "estimated", ("drain_cut",))
        assert 0 < event.usage.output < 500
        await _until(lambda: not lab.simulator.connections)
        assert lab.stats.drains == {"cut": 1}


async def test_only_so_many_answers_are_read_on() -> None:
    """One more is hung up on at once, and counted."""
    async with running() as lab:
        lab.services.drains.most = 2
        for _ in range(3):
            await _hang_up(lab, LONG, after=b"content", stream=True)
        events = await lab.journal.until(3)
        assert sorted((event.usage_source, _flags(event)) for event in events) == [
            ("estimated", ()), ("provider", ("drained",)), ("provider", ("drained",)),
        ]  # fmt: skip
        assert lab.stats.drains == {"whole": 2, "refused": 1}


async def test_a_client_that_reads_slowly_and_hangs_up_does_not_stop_the_reading() -> None:
    """What was held back for it is read now."""
    async with running(_capped("{most_bytes: 64 MiB}")) as lab:
        raw = await RawClient.connect(lab)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        raw.send(post(msgspec.json.encode(chat("[[sim output=2000000 chunks=2000]] x", stream=True))))
        await _until(lambda: any(c.attempt is not None and c.attempt.is_paused for c in lab.pool.connections))
        raw.writer.transport.abort()
        await raw.close()
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage.output, _flags(event)) == ("cancelled", 2_000_000, ("drained",))


async def test_nothing_is_left_behind() -> None:
    """Of many clients that hang up at many moments: no connection, task, timer or exchange."""
    async with running() as lab:
        for number in range(30):
            await _hang_up(lab, f"[[sim output=40 chunks=20 delay_ms={number % 4}]] x", after=b"content", stream=True)
        events = await lab.journal.until(30)
        assert {event.status for event in events} <= {"cancelled", "settled"}
        assert all(event.usage.output == 40 for event in events)
        await _until(lambda: not len(lab.services.drains) and lab.pool.idle_connections == lab.pool.open_connections)
        assert lab.stats.draining == 0
        gc.collect()
        assert not [found for found in gc.get_objects() if isinstance(found, Driver)]
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("provider")]


async def test_a_stop_lets_answers_be_read_on() -> None:
    """Within the drain time of the process, though no client is connected any more."""
    async with running(drain_s=10) as lab:
        await _hang_up(lab, LONG, after=b"content", stream=True)
        await _until(lambda: lab.stats.draining == 1)
        await lab.server.stop()
        (event,) = lab.journal.events
        assert (event.status, event.usage.output, _flags(event)) == ("cancelled", 160, ("drained",))


async def test_a_stop_gives_up_what_outlasts_the_drain_time() -> None:
    """At its end the answer is estimated, and nothing is read on any more, whoever hangs up then."""
    async with running(drain_s=1) as lab:
        slow = "[[sim output=100000 chunks=100000 delay_ms=5]] x"
        await _hang_up(lab, slow, after=b"content", stream=True)
        connected = await RawClient.connect(lab)
        connected.send(post(msgspec.json.encode(chat(slow, stream=True))))
        await connected.reader.readuntil(b"content")
        await lab.server.stop()
        events = await lab.journal.until(2)
        assert {(event.status, event.usage_source) for event in events} == {("cancelled", "estimated")}
        assert sorted(map(_flags, events)) == [(), ("drain_cut",)]
        await connected.close()


# -- hung up on ------------------------------------------------------------------------------------------------------


async def test_a_policy_may_hang_up_while_the_provider_works() -> None:
    """`cancel`: the provider is hung up on, and the request is charged by estimate."""
    async with running(CANCEL) as lab:
        await _hang_up(lab, "[[sim delay_ms=5000]] x")
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, event.charge_requests) == ("cancelled", "estimated", 1)
        assert (event.usage.output, _flags(event)) == (0, ())
        await _until(lambda: not lab.simulator.connections)


async def test_a_policy_may_hang_up_inside_a_stream() -> None:
    """`cancel`: the provider is hung up on; what was delivered is charged."""
    async with running(CANCEL) as lab:
        await _hang_up(lab, LONG, after=b"content", stream=True)
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, event.http_status) == ("cancelled", "estimated", 200)
        assert 0 < event.usage.output < 160
        await _until(lambda: not lab.simulator.connections)


async def test_a_request_that_waits_for_a_connection_was_never_sent() -> None:
    """All connections are busy: who hangs up meanwhile is charged nothing, whatever the policy says."""
    busy = POLICY.replace("oai: {protocol: openai,", "oai: {protocol: openai, max_connections: 1,")
    async with running(busy) as lab:
        first = await RawClient.connect(lab)
        first.send(post(msgspec.json.encode(chat("[[sim output=100 chunks=100 delay_ms=5]] x", stream=True))))
        await first.reader.readuntil(b"content")
        second = await RawClient.connect(lab)
        second.send(post(msgspec.json.encode(chat())))
        await _until(lambda: lab.pool.waiting_requests == 1)
        await second.close()
        (event,) = await lab.journal.until(1)
        assert (event.status, event.usage_source, event.charge_requests) == ("cancelled", "none", 0)
        assert lab.simulator.ledger.totals.received == 1
        await first.answer_rest()
        await first.close()
