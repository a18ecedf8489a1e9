"""The operations that Tollway meters, and what each provider protocol does for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from ingress.core.ask import Ask
from ingress.core.batches import Sight
from ingress.core.errors import Shape
from ingress.core.providers import anthropic, completions, openai, responses
from ingress.core.reported import Reported
from ingress.core.sse import EventReader


class Operation(msgspec.Struct, frozen=True):
    """One metered operation: how its requests and answers are read."""

    name: str
    """As events and policies call it: `chat.completions`, …"""
    shape: Shape
    path: bytes
    """Below the provider's base URL, which ends with the version."""
    read: Callable[[dict[str, Any]], Ask]
    prepare: Callable[[bytes, dict[str, Any], Ask, str], bytes]
    read_answer: Callable[[bytes], Reported]
    open_stream: Callable[[bool], EventReader]
    """Takes whether a usage that only Tollway asked for is to be hidden."""
    has_output: bool = True
    takes: Literal["json", "form", "either", "anything"] = "json"
    """Bodies: a JSON object, a form, one of both, or whatever there is, which is passed on unread."""
    method: bytes = b"POST"
    is_raw: bool = False
    """Answers that are neither JSON nor events are passed on as they come, unread."""
    is_file: bool = False
    """Good answers are passed on as they come even if they are JSON."""
    sees: Sight | None = None
    """What its answers may say of batches; None: nothing."""


def _open_messages(hides_usage: bool) -> EventReader:
    return anthropic.AnthropicStream()


OPENAI_CHAT = Operation(
    "chat.completions", "openai", b"/chat/completions",
    openai.read_chat, openai.prepare, openai.read_answer, openai.OpenAIStream,
)  # fmt: skip
OPENAI_EMBEDDINGS = Operation(
    "embeddings", "openai", b"/embeddings",
    openai.read_embeddings, openai.prepare, openai.read_embedded, openai.OpenAIStream, False,
)  # fmt: skip
OPENAI_RESPONSES = Operation(
    "responses", "openai", b"/responses",
    responses.read_response, openai.rename, responses.read_answer, responses.ResponsesStream,
)  # fmt: skip
OPENAI_COMPACT = Operation(
    "responses.compact", "openai", b"/responses/compact",
    responses.read_compaction, openai.rename, responses.read_answer, responses.ResponsesStream,
)  # fmt: skip
OPENAI_INPUT_TOKENS = Operation(
    "responses.input_tokens", "openai", b"/responses/input_tokens",
    openai.read_free, openai.rename, openai.read_unbilled, openai.OpenAIStream, False,
)  # fmt: skip
OPENAI_COMPLETIONS = Operation(
    "completions", "openai", b"/completions",
    completions.read_completion, completions.prepare, completions.read_answer, completions.CompletionsStream,
)  # fmt: skip
OPENAI_MODERATIONS = Operation(
    "moderations", "openai", b"/moderations",
    openai.read_moderation, openai.rename, openai.read_moderated, openai.OpenAIStream, False,
)  # fmt: skip
ANTHROPIC_MESSAGES = Operation(
    "messages", "anthropic", b"/messages",
    anthropic.read_messages, anthropic.prepare, anthropic.read_answer, _open_messages,
)  # fmt: skip
ANTHROPIC_COUNT_TOKENS = Operation(
    "messages.count_tokens", "anthropic", b"/messages/count_tokens",
    anthropic.read_counted, anthropic.prepare, anthropic.read_count, _open_messages, False,
)  # fmt: skip
OPERATIONS = (
    OPENAI_CHAT, OPENAI_RESPONSES, OPENAI_COMPACT, OPENAI_INPUT_TOKENS, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS,
    OPENAI_MODERATIONS, ANTHROPIC_MESSAGES, ANTHROPIC_COUNT_TOKENS,
)  # fmt: skip
