"""The operations that Tollway meters, and what each provider protocol does for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from ingress.core.ask import Ask
from ingress.core.errors import Shape
from ingress.core.providers import anthropic, openai
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


def _open_messages(hides_usage: bool) -> EventReader:
    return anthropic.AnthropicStream()


OPENAI_CHAT = Operation(
    "chat.completions", "openai", b"/chat/completions",
    openai.read_chat, openai.prepare, openai.read_answer, openai.OpenAIStream,
)  # fmt: skip
OPENAI_EMBEDDINGS = Operation(
    "embeddings", "openai", b"/embeddings",
    openai.read_embeddings, openai.prepare, openai.read_answer, openai.OpenAIStream, False,
)  # fmt: skip
ANTHROPIC_MESSAGES = Operation(
    "messages", "anthropic", b"/messages",
    anthropic.read_messages, anthropic.prepare, anthropic.read_answer, _open_messages,
)  # fmt: skip
OPERATIONS = (OPENAI_CHAT, OPENAI_EMBEDDINGS, ANTHROPIC_MESSAGES)
