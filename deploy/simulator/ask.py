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


class MessagesBody(msgspec.Struct):
    """Body of `POST /v1/messages`."""

    model: str
    max_tokens: int
    messages: list[Message]
    system: Content = None
    stream: bool | None = None


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

    @property
    def visible_tokens(self) -> int:
        """Words of the answer's text."""
        return self.output_tokens - self.wish.reasoning

    @property
    def chunks(self) -> int:
        """Content chunks of a streamed answer."""
        return self.wish.chunks or max(1, min(self.visible_tokens, DEFAULT_CHUNKS))


Body = TypeVar("Body", ChatBody, MessagesBody, EmbeddingsBody)
_chat = msgspec.json.Decoder(ChatBody)
_messages = msgspec.json.Decoder(MessagesBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)


def read_chat(data: bytes) -> Ask:
    """Understand an OpenAI chat completion. Raises `BadRequest`."""
    body = _decode(_chat, data)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    options = body.stream_options
    ask = _conversation(body.model, body.messages, None, limit, bool(body.stream))
    if options is not None and options.include_usage:
        return msgspec.structs.replace(ask, include_usage=True)
    return ask


def read_messages(data: bytes) -> Ask:
    """Understand an Anthropic message. Raises `BadRequest`."""
    body = _decode(_messages, data)
    return _conversation(body.model, body.messages, body.system, body.max_tokens, bool(body.stream))


def read_embeddings(data: bytes) -> Ask:
    """Understand an embeddings request: text, texts, tokens or lists of tokens. Raises `BadRequest`."""
    body = _decode(_embeddings, data)
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
        input_tokens=_input_tokens(wish, counted),
        output_tokens=0,
        vectors=len(inputs),
        dimensions=dimensions,
        base64=body.encoding_format == "base64",
    )


def _decode(decoder: "msgspec.json.Decoder[Body]", data: bytes) -> Body:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"request body: {error}") from error


def _conversation(model: str, messages: list[Message], system: Content, limit: int | None, stream: bool) -> Ask:
    if not messages:
        raise BadRequest("messages: is empty; send at least one message")
    if limit is not None and limit < 1:
        raise BadRequest(f"max_tokens: {limit} is below 1")
    prompt_at = max((at for at, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    wish, prompt = parse_wish(_text(messages[prompt_at].content))
    counted = len(prompt.split()) + len(_text(system).split())
    counted += sum(len(_text(message.content).split()) for at, message in enumerate(messages) if at != prompt_at)
    output = wish.output if wish.output is not None else min(limit or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
    if wish.reasoning > output:
        raise BadRequest(f"[[sim]]: reasoning={wish.reasoning} is more than the output of {output} tokens")
    return Ask(
        model=model,
        wish=wish,
        nonce=find_nonce(prompt),
        input_tokens=_input_tokens(wish, counted),
        output_tokens=output,
        is_cut=output == limit,
        stream=stream,
    )


def _input_tokens(wish: Wish, counted: int) -> int:
    total = counted if wish.usage_input is None else wish.usage_input
    if wish.cached + wish.cache_write > total:
        raise BadRequest(f"[[sim]]: cached + cache_write is more than the input of {total} tokens")
    return total


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
