"""The simulator on a socket: both official SDKs, its errors and faults, its ledger, its process."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from deploy.simulator import Simulator

DEADLINE_S = 20


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
async def claude(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The Anthropic SDK on the simulator."""
    async with anthropic.AsyncAnthropic(base_url=simulator.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def plain(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client on the simulator."""
    async with httpx.AsyncClient(base_url=simulator.url, trust_env=False, timeout=DEADLINE_S) as client:
        yield client


def chat(prompt: str, **fields: object) -> dict[str, object]:
    """Body of a chat completion."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], **fields}


# -- OpenAI ----------------------------------------------------------------------------------------------------------


async def test_chat_completion(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """The SDK reads the answer, and its usage is what the prompt asked for."""
    answer = await gpt.chat.completions.create(
        model='odd "model" ü',
        messages=[{"role": "user", "content": "[[sim output=40 usage_input=4808 cached=100 reasoning=5]] nonce=n1"}],
    )
    assert answer.model == 'odd "model" ü'
    assert len((answer.choices[0].message.content or "").split()) == 35
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4808, 40, 4848)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 100
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 5
    entry = simulator.ledger.entries[0]
    assert (entry.id, entry.model, entry.nonce) == (answer.id, 'odd "model" ü', "n1")
    assert (entry.input, entry.output, entry.cached, entry.reasoning) == (4808, 40, 100, 5)


@pytest.mark.parametrize("delay_ms", [0, 1])
@pytest.mark.parametrize("with_usage", [True, False])
async def test_streamed_chat(gpt: openai.AsyncOpenAI, with_usage: bool, delay_ms: int) -> None:
    """A stream has the asked chunks, the same text, and usage in a last chunk only where it was asked for."""
    prompt = f"[[sim output=30 chunks=7 delay_ms={delay_ms}]]"
    whole = await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
    stream = await gpt.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True} if with_usage else openai.omit,
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(delta or "" for delta in deltas) == whole.choices[0].message.content
    assert len([delta for delta in deltas if delta]) == 7
    usages = [chunk.usage for chunk in chunks]
    assert usages[:-1] == [None] * (len(chunks) - 1)
    if with_usage:
        assert usages[-1] == whole.usage
        assert chunks[-1].choices == []
    else:
        assert usages[-1] is None
        assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(gpt: openai.AsyncOpenAI, encoding: str) -> None:
    """Both encodings decode to a vector per input."""
    answer = await gpt.embeddings.create(
        model="text-embedding-3-small",
        input=["[[sim usage_input=77]] a", "b"],
        dimensions=4,
        encoding_format="base64" if encoding == "base64" else "float",
    )
    if encoding == "float":
        assert [item.embedding for item in answer.data] == [[1.0, 0.0, 0.0, 0.0]] * 2
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (77, 77)
    default = await gpt.embeddings.create(model="m", input="a b")  # the SDK asks for base64 and decodes it
    assert default.data[0].embedding == [1.0] + [0.0] * 7


async def test_models(gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic) -> None:
    """Each SDK gets its list in its own shape."""
    assert "gpt-4o-mini" in [model.id async for model in gpt.models.list()]
    assert (await gpt.models.retrieve("anything")).id == "anything"
    assert "claude-sonnet-5" in [model.id async for model in claude.models.list()]
    assert (await claude.models.retrieve("anything")).id == "anything"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_openai_errors(gpt: openai.AsyncOpenAI, status: int, error: type[openai.APIStatusError]) -> None:
    """Wished errors are the SDK's own exceptions."""
    with pytest.raises(error) as caught:
        await gpt.chat.completions.create(
            model="m", messages=[{"role": "user", "content": f"[[sim status={status} retry_after=7]]"}]
        )
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
    assert caught.value.response.headers.get("retry-after") == ("7" if status == 429 else None)


# -- Anthropic -------------------------------------------------------------------------------------------------------

WISH = "[[sim output=40 usage_input=1000 cached=100 cache_write=50 reasoning=5 chunks=4]] nonce=n2"


async def test_message(simulator: Simulator, claude: anthropic.AsyncAnthropic) -> None:
    """Input tokens exclude the cached ones, as Anthropic counts; the ledger has them all."""
    answer = await claude.messages.create(
        model="claude-sonnet-5", max_tokens=99, messages=[{"role": "user", "content": WISH}]
    )
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (850, 100, 50)
    assert usage.output_tokens == 40
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 5
    assert answer.stop_reason == "end_turn"
    entry = simulator.ledger.entries[0]
    assert (entry.id, entry.operation, entry.nonce) == (answer.id, "messages", "n2")
    assert (entry.input, entry.output, entry.cached, entry.cache_write) == (1000, 40, 100, 50)


@pytest.mark.parametrize("delay", ["", " delay_ms=1"])
async def test_streamed_message(claude: anthropic.AsyncAnthropic, delay: str) -> None:
    """The events come in the documented order and accumulate to the unstreamed answer."""
    prompt = WISH.replace("chunks=4", "chunks=4" + delay)
    whole = await claude.messages.create(model="m", max_tokens=99, messages=[{"role": "user", "content": prompt}])
    stream = await claude.messages.create(
        model="m", max_tokens=99, messages=[{"role": "user", "content": prompt}], stream=True
    )
    assert [event.type async for event in stream] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    async with claude.messages.stream(
        model="m", max_tokens=99, messages=[{"role": "user", "content": prompt}]
    ) as events:
        final = await events.get_final_message()
    assert [block.text for block in final.content if block.type == "text"] == [
        block.text for block in whole.content if block.type == "text"
    ]
    assert (final.usage.input_tokens, final.usage.output_tokens) == (850, 40)
    assert final.usage.cache_read_input_tokens == 100


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error")],
)
async def test_anthropic_errors(claude: anthropic.AsyncAnthropic, status: int, kind: str) -> None:
    """Wished errors have Anthropic's shape and type."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        await claude.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": f"[[sim status={status}]]"}]
        )
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.response.headers.get("retry-after") == ("1" if status in (429, 529) else None)


# -- errors of its own -----------------------------------------------------------------------------------------------


async def test_wrong_key_is_refused() -> None:
    """With a required key, every other one is 401, in both dialects; the right one passes."""
    simulator = Simulator(require_key="right")
    url = await simulator.start()
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0) as gpt:
        with pytest.raises(openai.AuthenticationError):
            await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.AuthenticationError):
            await gpt.models.list()
        await gpt.with_options(api_key="right").models.list()
    async with anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
        await claude.with_options(api_key="right").models.list()
    assert simulator.ledger.totals.requests == 0
    await simulator.stop()


async def test_unknown_routes_and_methods(plain: httpx.AsyncClient) -> None:
    """Unknown routes are 404, wrong methods 405, broken bodies 400, each in the dialect asked."""
    unknown = await plain.post("/v1/realtime", json={})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    tokens = await plain.post("/v1/messages/nothing", json={})
    assert (tokens.status_code, tokens.json()["error"]["type"]) == (404, "not_found_error")
    assert (await plain.get("/v1/chat/completions")).status_code == 405
    assert (await plain.get("/__sim/nothing")).status_code == 404
    broken = await plain.post("/v1/messages?beta=true", content=b"{")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (await plain.get("/__sim/health")).json() == {"status": "ok"}


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        ("reset", httpx.ReadError),
        ("reset_midway", httpx.ReadError),
        ("truncate", httpx.RemoteProtocolError),
        ("garbage", httpx.RemoteProtocolError),
        ("timeout", httpx.ReadTimeout),
    ],
)
async def test_faults_happen_and_are_not_in_the_ledger(
    simulator: Simulator, plain: httpx.AsyncClient, fail: str, error: type[Exception], stream: bool
) -> None:
    """Each fault is what a client calls it, and an answer that was not completed is on no invoice."""
    timeout = httpx.Timeout(DEADLINE_S, read=0.05 if fail == "timeout" else DEADLINE_S)
    with pytest.raises(error):
        await plain.post("/v1/chat/completions", json=chat(f"[[sim fail={fail}]]", stream=stream), timeout=timeout)
    assert simulator.ledger.entries == []
    totals = (await plain.get("/__sim/ledger")).json()
    assert (totals["received"], totals["requests"]) == (1, 0)


async def test_answers_without_usage_and_without_json(simulator: Simulator, plain: httpx.AsyncClient) -> None:
    """`no_usage` is a whole answer that counts; `bad_json` is a whole body that is not JSON."""
    answer = await plain.post("/v1/chat/completions", json=chat("[[sim fail=no_usage output=3]]"))
    assert "usage" not in answer.json()
    options = {"include_usage": True}
    wish = chat("[[sim fail=no_usage output=3]]", stream=True, stream_options=options)
    assert b"usage" not in (await plain.post("/v1/chat/completions", json=wish)).content
    message = await plain.post("/v1/messages", json=chat("[[sim fail=no_usage output=3]]", max_tokens=9))
    assert "usage" not in message.json()
    assert [entry.output for entry in simulator.ledger.entries] == [3, 3, 3]
    bad = await plain.post("/v1/chat/completions", json=chat("[[sim fail=bad_json]]"))
    assert bad.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        bad.json()


async def test_hang_up_inside_a_stream_is_not_in_the_ledger(simulator: Simulator, plain: httpx.AsyncClient) -> None:
    """A client that leaves in the middle has no completed answer."""
    body = chat("[[sim output=100 chunks=100 delay_ms=20]]", stream=True)
    async with plain.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            break
    async with asyncio.timeout(DEADLINE_S):
        while simulator.connections:
            await asyncio.sleep(0.001)
    assert simulator.ledger.entries == []


async def test_pipelined_requests_are_answered_in_order(simulator: Simulator) -> None:
    """A slow first answer holds the second back, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(simulator.url.rsplit(":", 1)[1]))
    for prompt in ("[[sim delay_ms=5]] nonce=one", "nonce=two"):
        body = json.dumps(chat(prompt)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
    for _ in range(2):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    assert [entry.nonce for entry in simulator.ledger.entries] == ["one", "two"]
    writer.write(b"nonsense\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), DEADLINE_S)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()


async def test_slow_reader_holds_the_stream_back(simulator: Simulator, plain: httpx.AsyncClient) -> None:
    """A stream that nobody reads stays in the simulator as chunks to come, not as bytes in memory."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(simulator.url.rsplit(":", 1)[1]), limit=1 << 14)
    body = json.dumps(chat("[[sim output=4000000 chunks=80 delay_ms=1]]", stream=True)).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    async with asyncio.timeout(DEADLINE_S):
        while not any(connection.transport.get_write_buffer_size() for connection in simulator.connections):
            await asyncio.sleep(0.001)
        await plain.post("/v1/chat/completions", json=chat("[[sim delay_ms=150 output=1]]"))  # time for all 80 chunks
        assert max(connection.transport.get_write_buffer_size() for connection in simulator.connections) < 1 << 20
        assert [entry.output for entry in simulator.ledger.entries] == [1]
        while await reader.read(1 << 20):
            pass
    assert [entry.output for entry in simulator.ledger.entries] == [1, 4_000_000]
    writer.close()
    await writer.wait_closed()


async def test_client_that_waits_for_permission_gets_it(simulator: Simulator) -> None:
    """`Expect: 100-continue` is answered before the body is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(simulator.url.rsplit(":", 1)[1]))
    body = json.dumps(chat("x")).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nexpect: 100-continue\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await asyncio.wait_for(reader.read(), DEADLINE_S)).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()


