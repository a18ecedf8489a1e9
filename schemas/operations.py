"""The names of the metered operations, by provider protocol: what policies, events and metrics call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

OpenAIOperation = Literal[
    "chat.completions", "responses", "responses.compact", "responses.input_tokens", "completions", "embeddings",
    "moderations",
]  # fmt: skip
AnthropicOperation = Literal["messages", "messages.count_tokens"]
OperationName = OpenAIOperation | AnthropicOperation

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "openai": get_args(OpenAIOperation),
    "anthropic": get_args(AnthropicOperation),
}
"""What each provider protocol has."""
