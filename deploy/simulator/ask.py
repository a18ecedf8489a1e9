"""What a request asks for: bodies of both APIs decoded into one `Ask`, with its token counts.

Pure. Takes what the simulator needs and ignores every other field, as a new field of an API must not break it.
"""

from typing import Any, TypeVar

import msgspec

from deploy.simulator.wishes import BadRequest, Wish, find_nonce, parse_wish

DEFAULT_OUTPUT_TOKENS = 16
DEFAULT_CHUNKS = 20


class Part(msgspec.Struct):
    """A content part; only text counts."""

    type: str = "text"
    text: str = ""


Content = str | list[Part] | None


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: str
    content: Content = None


class StreamOptions(msgspec.Struct):
    """OpenAI's options of a stream."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    service_tier: str | None = None


class MessagesBody(msgspec.Struct):
    """Body of `POST /v1/messages`."""

    model: str
    max_tokens: int
    messages: list[Message]
    system: Content = None
    stream: bool | None = None


class CountTokensBody(msgspec.Struct):
    """Body of `POST /v1/messages/count_tokens`."""

    model: str
    messages: list[Message]
    system: Content = None


class EmbeddingsBody(msgspec.Struct):
    """Body of `POST /v1/embeddings`."""

    model: str
    input: str | list[Any]
    encoding_format: str | None = None
    dimensions: int | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request, understood. All counts are tokens."""

    model: str
    wish: Wish
    nonce: str
    input_tokens: int
    """Everything in the prompt: fresh, cached and cache-written."""
    output_tokens: int
    """Everything generated: visible and reasoning."""
    is_cut: bool = False
    """The output ends because `max_tokens` was reached."""
    stream: bool = False
    include_usage: bool = False
    vectors: int = 0
    dimensions: int = 8
    base64: bool = False
    units: dict[str, int] = {}
    """Billed beside tokens, by the names of `schemas.units`."""
    tier: str = ""
    """That the answer names; empty for the default one."""
    count: int = 1
    """Images to make."""
    format: str = ""
    """Of the answer, where there are several."""

    @property
    def visible_tokens(self) -> int:
        """Words of the answer's text."""
        return self.output_tokens - self.wish.special_output

    @property
    def chunks(self) -> int:
        """Content chunks of a streamed answer."""
        return self.wish.chunks or max(1, min(self.visible_tokens, DEFAULT_CHUNKS))


Body = TypeVar("Body", bound=msgspec.Struct)
_chat = msgspec.json.Decoder(ChatBody)
_messages = msgspec.json.Decoder(MessagesBody)
_count_tokens = msgspec.json.Decoder(CountTokensBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)


def read_chat(data: bytes) -> Ask:
    """Understand an OpenAI chat completion. Raises `BadRequest`."""
    body = decode(_chat, data)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    options = body.stream_options
    ask = conversation(body.model, body.messages, None, limit, bool(body.stream))
    if options is not None and options.include_usage:
        ask = msgspec.structs.replace(ask, include_usage=True)
    return named_tier(ask, body.service_tier)


def read_messages(data: bytes) -> Ask:
    """Understand an Anthropic message. Raises `BadRequest`."""
    body = decode(_messages, data)
    ask = conversation(body.model, body.messages, body.system, body.max_tokens, bool(body.stream))
    units = {"web_search": ask.wish.searches} if ask.wish.searches else {}
    return named_tier(msgspec.structs.replace(ask, units=units) if units else ask, None)


def read_count_tokens(data: bytes) -> Ask:
    """Understand a message whose tokens are to be counted. Raises `BadRequest`."""
    body = decode(_count_tokens, data)
    return conversation(body.model, body.messages, body.system, None, False)


def read_embeddings(data: bytes) -> Ask:
    """Understand an embeddings request: text, texts, tokens or lists of tokens. Raises `BadRequest`."""
    body = decode(_embeddings, data)
    inputs = [body.input] if isinstance(body.input, str) or _is_tokens(body.input) else body.input
    if not inputs:
        raise BadRequest("input: is empty; send at least one text")
    wish, rest = parse_wish(inputs[0]) if isinstance(inputs[0], str) else (Wish(), inputs[0])
    counted = sum(_count_embedding_input(item) for item in (rest, *inputs[1:]))
    dimensions = 8 if body.dimensions is None else body.dimensions
    if not 1 <= dimensions <= 8192:
        raise BadRequest(f"dimensions: {dimensions} is not between 1 and 8192")
    return Ask(
        model=body.model,
        wish=wish,
        nonce=find_nonce(rest) if isinstance(rest, str) else "",
        input_tokens=input_of(wish, counted),
        output_tokens=0,
        vectors=len(inputs),
        dimensions=dimensions,
        base64=body.encoding_format == "base64",
    )


def decode(decoder: "msgspec.json.Decoder[Body]", data: bytes) -> Body:
    """Decode a body. Raises `BadRequest`."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"request body: {error}") from error


def named_tier(ask: Ask, wanted: str | None) -> Ask:
    """Return the request with the tier that its answer names: the wished one, or one that the client chose."""
    tier = ask.wish.tier or (wanted if wanted in ("flex", "priority") else "")
    return msgspec.structs.replace(ask, tier=tier) if tier else ask


def conversation(model: str, messages: list[Message], system: Content, limit: int | None, stream: bool) -> Ask:
    """Understand messages; the last one of the user has the directive. Raises `BadRequest`."""
    if not messages:
        raise BadRequest("messages: is empty; send at least one message")
    if limit is not None and limit < 1:
        raise BadRequest(f"max_tokens: {limit} is below 1")
    prompt_at = max((at for at, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    wish, prompt = parse_wish(_text(messages[prompt_at].content))
    counted = len(prompt.split()) + len(_text(system).split())
    counted += sum(len(_text(message.content).split()) for at, message in enumerate(messages) if at != prompt_at)
    output = wish.output if wish.output is not None else min(limit or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
    check_output(wish, output)
    return Ask(
        model=model,
        wish=wish,
        nonce=find_nonce(prompt),
        input_tokens=input_of(wish, counted),
        output_tokens=output,
        is_cut=output == limit,
        stream=stream,
    )


def input_of(wish: Wish, counted: int) -> int:
    """Return the input tokens to report. Raises `BadRequest`."""
    total = counted if wish.usage_input is None else wish.usage_input
    if wish.special_input > total or wish.cache_write_1h > wish.cache_write:
        told = "cached + cache_write (with cache_write_1h) + audio_input + image_input is more than"
        raise BadRequest(f"[[sim]]: {told} the input of {total} tokens")
    return total


def check_output(wish: Wish, output: int) -> None:
    """Refuse kinds of output tokens that are more than all of them. Raises `BadRequest`."""
    if wish.special_output > output:
        told = f"reasoning={wish.reasoning}, with audio_output and image_output,"
        raise BadRequest(f"[[sim]]: {told} is more than the output of {output} tokens")


def _text(content: Content) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)


def _is_tokens(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


def _count_embedding_input(item: Any) -> int:
    if isinstance(item, str):
        return len(item.split())
    if isinstance(item, list) and _is_tokens(item):
        return len(item)
    raise BadRequest("input: holds something that is neither text nor a list of tokens")
