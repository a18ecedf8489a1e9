"""Answers that are correctly delivered and yet no answers: errors with status 200, streams without their end. Pure."""

import msgspec

from deploy.simulator.answer import EVENTS, JSON, Answer

_MESSAGE = "The server had an error while processing your request."
_OPENAI = msgspec.json.encode({"error": {"message": _MESSAGE, "type": "server_error", "param": None, "code": None}})
_ANTHROPIC = msgspec.json.encode({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
_RESPONSES = (
    b'{"type":"error","code":"server_error","message":"%b","param":null,"sequence_number":%d}'  # no object around it
)
_TERMINATORS = (b"data: [DONE]\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def break_answer(answer: Answer, path: bytes) -> Answer:
    """Return the answer as its `fail` wants it, where that changes what is delivered and not how."""
    fail = answer.fail
    if fail is None or fail not in ("error_inside", "error_event", "no_end", "no_terminator"):
        return answer
    event = answer.content_type == EVENTS and answer.streamed
    if fail == "error_inside" or (fail == "error_event" and not event):
        part = _event(path, 0) if event else _ANTHROPIC if _is_anthropic(path) else _OPENAI
        kind = answer.content_type if event else JSON
        return msgspec.structs.replace(answer, content_type=kind, parts=(part,), streamed=event, entry=None)
    if not event:
        return answer
    *first, last = answer.parts
    if fail == "error_event":
        kept = answer.parts[: max(1, len(answer.parts) // 2)]
        return msgspec.structs.replace(answer, parts=(*kept, _event(path, len(kept))), entry=None)
    if fail == "no_end":
        return msgspec.structs.replace(answer, parts=tuple(first), entry=None)
    for mark in _TERMINATORS:
        last = last.removesuffix(mark)
    return msgspec.structs.replace(answer, parts=(*first, last) if last else tuple(first))


def _event(path: bytes, number: int) -> bytes:
    if _is_anthropic(path):
        return b"event: error\ndata: %b\n\n" % _ANTHROPIC
    if path.startswith(b"/v1/responses"):
        return b"event: error\ndata: %b\n\n" % (_RESPONSES % (_MESSAGE.encode(), number))
    return b"data: %b\n\n" % _OPENAI


def _is_anthropic(path: bytes) -> bool:
    return path.startswith(b"/v1/messages")
