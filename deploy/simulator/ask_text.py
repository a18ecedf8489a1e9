"""Requests of responses, legacy completions and moderations, understood. Pure."""

from typing import Any

import msgspec

from deploy.simulator.ask import (
    DEFAULT_OUTPUT_TOKENS,
    Ask,
    Message,
    StreamOptions,
    check_output,
    conversation,
    decode,
    input_of,
    named_tier,
)
from deploy.simulator.wishes import BadRequest, Wish, find_nonce, parse_wish


class ResponsesBody(msgspec.Struct):
    """Body of `POST /v1/responses`."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    service_tier: str | None = None


class CompletionsBody(msgspec.Struct):
    """Body of `POST /v1/completions`."""

    model: str
    prompt: str | list[Any]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None


class ModerationsBody(msgspec.Struct):
    """Body of `POST /v1/moderations`."""

    input: str | list[Any]
    model: str = "omni-moderation-latest"


_responses = msgspec.json.Decoder(ResponsesBody)
_completions = msgspec.json.Decoder(CompletionsBody)
_moderations = msgspec.json.Decoder(ModerationsBody)


def read_responses(data: bytes) -> Ask:
    """Understand a response: text, or items of which the messages count. Raises `BadRequest`."""
    body = decode(_responses, data)
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [_message(item) for item in items if "role" in item]
    ask = conversation(body.model, messages, body.instructions, body.max_output_tokens, bool(body.stream))
    wish = ask.wish
    used = {"web_search": wish.searches, "file_search": wish.file_searches, "code_session": wish.code_sessions}
    units = {name: count for name, count in used.items() if count}
    return named_tier(msgspec.structs.replace(ask, units=units) if units else ask, body.service_tier)


def read_completions(data: bytes) -> Ask:
    """Understand a legacy completion: one prompt, text or tokens. Raises `BadRequest`."""
    body = decode(_completions, data)
    prompt = body.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    wish, rest = parse_wish(prompt) if isinstance(prompt, str) else (Wish(), prompt)
    limit = DEFAULT_OUTPUT_TOKENS if body.max_tokens is None else body.max_tokens
    output = min(limit, DEFAULT_OUTPUT_TOKENS) if wish.output is None else wish.output
    check_output(wish, output)
    options = body.stream_options
    return Ask(
        model=body.model,
        wish=wish,
        nonce=find_nonce(rest) if isinstance(rest, str) else "",
        input_tokens=input_of(wish, len(rest.split()) if isinstance(rest, str) else len(rest)),
        output_tokens=output,
        is_cut=output == body.max_tokens,
        stream=bool(body.stream),
        include_usage=options is not None and bool(options.include_usage),
    )


def read_moderations(data: bytes) -> Ask:
    """Understand a moderation, which is free: its tokens are not counted. Raises `BadRequest`."""
    body = decode(_moderations, data)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    texts = [item if isinstance(item, str) else item.get("text", "") for item in inputs]
    if not texts:
        raise BadRequest("input: is empty; send at least one text")
    wish, rest = parse_wish(texts[0])
    return Ask(model=body.model, wish=wish, nonce=find_nonce(rest), input_tokens=0, output_tokens=0, count=len(texts))


def _message(item: dict[str, Any]) -> Message:
    content = item.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return Message(str(item["role"]), str(content))
