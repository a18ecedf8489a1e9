"""Usage objects as each API has them, and what a hostile provider makes of them. Pure."""

from typing import Any

import msgspec

from deploy.simulator.ask import Ask
from deploy.simulator.ledger import Entry
from deploy.simulator.wishes import NO_WISH

_encode = msgspec.json.encode
_COUNTS = ("completion_tokens", "output_tokens", "seconds", "prompt_tokens", "input_tokens")
"""What is made hostile: the first of these that a usage object has."""
_SPELLED = {"infinite": b"1e999", "endless": b"1" + b"0" * 40}
_MARK = b'"@hostile@"'


def hostile(usage: bytes, ask: Ask) -> bytes:
    """Return the usage object as the request wants it."""
    how = ask.wish.hostile
    if how is None:
        return usage
    if how.startswith("usage_"):
        return {"usage_null": b"null", "usage_empty": b"{}", "usage_list": b"[]"}[how]
    fields: dict[str, Any] = msgspec.json.decode(usage)
    if how == "no_total":
        fields.pop("total_tokens", None)
        return _encode(fields)
    name = next(name for name in _COUNTS if name in fields)
    count = fields[name]
    if how == "contradictory":
        _contradict(fields, name)
    elif how == "missing":
        del fields[name]
    else:
        values = {"negative": -count - 1, "fractional": count + 0.5, "huge": 10**15, "text": str(count), "null": None}
        fields[name] = values.get(how, "@hostile@")
    return _encode(fields).replace(_MARK, _SPELLED.get(how, _MARK))


def _contradict(fields: dict[str, Any], name: str) -> None:
    """Make details larger than their count, and the total smaller."""
    count = fields[name]
    for key, value in fields.items():
        if isinstance(value, dict):
            fields[key] = dict.fromkeys(value, count + 1_000_000)
    if "cache_read_input_tokens" in fields:
        fields["output_tokens_details"] = {"thinking_tokens": count + 1_000_000}
    if "total_tokens" in fields:
        fields["total_tokens"] = max(0, count - 1)


def chat_usage(ask: Ask) -> bytes:
    """Return the usage of a chat completion or of a legacy completion."""
    wish = ask.wish
    image = b',"image_tokens":%d' % wish.image_input if wish.image_input else b""
    usage = (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d,"audio_tokens":%d%b},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":%d,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ) % (
        ask.input_tokens,
        ask.output_tokens,
        ask.input_tokens + ask.output_tokens,
        wish.cached,
        wish.cache_write,
        wish.audio_input,
        image,
        wish.reasoning,
        wish.audio_output,
    )
    return hostile(usage, ask)


def responses_usage(ask: Ask) -> bytes:
    """Return the usage of a response."""
    wish = ask.wish
    usage = (
        b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},'
        b'"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}'
    ) % (
        ask.input_tokens,
        wish.cached,
        wish.cache_write,
        ask.output_tokens,
        wish.reasoning,
        ask.input_tokens + ask.output_tokens,
    )
    return hostile(usage, ask)


def image_usage(ask: Ask) -> bytes:
    """Return the usage of images that are billed by tokens."""
    pictures, made = ask.wish.image_input, ask.wish.image_output or ask.output_tokens
    usage = {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"image_tokens": pictures, "text_tokens": ask.input_tokens - pictures},
        "output_tokens": ask.output_tokens,
        "output_tokens_details": {"image_tokens": made, "text_tokens": ask.output_tokens - made},
        "total_tokens": ask.input_tokens + ask.output_tokens,
    }
    return hostile(_encode(usage), ask)


def transcription_usage(ask: Ask) -> bytes:
    """Return the usage of a transcription: tokens, or a duration where its model is billed by time."""
    if "audio_ms" in ask.units:
        return hostile(b'{"type":"duration","seconds":%d}' % (ask.units["audio_ms"] // 1000), ask)
    heard = ask.wish.audio_input
    usage = {
        "type": "tokens",
        "total_tokens": ask.input_tokens + ask.output_tokens,
        "input_tokens": ask.input_tokens,
        "input_token_details": {"text_tokens": ask.input_tokens - heard, "audio_tokens": heard},
        "output_tokens": ask.output_tokens,
    }
    return hostile(_encode(usage), ask)


def speech_usage(ask: Ask) -> bytes:
    """Return the usage of spoken text, whose output is audio."""
    total = ask.input_tokens + ask.output_tokens
    usage = {"input_tokens": ask.input_tokens, "output_tokens": ask.output_tokens, "total_tokens": total}
    return hostile(_encode(usage), ask)


def entry_of(ask: Ask, operation: str, answer_id: str, tier: str = "") -> Entry:
    """Return the ledger's line for an answered request."""
    wish = ask.wish
    if wish is NO_WISH and not ask.units and not tier and not ask.tier:
        return Entry(
            id=answer_id, operation=operation, model=ask.model, input=ask.input_tokens, output=ask.output_tokens,
            stream=ask.stream, nonce=ask.nonce,
        )  # fmt: skip
    return Entry(
        id=answer_id,
        operation=operation,
        model=ask.model,
        input=ask.input_tokens,
        output=ask.output_tokens,
        cached=wish.cached,
        cache_write=wish.cache_write,
        reasoning=wish.reasoning,
        stream=ask.stream,
        nonce=ask.nonce,
        audio_input=wish.audio_input,
        audio_output=wish.audio_output,
        image_input=wish.image_input,
        image_output=wish.image_output,
        units=ask.units,
        tier=tier or ask.tier,
    )
