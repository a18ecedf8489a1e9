"""The simulator's further routes through the official SDKs, and the answers of a hostile or failing provider."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest

from deploy.simulator import Simulator


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A listening simulator that keeps its entries."""
    simulator = Simulator(keep_entries=True)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def gpt(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    """The OpenAI SDK on the simulator."""
    async with openai.AsyncOpenAI(base_url=simulator.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def plain(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client on the simulator."""
    async with httpx.AsyncClient(base_url=simulator.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
async def test_response_has_usage_tools_and_tier(simulator: Simulator, gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """Whole or streamed, the SDK ends with the same response."""
    prompt = "[[sim output=9 usage_input=30 cached=8 reasoning=4 searches=2 file_searches=1 code_sessions=1]] nonce=r"
    made: Any = await gpt.responses.create(model="gpt-5", input=prompt, service_tier="flex", stream=stream)
    if stream:
        events = [event async for event in made]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        made = events[-1].response
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (30, 9, 39)
    assert made.usage.input_tokens_details.cached_tokens == 8
    assert made.usage.output_tokens_details.reasoning_tokens == 4
    assert len(made.output_text.split()) == 5
    assert [item.type for item in made.output] == [
        *["web_search_call"] * 2, "file_search_call", "code_interpreter_call", "reasoning", "message",
    ]  # fmt: skip
    assert made.tool_usage.web_search.num_requests == 2
    assert (made.status, made.service_tier) == ("completed", "flex")
    (entry,) = simulator.ledger.entries
    assert (entry.operation, entry.nonce, entry.tier, entry.input) == ("responses", "r", "flex", 30)
    assert entry.units == {"web_search": 2, "file_search": 1, "code_session": 1}


async def test_response_that_reaches_its_limit_is_incomplete(gpt: openai.AsyncOpenAI) -> None:
    """The status says so, and in a stream the name of the last event."""
    stream = await gpt.responses.create(model="m", input="x", max_output_tokens=5, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    assert (await gpt.responses.create(model="m", input="x", max_output_tokens=5)).status == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
async def test_legacy_completion(gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """A completion, whole or streamed with its usage."""
    options: Any = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    made: Any = await gpt.completions.create(model="m", prompt="[[sim output=4]] one two", **options)
    chunks = [chunk async for chunk in made] if stream else [made]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert len(text.split()) == 4
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 4)


async def test_moderation_and_count_are_free(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """Both are answered and are in the ledger, without tokens."""
    answer = await gpt.moderations.create(input=["be nice nonce=m", "y"])
    assert [result.flagged for result in answer.results] == [False, False]
    async with anthropic.AsyncAnthropic(base_url=simulator.url, api_key="any", max_retries=0) as claude:
        counted = await claude.messages.count_tokens(
            model="m", system="be kind", messages=[{"role": "user", "content": "four words nonce=c here"}]
        )
    assert counted.input_tokens == 6
    assert [(entry.operation, entry.nonce, entry.input) for entry in simulator.ledger.entries] == [
        ("moderations", "m", 0), ("messages.count_tokens", "c", 0),
    ]  # fmt: skip


async def test_anthropic_tools_tier_and_hour_of_cache(simulator: Simulator) -> None:
    """Server tools, the tier and both lifetimes of the cache are in the usage."""
    async with anthropic.AsyncAnthropic(base_url=simulator.url, api_key="any", max_retries=0) as claude:
        prompt = "[[sim usage_input=50 cache_write=20 cache_write_1h=5 searches=3 tier=priority]] x"
        made = await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": prompt}])
    usage = made.usage
    assert usage.server_tool_use is not None
    assert usage.cache_creation is not None
    assert (usage.input_tokens, usage.server_tool_use.web_search_requests, usage.service_tier) == (30, 3, "priority")
    assert usage.cache_creation.ephemeral_5m_input_tokens == 15
    assert usage.cache_creation.ephemeral_1h_input_tokens == 5


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}),
    "messages": ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": ""}]}),
    "responses": ("/v1/responses", {"input": ""}),
    "completions": ("/v1/completions", {"prompt": ""}),
}


async def ask(plain: httpx.AsyncClient, route: str, prompt: str, stream: bool = False) -> httpx.Response:
    """Send a prompt to a route."""
    path, body = BODIES[route]
    text = json.dumps({"model": "m", **body, "stream": stream}).replace('""', json.dumps(prompt))
    if stream and route in ("chat", "completions"):
        text = text[:-1] + ', "stream_options": {"include_usage": true}}'
    return await plain.post(path, content=text)


@pytest.mark.parametrize("route", list(BODIES))
@pytest.mark.parametrize(
    ("how", "spelled"),
    [
        ("negative", b":-4"),
        ("fractional", b":3.5"),
        ("infinite", b":1e999"),
        ("huge", b":1000000000000000"),
        ("endless", b":1" + b"0" * 40),
        ("text", b':"3"'),
        ("contradictory", b":1000003"),
        ("usage_null", b'"usage":null'),
        ("usage_empty", b'"usage":{}'),
        ("usage_list", b'"usage":[]'),
    ],
)
async def test_hostile_usage_is_reported(plain: httpx.AsyncClient, route: str, how: str, spelled: bytes) -> None:
    """What is asked for stands in the answer, streamed or not."""
    for stream in (False, True):
        assert spelled in (await ask(plain, route, f"[[sim output=3 hostile={how}]] x", stream)).content


async def test_hostile_usage_may_lack_counts(plain: httpx.AsyncClient) -> None:
    """Without its total, without a count, with null for it."""
    assert b"total_tokens" not in (await ask(plain, "chat", "[[sim hostile=no_total]] x")).content
    assert b'"output_tokens":' not in (await ask(plain, "responses", "[[sim hostile=missing]] x")).content
    assert b'"completion_tokens":null' in (await ask(plain, "chat", "[[sim hostile=null]] x")).content


@pytest.mark.parametrize("route", list(BODIES))
async def test_error_inside_a_success(simulator: Simulator, plain: httpx.AsyncClient, route: str) -> None:
    """Status 200 with an error object, or an error as the only event; never in the ledger."""
    whole = await ask(plain, route, "[[sim fail=error_inside]] x")
    assert whole.status_code == 200
    assert "message" in whole.json()["error"]
    stream = await ask(plain, route, "[[sim fail=error_inside]] x", stream=True)
    assert stream.status_code == 200
    assert stream.text.count("data: ") == 1
    assert "error" in stream.text
    assert simulator.ledger.entries == []


@pytest.mark.parametrize(("route", "end"), [
    ("chat", "[DONE]"), ("messages", "message_stop"), ("responses", "response.completed"), ("completions", "[DONE]"),
])  # fmt: skip
async def test_streams_end_otherwise(simulator: Simulator, plain: httpx.AsyncClient, route: str, end: str) -> None:
    """With an error event, without an end, or with all but its mark; each is properly framed."""
    error = (await ask(plain, route, "[[sim fail=error_event output=8]] x", stream=True)).text
    assert "error" in error.split("\n\n")[-2]
    assert end not in error
    assert "every" in error
    open_end = (await ask(plain, route, "[[sim fail=no_end output=8]] x", stream=True)).text
    assert end not in open_end
    assert "every" in open_end
    assert simulator.ledger.entries == []
    unmarked = (await ask(plain, route, "[[sim fail=no_terminator output=8]] x", stream=True)).text
    assert ("usage" in unmarked.split("\n\n")[-2]) is (route != "responses" or end in unmarked)
    assert len(simulator.ledger.entries) == 1


async def test_whole_answer_without_its_end_has_no_usage(plain: httpx.AsyncClient) -> None:
    """A whole answer cannot lack its end, so it lacks its usage."""
    assert "usage" not in cast(dict[str, Any], (await ask(plain, "chat", "[[sim fail=no_end]] x")).json())