# -- ledger and process ----------------------------------------------------------------------------------------------


async def test_ledger_totals_are_the_sums(simulator: Simulator, plain: httpx.AsyncClient) -> None:
    """`/__sim/ledger` adds up completed answers; errors are received but not completed."""
    for prompt in ("[[sim output=3 usage_input=10 cached=4]]", "[[sim output=5 usage_input=20]]", "[[sim status=500]]"):
        await plain.post("/v1/chat/completions", json=chat(prompt))
    assert (await plain.get("/__sim/ledger")).json() == {
        "requests": 2,
        "input_tokens": 30,
        "output_tokens": 8,
        "cached_tokens": 4,
        "received": 3,
    }


async def test_process_serves_and_stops(tmp_path: Path) -> None:
    """The command says where it listens, appends a line per answer before its last byte, and ends with 0 on SIGTERM."""
    ledger = tmp_path / "ledger.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.simulator", "--port", "0", "--ledger", str(ledger)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                for stream in (False, True):
                    await client.post("/v1/chat/completions", json=chat("[[sim output=3]] nonce=n3", stream=stream))
                    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
                    assert (lines[-1]["output"], lines[-1]["nonce"], lines[-1]["stream"]) == (3, "n3", stream)
            assert len(lines) == 2
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_process_names_a_port_that_is_taken(simulator: Simulator) -> None:
    """A taken port is said, and the exit code is 1."""
    port = simulator.url.rsplit(":", 1)[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.simulator", "--port", port), stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in error.decode()
