"""The simulator's images and audio, through the official SDK."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from deploy.simulator import Simulator
from deploy.simulator.media_api import SOUND


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


async def test_images_by_tokens_and_by_number(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """One family reports tokens, the other one nothing; the ledger has both."""
    made = await gpt.images.generate(model="gpt-image-2", prompt="two cats nonce=i", n=2, quality="low")
    assert made.usage is not None
    assert made.data is not None
    assert (len(made.data), made.usage.input_tokens, made.usage.output_tokens) == (2, 3, 544)
    older = await gpt.images.generate(model="dall-e-3", prompt="a cat", n=1)
    assert older.usage is None
    first, second = simulator.ledger.entries
    assert (first.nonce, first.image_output, first.units) == ("i", 544, {})
    assert (second.output, second.units) == (0, {"images": 1})


async def test_edits_and_variations_are_forms(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """Uploaded images are input tokens."""
    edited = await gpt.images.edit(model="gpt-image-2", prompt="greener", image=[b"one", b"two"], quality="high")
    assert edited.usage is not None
    assert (edited.usage.input_tokens_details.image_tokens, edited.usage.output_tokens) == (388, 4160)
    with pytest.deprecated_call():
        varied = await gpt.images.create_variation(model="dall-e-2", image=b"one", n=3, user="nonce=v")
    assert varied.data is not None
    assert len(varied.data) == 3
    assert [(entry.operation, entry.nonce) for entry in simulator.ledger.entries] == [
        ("images.edits", ""), ("images.variations", "v"),
    ]  # fmt: skip


async def test_images_stream(gpt: openai.AsyncOpenAI) -> None:
    """Partial images first, the usage with the last one."""
    stream = await gpt.images.generate(model="gpt-image-2", prompt="x", stream=True, partial_images=2)
    events: list[Any] = [event async for event in stream]
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    assert events[-1].usage.total_tokens == 1057


async def test_speech_is_bytes_or_events(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """Bytes that are no text; or events whose last one has the usage."""
    spoken = await gpt.audio.speech.create(model="tts-1", input="hello nonce=s", voice="coral")
    assert spoken.response.headers["content-type"] == "audio/mpeg"
    assert spoken.content == SOUND * 8
    async with gpt.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", input="[[sim output=30]] good day", voice="coral", stream_format="sse"
    ) as events:
        lines = [line async for line in events.iter_lines() if line]
    usage = json.loads(lines[-1].removeprefix("data: "))["usage"]
    assert usage == {"input_tokens": 2, "output_tokens": 30, "total_tokens": 32}
    first, second = simulator.ledger.entries
    assert (first.units, first.nonce) == ({"characters": 13}, "s")
    assert (second.audio_output, second.units) == (30, {})


async def test_transcriptions_by_tokens_and_by_time(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """The usage is of the model's kind; plain text has none."""
    sound = ("a.wav", b"\x00" * 40_000)
    heard: Any = await gpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, prompt="nonce=t")
    assert (heard.usage.type, heard.usage.input_tokens, heard.usage.input_token_details.audio_tokens) == (
        "tokens", 31, 30,
    )  # fmt: skip
    timed: Any = await gpt.audio.transcriptions.create(model="whisper-1", file=sound, prompt="[[sim seconds=90]]")
    assert (timed.usage.type, timed.usage.seconds) == ("duration", 90)
    text: Any = await gpt.audio.transcriptions.create(model="whisper-1", file=sound, response_format="srt")
    assert "-->" in text
    stream: Any = await gpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, stream=True)
    events = [event async for event in stream]
    assert (events[-1].type, events[-1].usage.output_tokens) == ("transcript.text.done", 16)
    with pytest.deprecated_call():
        translated = await gpt.audio.translations.create(model="whisper-1", file=sound)
    assert translated.text
    assert [entry.units.get("audio_ms", 0) for entry in simulator.ledger.entries] == [0, 90_000, 3_000, 0, 3_000]


@pytest.mark.parametrize(
    ("path", "named"),
    [("/v1/images/edits", "image"), ("/v1/audio/transcriptions", "file"), ("/v1/files", "file")],
)
async def test_forms_that_lack_something_are_refused(simulator: Simulator, path: str, named: str) -> None:
    """What is missing is named."""
    async with httpx.AsyncClient(base_url=simulator.url, trust_env=False) as plain:
        lacking = await plain.post(path, files={"model": (None, "m")})
        assert (lacking.status_code, lacking.json()["error"]["message"]) == (400, f"{named}: is missing")
        assert (await plain.post(path, json={"model": "m"})).status_code in (200, 400)
