"""The usage that the official npm SDKs show is what is journalled: of each operation, to the token and unit.

Node and the packages of `tests/contract/npm` have to be there: `make test-npm` installs the packages and runs this.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.usage import UsageEvent
from tests.contract import sdk_batches
from tests.contract.sdk_batches import anthropic_requests, charged, openai_lines, told, used
from tests.contract.sdk_usage import POLICY, PRICES, SOUND, is_priced_right, said
from tests.stream.ingress_lab import SECRET, running

NPM = Path(__file__).parent / "npm"
NODE = shutil.which("node")
DEADLINE_S = 60
MISSING = (
    "node is not installed" if NODE is None
    else "the npm packages are not installed, run `make test-npm`" if not (NPM / "node_modules/openai").is_dir()
    else ""
)  # fmt: skip

TEXT = {"input": 64, "cache_read": 20, "cache_write": 6, "output": 28, "reasoning": 12}
TOOLS = {"input": 30, "output": 9, "web_search": 2, "file_search": 1, "code_session": 1, "tier": "flex"}
MESSAGE = {
    "input": 50, "cache_read": 10, "cache_write": 15, "cache_write_1h": 5, "output": 30, "web_search": 3,
    "tier": "priority",
}  # fmt: skip

OPERATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat.completions": ("gpt-5", TEXT),
    "chat.completions streamed": ("gpt-5", TEXT),
    "completions": ("gpt-5", TEXT),
    "completions streamed": ("gpt-5", TEXT),
    "responses": ("gpt-5", TOOLS),
    "responses streamed": ("gpt-5", TOOLS),
    "embeddings": ("text-embedding-3-small", {"input": 3}),
    "moderations": ("omni-moderation-latest", {}),
    "messages": ("claude-sonnet", MESSAGE),
    "messages streamed": ("claude-sonnet", MESSAGE),
    "messages.count_tokens": ("claude-sonnet", {}),
    "images.generations": ("gpt-image-2", {"input": 3, "image_output": 272}),
    "images.generations streamed": ("gpt-image-2", {"input": 2, "image_output": 1_056}),
    "images.generations by number": ("dall-e-3", {"images": 2}),
    "images.edits": ("gpt-image-2", {"input": 1, "image_input": 388, "image_output": 1_056}),
    "images.variations": ("dall-e-3", {"images": 2}),
    "audio.speech": ("tts-1", {"characters": 5}),
    "audio.speech streamed": ("gpt-4o-mini-tts", {"input": 2, "audio_output": 30}),
    "audio.transcriptions": ("gpt-4o-transcribe", {"input": 2, "audio_input": 70, "output": 16}),
    "audio.transcriptions streamed": ("gpt-4o-transcribe", {"audio_input": 70, "output": 16}),
    "audio.transcriptions by time": ("whisper-1", {"audio_ms": 7_000}),
    "audio.translations": ("whisper-1", {"audio_ms": 7_000}),
    "files": ("gpt-5", {}),
    "batches": ("gpt-5", {}),
}
"""By the names that the script gives its calls: the model whose price applies, and what is journalled."""

Called = dict[str, tuple[Any, UsageEvent]]


class Line(msgspec.Struct):
    """What the script prints of a call."""

    name: str
    event: str
    shown: Any


@pytest.fixture(scope="module")
def called() -> Called:
    """All calls of the script: what the SDK shows, and the event that its answer named."""
    return asyncio.run(_call_all())


async def _call_all() -> Called:
    async with running(POLICY, prices=PRICES) as lab:
        out = await _run("usage.mjs", lab.url, SOUND)
        events = {event.id.hex(): event for event in lab.journal.events}
        lines = [msgspec.json.decode(line, type=Line) for line in out.splitlines()]
        assert len(events) == len(lines)
        return {line.name: (line.shown, events[line.event.replace("-", "")]) for line in lines}


async def _run(script: str, url: str, given: bytes) -> bytes:
    """Run a script of `NPM` against an ingress and return what it prints."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE, str(NPM / script), url, SECRET,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, error = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, error.decode()[-2_000:]
    return out


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_npm_sdks_show_what_is_journalled(called: Called, name: str) -> None:
    """Tokens of each class and units are what the SDK shows, and cost what they cost."""
    shown, event = called[name]
    model, expected = OPERATIONS[name]
    assert (event.operation, event.status) == (name.partition(" ")[0], "settled")
    assert said(event) == expected == _of(name, shown, event)
    assert is_priced_right(event, model)


