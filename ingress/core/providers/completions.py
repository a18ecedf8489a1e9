"""OpenAI's legacy completions: one request may have many prompts, each with several answers."""

from __future__ import annotations

from typing import Any

from ingress.core.ask import MAX_ASKED_TOKENS, MAX_CHOICES, Ask, count_field, flag_field, text_field
from ingress.core.providers.openai import CompletionsStream, prepare, read_answer
from ingress.core.strict_json import InputError

__all__ = ["CompletionsStream", "prepare", "read_answer", "read_completion"]


def read_completion(fields: dict[str, Any]) -> Ask:
    """Understand the body of a completion; `InputError` names the field that is wrong.

    Of every prompt `best_of` answers are written, and `n` of them told; all that are written are billed.
    """
    stream = flag_field(fields, "stream")
    told = count_field(fields, "n", MAX_CHOICES) or 1
    written = max(told, count_field(fields, "best_of", MAX_CHOICES) or 1)
    choices = (told if stream else written) * _prompts(fields.get("prompt"))
    if choices > MAX_CHOICES:
        raise InputError(f"prompt, n, best_of: {choices} answers in one request, at most {MAX_CHOICES} are served")
    options = fields.get("stream_options")
    return Ask(
        text_field(fields, "model"),
        stream,
        count_field(fields, "max_tokens", MAX_ASKED_TOKENS),
        choices,
        not stream or (type(options) is dict and options.get("include_usage") is True),
    )


def _prompts(prompt: Any) -> int:
    """Return how many prompts there are: a text is one, and so is a list of tokens."""
    if type(prompt) is list and prompt and type(prompt[0]) in (str, list):
        return len(prompt)
    return 1
