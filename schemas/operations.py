"""The names of the metered operations, by provider protocol: what policies, events and metrics call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

OpenAIOperation = Literal[
    "chat.completions", "responses", "responses.compact", "responses.input_tokens", "completions", "embeddings",
    "moderations", "images.generations", "images.edits", "images.variations", "audio.speech", "audio.transcriptions",
    "audio.translations",
]  # fmt: skip
AnthropicOperation = Literal["messages", "messages.count_tokens"]
AccountOperation = Literal["batches", "files", "messages.batches"]
OperationName = OpenAIOperation | AnthropicOperation | AccountOperation

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "openai": get_args(OpenAIOperation),
    "anthropic": get_args(AnthropicOperation),
}
"""What each provider protocol has."""
ACCOUNT_OPERATIONS: Mapping[str, tuple[str, ...]] = {"openai": ("batches", "files"), "anthropic": ("messages.batches",)}
"""What they have that is about a provider's account and names no model. All keys that use an account see the same files
and batches, so a model of the policy has to name these operations; none has them otherwise."""
