"""What reading usage costs: a chunk that goes by, a block of several, a usage object, an answer. No I/O; CPU time.

`extract_chunk_ns` and its kind are what the relay itself costs a read of the provider's bytes: nearly all of them have
no usage, and are passed on after a few searches. The answers are cassettes of the contract tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ingress.core.providers.anthropic import AnthropicStream
from ingress.core.providers.openai import OpenAIStream
from ingress.core.providers.responses import ResponsesStream
from ingress.core.sse import EventReader, EventRelay
from tests.contract.cassette_player import FOLDER, Cassette

BLOCK = 4
ROUNDS = 12
MOST_NS = 20_000
"""Of one chunk; loose, because machines are busy."""

CHAT = (
    b'data: {"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_0123456789","choices":'
    b'[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}]%b}\n\n'
)
MESSAGE = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" hello"}}\n\n'
)
RESPONSE = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":17,'
    b'"item_id":"msg_67ccd2bf17f0819081ff3bb2cf6508e6","output_index":0,"content_index":0,"delta":" hello",'
    b'"logprobs":[],"obfuscation":"aZ9kQ"}\n\n'
)
CONTINUOUS = CHAT % b',"usage":{"prompt_tokens":11,"total_tokens":35,"completion_tokens":24}'
CHUNKS: dict[str, tuple[Callable[[], EventReader], bytes]] = {
    "extract_chunk_ns": (lambda: OpenAIStream(True), CHAT % b',"usage":null'),
    "extract_bare_chunk_ns": (lambda: OpenAIStream(True), CHAT % b""),
    "extract_message_chunk_ns": (AnthropicStream, MESSAGE),
    "extract_response_chunk_ns": (ResponsesStream, RESPONSE),
    "extract_usage_chunk_ns": (lambda: OpenAIStream(True), CONTINUOUS),
}
ANSWERS = {
    "extract_answer_us": "openai-chat",
    "extract_message_us": "anthropic-messages-cache",
    "extract_response_us": "openai-responses-web-search",
}


def best_ns(work: Callable[[], object], count: int) -> float:
    """Return nanoseconds of CPU a call in the best of the rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time_ns()
        for _ in range(count):
            work()
        best = min(best, time.thread_time_ns() - began)
    return best / count


def measure() -> dict[str, float]:
    """Return nanoseconds a chunk alone and in a block of four, and microseconds a whole answer."""
    figures: dict[str, float] = {}
    for name, (make, chunk) in CHUNKS.items():
        figures[name] = best_ns(_feeding(make(), chunk), 2_000)
        figures[name.replace("chunk", "block_of_4")] = best_ns(_feeding(make(), chunk * BLOCK), 1_000)
    for name, cassette in ANSWERS.items():
        figures[name] = best_ns(_reading(Cassette(FOLDER / f"{cassette}.json")), 500) / 1_000
    return figures


def _feeding(reader: EventReader, block: bytes) -> Callable[[], bytes]:
    relay = EventRelay(reader)
    assert relay.feed(block) == block, "a chunk with text goes on at once"
    return lambda: relay.feed(block)


def _reading(cassette: Cassette) -> Callable[[], object]:
    body, read = cassette.body, cassette.operation.read_answer
    assert read(body).usage == cassette.usage
    return lambda: read(body)


def test_reading_usage_takes_microseconds() -> None:
    """A chunk that goes by costs less than one that has usage; the figures are printed (`-s`)."""
    figures = measure()
    print({name: round(figure, 1) for name, figure in figures.items()})
    assert figures["extract_chunk_ns"] < figures["extract_usage_chunk_ns"]
    assert all(figure < MOST_NS for name, figure in figures.items() if name.endswith("chunk_ns"))