def test_every_call_of_the_script_is_compared() -> None:
    """The script and the table have the same names, and the lock names no place to fetch from."""
    script = (NPM / "usage.mjs").read_text().partition("const CALLS = {")[2].partition("\n};")[0]
    names = {line.strip().partition(": [")[0].strip("'") for line in script.splitlines() if line[2:3] not in (" ", "]")}
    assert names - {""} == set(OPERATIONS)
    lock = (NPM / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert "://" not in lock
    packages = json.loads(lock)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
    pinned = json.loads((NPM / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in pinned} == pinned


def _of(name: str, shown: Any, event: UsageEvent) -> dict[str, Any]:
    """Return what an SDK shows in the classes of events."""
    operation = event.operation
    if operation in ("moderations", "messages.count_tokens", "files", "batches"):
        assert type(shown) is int
        return {}
    if operation == "messages":
        found = _of_message(shown)
    elif operation.startswith("responses"):
        usage, kinds = shown["usage"], shown["kinds"]
        found = {
            "input": usage["input_tokens"], "output": usage["output_tokens"], "tier": shown["tier"],
            "web_search": kinds.count("web_search_call"), "file_search": kinds.count("file_search_call"),
            "code_session": kinds.count("code_interpreter_call"),
        }  # fmt: skip
    elif operation.startswith("images."):
        found = {"images": shown} if type(shown) is int else _of_images(shown)
    elif operation.startswith("audio."):
        found = _of_audio(name, shown)
    else:
        found = _of_completion(shown)
    return {key: value for key, value in found.items() if value}


def _of_completion(usage: dict[str, Any]) -> dict[str, Any]:
    read, written = usage.get("prompt_tokens_details", {}), usage.get("completion_tokens_details", {})
    cached, stored = read.get("cached_tokens", 0), read.get("cache_write_tokens", 0)
    reasoning = written.get("reasoning_tokens", 0)
    return {
        "input": usage["prompt_tokens"] - cached - stored, "cache_read": cached, "cache_write": stored,
        "output": usage.get("completion_tokens", 0) - reasoning, "reasoning": reasoning,
    }  # fmt: skip


def _of_message(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input": usage["input_tokens"], "cache_read": usage["cache_read_input_tokens"],
        "cache_write": usage["cache_creation"]["ephemeral_5m_input_tokens"],
        "cache_write_1h": usage["cache_creation"]["ephemeral_1h_input_tokens"], "output": usage["output_tokens"],
        "web_search": usage["server_tool_use"]["web_search_requests"], "tier": usage["service_tier"],
    }  # fmt: skip


def _of_images(usage: dict[str, Any]) -> dict[str, Any]:
    details = usage["input_tokens_details"]
    return {
        "input": details["text_tokens"], "image_input": details["image_tokens"], "image_output": usage["output_tokens"],
    }  # fmt: skip


def _of_audio(name: str, shown: Any) -> dict[str, Any]:
    if name == "audio.speech":
        assert shown == 4_096 * 8
        return {"characters": len("Grüße")}
    if name == "audio.speech streamed":
        return {"input": shown["input_tokens"], "audio_output": shown["output_tokens"]}
    if not isinstance(shown, dict):
        return {"audio_ms": int(shown * 1_000)}
    details = shown["input_token_details"]
    return {
        "input": details["text_tokens"], "audio_input": details["audio_tokens"], "output": shown["output_tokens"],
    }  # fmt: skip


# -- batches -----------------------------------------------------------------------------------------------------------


class BatchLine(msgspec.Struct):
    """What the script prints of a batch."""

    name: str
    id: str
    total: dict[str, Any] | None
    lines: list[dict[str, Any]]


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_batches_of_npm_sdks_are_charged_as_shown() -> None:
    """Lines, and a batch as a whole, are charged as the SDKs show them and as the provider's ledger has them."""
    asked = {"openai": openai_lines("/v1/chat/completions")[1:], "anthropic": anthropic_requests()}
    async with running(sdk_batches.POLICY, prices=sdk_batches.PRICES) as lab:
        out = await _run("batches.mjs", lab.url, msgspec.json.encode(asked))
        shown = {line.name: line for line in map(msgspec.json.Decoder(BatchLine).decode, out.splitlines())}
        events = charged(lab.batches.told, time.time_ns() // 1_000_000)
        entries = lab.simulator.ledger.entries
    found = {name: [event for event in events if event.detail and event.detail.note == f"batch {line.id}"]
             for name, line in shown.items()}  # fmt: skip
    assert {name: len(of) for name, of in found.items()} == {"by line": 2, "as a whole": 1, "messages": 4}
    assert len(events) == 7
    assert {event.detail.service_tier for event in events if event.detail} == {"batch"}
    assert [said(event) for event in found["by line"]] == [
        {name: count for name, count in _of_completion(usage).items() if count} | {"tier": "batch"}
        for usage in shown["by line"].lines
    ]
    (whole,) = found["as a whole"]
    assert shown["as a whole"].total is not None
    assert whole.usage.all_input == shown["as a whole"].total["input_tokens"]
    assert whole.usage.all_output == shown["as a whole"].total["output_tokens"]
    assert [(event.usage.input, event.usage.cache_read, event.usage.all_output) for event in found["messages"]] == [
        (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"])
        for usage in shown["messages"].lines
    ]  # fmt: skip
    by_line = [event for event in events if event is not whole]
    as_used = used(entries)
    assert not told(by_line) - as_used
    assert sum(event.cost_nanos or 0 for event in events) == sum(key[-1] * n for key, n in as_used.items())
