"""Answers in the shapes of Anthropic's API, from byte templates. Pure."""

import msgspec

from deploy.simulator.answer import EVENTS, Answer
from deploy.simulator.ask import Ask
from deploy.simulator.openai_api import MODELS, hides_usage
from deploy.simulator.text import pieces, words
from deploy.simulator.usage import entry_of, hostile
from deploy.simulator.wishes import NO_WISH

_encode = msgspec.json.encode
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def messages(ask: Ask, number: bytes) -> Answer:
    """Answer a message, streamed or not."""
    wish = ask.wish
    return Answer(
        content_type=EVENTS if ask.stream else b"application/json",
        headers=b"request-id: req_%b\r\n" % number,
        parts=_events(ask, number) if ask.stream else (_whole(ask, number),),
        streamed=ask.stream,
        delay_s=wish.delay_ms / 1000,
        fail=wish.fail,
        entry=entry_of(ask, "messages", f"msg_{number.decode()}"),
    )


def count_tokens(ask: Ask, number: bytes) -> Answer:
    """Count the input tokens of a message, which costs nothing."""
    free = msgspec.structs.replace(ask, input_tokens=0, output_tokens=0, wish=NO_WISH, units={}, tier="")
    return Answer(
        headers=b"request-id: req_%b\r\n" % number,
        parts=(hostile(b'{"input_tokens":%d}' % ask.input_tokens, ask),),
        delay_s=ask.wish.delay_ms / 1000,
        fail=ask.wish.fail,
        entry=entry_of(free, "messages.count_tokens", f"req_{number.decode()}"),
    )


def models() -> Answer:
    """List the models."""
    body = b'{"data":[%b],"first_id":%b,"has_more":false,"last_id":%b}' % (
        b",".join(map(_model, MODELS)),
        _encode(MODELS[0]),
        _encode(MODELS[-1]),
    )
    return Answer(parts=(body,))


def model(name: str) -> Answer:
    """Describe one model; every name exists."""
    return Answer(parts=(_model(name),))


def error(status: int, message: str, number: bytes, headers: bytes = b"") -> Answer:
    """Return an error of the given status."""
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    request_id = f"req_{number.decode()}"
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return Answer(status=status, headers=b"request-id: req_%b\r\n%b" % (number, headers), parts=(_encode(body),))


def _whole(ask: Ask, number: bytes) -> bytes:
    return (
        b'{"id":"msg_%b","type":"message","role":"assistant","model":%b,"content":[{"type":"text","text":"%b"}],'
        b'"stop_reason":"%b","stop_sequence":null%b}'
    ) % (number, _encode(ask.model), words(ask.visible_tokens), _stop_reason(ask), _usage(ask, ask.output_tokens))


def _events(ask: Ask, number: bytes) -> tuple[bytes, ...]:
    start = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_%b","type":"message",'
        b'"role":"assistant","model":%b,"content":[],"stop_reason":null,"stop_sequence":null%b}}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    ) % (number, _encode(ask.model), _usage(ask, min(1, ask.output_tokens)))
    opening = (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
    )
    first, *rest = [opening + piece + b'"}}\n\n' for piece in pieces(ask.visible_tokens, ask.chunks)]
    end = (
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":null}%b}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    ) % (_stop_reason(ask), _delta_usage(ask))
    return (start + first, *rest, end)


def _stop_reason(ask: Ask) -> bytes:
    return b"max_tokens" if ask.is_cut else b"end_turn"


def _input_counts(ask: Ask) -> bytes:
    wish = ask.wish
    fresh = ask.input_tokens - wish.cached - wish.cache_write
    return b'"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d' % (
        fresh,
        wish.cache_write,
        wish.cached,
    )


def _output_counts(ask: Ask, output_tokens: int) -> bytes:
    counts = b'"output_tokens":%d' % output_tokens
    if ask.wish.reasoning and output_tokens >= ask.wish.reasoning:
        counts += b',"output_tokens_details":{"thinking_tokens":%d}' % ask.wish.reasoning
    return counts


def _usage(ask: Ask, output_tokens: int) -> bytes:
    if hides_usage(ask):
        return b""
    wish = ask.wish
    written = b'"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}' % (
        wish.cache_write - wish.cache_write_1h,
        wish.cache_write_1h,
    )
    tier = ask.tier.encode() or b"standard"
    counts = (_input_counts(ask), written, _output_counts(ask, output_tokens), _tools(ask), tier)
    return b',"usage":' + hostile(b'{%b,%b,%b%b,"service_tier":"%b"}' % counts, ask)


def _tools(ask: Ask) -> bytes:
    searches = ask.wish.searches
    return b',"server_tool_use":{"web_search_requests":%d,"web_fetch_requests":0}' % searches if searches else b""


def _delta_usage(ask: Ask) -> bytes:
    if hides_usage(ask):
        return b""
    counts = (_input_counts(ask), _output_counts(ask, ask.output_tokens), _tools(ask))
    return b',"usage":' + hostile(b"{%b,%b%b}" % counts, ask)


def _model(name: str) -> bytes:
    return (b'{"type":"model","id":%b,"display_name":%b,"created_at":"2025-01-01T00:00:00Z","lifecycle":"active"}') % (
        _encode(name),
        _encode(name),
    )
