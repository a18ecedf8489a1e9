"""The usage that the official Python SDKs show is what is journalled: of each operation, to the token and unit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest

from schemas.usage import UsageEvent
from tests.contract.sdk_usage import POLICY, PRICES, SOUND, by_completion, is_priced_right, said
from tests.stream.ingress_lab import Lab, running

WISH = "[[sim output=40 usage_input=90 cached=20 cache_write=6 reasoning=12]] tell me nonce=n1"
TOOLS = "[[sim output=9 usage_input=30 searches=2 file_searches=1 code_sessions=1 tier=flex]] find nonce=n1"
MESSAGES: Any = [{"role": "user", "content": WISH}]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """An ingress whose models are billed by tokens or by units."""
    async with running(POLICY, prices=PRICES) as found:
        yield found


def one(lab: Lab, operation: str, model: str, source: str = "provider") -> UsageEvent:
    """Return the only event: of an operation, settled, priced to the nano-USD, and on the provider's own ledger."""
    (event,) = lab.journal.events
    assert (event.operation, event.status, event.usage_source) == (operation, "settled", source)
    assert is_priced_right(event, model)
    (entry,) = lab.simulator.ledger.entries
    if source == "provider":
        assert (event.usage.all_input, event.usage.all_output) == (entry.input, entry.output)
        assert (event.detail.units if event.detail else {}) == entry.units
        if operation.startswith(("images.", "audio.")):
            assert lab.journal.admissions[0].charge_nanos >= event.charge_nanos > 0
    return event


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_completion(lab: Lab, gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """Cached, cache-written and reasoning tokens are classes of their own."""
    options: Any = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    made: Any = await gpt.chat.completions.create(model="nick", messages=MESSAGES, **options)
    usage = [chunk async for chunk in made][-1].usage if stream else made.usage
    assert said(one(lab, "chat.completions", "gpt-5")) == by_completion(usage) == {
        "input": 64, "cache_read": 20, "cache_write": 6, "output": 28, "reasoning": 12,
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_legacy_completion(lab: Lab, gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """The older completions have the same usage."""
    options: Any = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    made: Any = await gpt.completions.create(model="gpt-5", prompt=WISH, **options)
    usage = [chunk async for chunk in made][-1].usage if stream else made.usage
    assert said(one(lab, "completions", "gpt-5")) == by_completion(usage)


@pytest.mark.parametrize("stream", [False, True])
async def test_response_with_tools_and_tier(lab: Lab, gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """Tokens, the fees of server tools, and the tier that served."""
    made: Any = await gpt.responses.create(model="gpt-5", input=TOOLS, stream=stream)
    response = [event async for event in made][-1].response if stream else made
    kinds = [item.type for item in response.output]
    assert said(one(lab, "responses", "gpt-5")) == {
        "input": response.usage.input_tokens, "output": response.usage.output_tokens,
        "web_search": response.tool_usage.web_search.num_requests, "file_search": kinds.count("file_search_call"),
        "code_session": kinds.count("code_interpreter_call"), "tier": response.service_tier,
    } == {"input": 30, "output": 9, "web_search": 2, "file_search": 1, "code_session": 1, "tier": "flex"}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_response_with_cache_and_reasoning(lab: Lab, gpt: openai.AsyncOpenAI, stream: bool) -> None:
    """The details of a response's usage are classes of their own."""
    made: Any = await gpt.responses.create(model="nick", input=WISH, stream=stream)
    usage = ([event async for event in made][-1].response if stream else made).usage
    cached, stored = usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens
    thought = usage.output_tokens_details.reasoning_tokens
    assert said(one(lab, "responses", "gpt-5")) == {
        "input": usage.input_tokens - cached - stored, "cache_read": cached, "cache_write": stored,
        "output": usage.output_tokens - thought, "reasoning": thought,
    }  # fmt: skip


async def test_embeddings(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Embeddings have input only."""
    answer = await gpt.embeddings.create(model="text-embedding-3-small", input=["one two", "three"])
    assert said(one(lab, "embeddings", "text-embedding-3-small")) == {"input": answer.usage.total_tokens}


async def test_moderation(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """A moderation is a request that costs nothing."""
    answer = await gpt.moderations.create(model="omni-moderation-latest", input="be nice")
    assert len(answer.results) == 1
    event = one(lab, "moderations", "omni-moderation-latest")
    assert (said(event), event.cost_nanos, event.charge_requests) == ({}, 0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_message(lab: Lab, claude: anthropic.AsyncAnthropic, stream: bool) -> None:
    """Both lifetimes of the cache, the searches of the server and the tier."""
    wish = "[[sim output=30 usage_input=80 cached=10 cache_write=20 cache_write_1h=5 searches=3 tier=priority]] x"
    request: Any = {"model": "claude-sonnet", "max_tokens": 50, "messages": [{"role": "user", "content": wish}]}
    if stream:
        async with claude.messages.stream(**request) as made:
            usage = (await made.get_final_message()).usage
    else:
        usage = (await claude.messages.create(**request)).usage
    assert usage.server_tool_use is not None
    assert usage.cache_creation is not None
    assert said(one(lab, "messages", "claude-sonnet")) == {
        "input": usage.input_tokens, "cache_read": usage.cache_read_input_tokens,
        "cache_write": usage.cache_creation.ephemeral_5m_input_tokens,
        "cache_write_1h": usage.cache_creation.ephemeral_1h_input_tokens, "output": usage.output_tokens,
        "web_search": usage.server_tool_use.web_search_requests, "tier": usage.service_tier,
    }  # fmt: skip


async def test_count_of_tokens(lab: Lab, claude: anthropic.AsyncAnthropic) -> None:
    """Counting tokens uses none."""
    answer = await claude.messages.count_tokens(model="claude-sonnet", messages=[{"role": "user", "content": "a b"}])
    event = one(lab, "messages.count_tokens", "claude-sonnet")
    assert (answer.input_tokens, said(event), event.cost_nanos) == (2, {}, 0)


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-image-2", "pictures"])
@pytest.mark.parametrize("how", ["new", "streamed", "edited", "edited and streamed"])
async def test_images_by_tokens(lab: Lab, gpt: openai.AsyncOpenAI, model: str, how: str) -> None:
    """Text and pictures that were read, pictures that were made; under the name of the model or another one."""
    request: dict[str, Any] = {
        "model": model,
        "prompt": "two grey cats nonce=n1",
        "quality": "low",
        "size": "1024x1024",
    }
    if "streamed" in how:
        request |= {"stream": True, "partial_images": 2}
    if "edited" in how:
        made: Any = await gpt.images.edit(image=[("a.png", b"\x89PNG" + SOUND), ("b.png", b"\x89PNG")], **request)
    else:
        made = await gpt.images.generate(**request, n=1)
    usage = [event async for event in made][-1].usage if "streamed" in how else made.usage
    details = usage.input_tokens_details
    found = said(one(lab, "images.edits" if "edited" in how else "images.generations", "gpt-image-2"))
    assert found.pop("image_input", 0) == details.image_tokens == (388 if "edited" in how else 0)
    assert found == {"input": details.text_tokens, "image_output": usage.output_tokens}
    assert lab.simulator.ledger.entries[0].model == "gpt-image-2"


async def test_images_by_number(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """A model that tells no usage is billed by the images that it made."""
    made = await gpt.images.generate(model="dall-e-3", prompt="a cat", n=3)
    assert made.data is not None
    assert said(one(lab, "images.generations", "dall-e-3")) == {"images": len(made.data)} == {"images": 3}


async def test_variations(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Variations are a form without a prompt."""
    with pytest.deprecated_call():
        made = await gpt.images.create_variation(model="dall-e-3", image=b"\x89PNG", n=2)
    assert made.data is not None
    assert said(one(lab, "images.variations", "dall-e-3")) == {"images": len(made.data)}


# -- sound -------------------------------------------------------------------------------------------------------------


async def test_speech_by_characters(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Nobody tells what was spoken: the characters of the text are counted, and the flag says so."""
    text = "Grüße, nonce=n1"
    spoken = await gpt.audio.speech.create(model="tts-1", input=text, voice="coral")
    assert len(spoken.content) == 4_096 * 8
    event = one(lab, "audio.speech", "tts-1")
    assert said(event) == {"characters": len(text)}
    assert event.detail is not None
    assert event.detail.flags == ("counted",)


async def test_speech_by_tokens(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Events of speech have the tokens, whose output is audio."""
    async with gpt.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", input="[[sim output=30 chunks=5]] good day", voice="coral", stream_format="sse"
    ) as events:
        usage = json.loads([line async for line in events.iter_lines() if line][-1].removeprefix("data: "))["usage"]
    found = said(one(lab, "audio.speech", "gpt-4o-mini-tts"))
    assert found == {"input": usage["input_tokens"], "audio_output": usage["output_tokens"]}


async def test_speech_without_usage_is_estimated(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """A model that is billed by tokens and answers in plain sound tells none: they are estimated, and marked."""
    await gpt.audio.speech.create(model="gpt-4o-mini-tts", input="twenty characters ..", voice="coral")
    assert said(one(lab, "audio.speech", "gpt-4o-mini-tts", "estimated")) == {"input": 6, "audio_output": 31}


@pytest.mark.parametrize("model", ["gpt-4o-transcribe", "hearing"])
@pytest.mark.parametrize("stream", [False, True])
async def test_transcription_by_tokens(lab: Lab, gpt: openai.AsyncOpenAI, model: str, stream: bool) -> None:
    """Audio and text that were read, text that was written."""
    made: Any = await gpt.audio.transcriptions.create(
        model=model, file=("a.mp3", SOUND), prompt="[[sim output=21]] about trains nonce=n1", stream=stream
    )
    usage = [event async for event in made][-1].usage if stream else made.usage
    assert said(one(lab, "audio.transcriptions", "gpt-4o-transcribe")) == {
        "input": usage.input_token_details.text_tokens, "audio_input": usage.input_token_details.audio_tokens,
        "output": usage.output_tokens,
    } == {"input": 3, "audio_input": 70, "output": 21}  # fmt: skip


async def test_transcription_by_time(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Seconds are kept as milliseconds."""
    made: Any = await gpt.audio.transcriptions.create(model="whisper-1", file=("a.mp3", SOUND))
    assert said(one(lab, "audio.transcriptions", "whisper-1")) == {"audio_ms": int(made.usage.seconds * 1000)}


async def test_translation_with_a_duration(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """A translation tells its duration if it is asked for much."""
    with pytest.deprecated_call():
        made: Any = await gpt.audio.translations.create(
            model="whisper-1", file=("a.mp3", SOUND), response_format="verbose_json"
        )
    assert said(one(lab, "audio.translations", "whisper-1")) == {"audio_ms": int(made.duration * 1000)}


@pytest.mark.parametrize(("answers_in", "milliseconds"), [("text", 25_600), ("srt", 1_000), ("vtt", 1_000)])
async def test_transcription_without_usage_is_estimated(
    lab: Lab, gpt: openai.AsyncOpenAI, answers_in: Any, milliseconds: int
) -> None:
    """Plain text tells nothing: the size of the sound, or the last time mark, is all there is; and it is marked."""
    made: Any = await gpt.audio.transcriptions.create(
        model="whisper-1", file=("a.mp3", SOUND), response_format=answers_in
    )
    assert "every call" in made
    assert said(one(lab, "audio.transcriptions", "whisper-1", "estimated")) == {"audio_ms": milliseconds}


async def test_files_and_batches_are_requests(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """Each is passed on and counted as one request without cost; what comes back is what the provider has."""
    line = {"custom_id": "c0", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "gpt-5", "messages": MESSAGES}}  # fmt: skip
    content = json.dumps(line).encode()
    file = await gpt.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await gpt.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    done = await gpt.batches.retrieve(batch.id)
    assert done.output_file_id is not None
    output = (await gpt.files.content(done.output_file_id)).text
    assert json.loads(output)["response"]["body"]["usage"]["completion_tokens"] == 40
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: gpt.files.retrieve(file.id), lambda: gpt.batches.cancel(batch.id), lambda: gpt.files.delete(file.id),
    ]  # fmt: skip
    for call in calls:
        await call()
    assert [found.id async for found in gpt.batches.list(limit=1)] == [batch.id]
    assert len([found async for found in gpt.files.list()]) == 1
    events = lab.journal.events
    assert [event.operation for event in events] == [
        "files", "batches", "batches", "files", "files", "batches", "files", "batches", "files",
    ]  # fmt: skip
    assert {(event.status, event.usage_source, event.charge_requests) for event in events} == {("settled", "none", 1)}
    assert {(event.cost_nanos, event.charge_nanos, event.charge_tokens) for event in events} == {(0, 0, 0)}


CHECKED: list[Callable[[openai.AsyncOpenAI], Awaitable[Any]]] = [
    lambda gpt: gpt.images.generate(model="gpt-image-2", prompt="[[sim status=500]] x"),
    lambda gpt: gpt.audio.speech.create(model="tts-1", input="[[sim status=500]] x", voice="coral"),
    lambda gpt: gpt.audio.transcriptions.create(model="whisper-1", file=b"x", prompt="[[sim status=500]] x"),
]


@pytest.mark.parametrize("call", CHECKED)
async def test_errors_cost_nothing(lab: Lab, gpt: openai.AsyncOpenAI, call: Any) -> None:
    """An error of the provider is its own, and nothing is charged."""
    with pytest.raises(openai.InternalServerError, match="server had an error"):
        await call(gpt)
    (event,) = lab.journal.events
    assert (event.status, event.usage_source, said(event), event.charge_nanos) == ("failed", "none", {}, 0)
