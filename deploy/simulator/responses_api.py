"""Answers of responses, legacy completions and moderations, in the shapes of OpenAI's API. Pure."""

from typing import Any

import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.ask import Ask
from deploy.simulator.openai_api import answer_of, hides_usage
from deploy.simulator.text import pieces, words
from deploy.simulator.usage import chat_usage, entry_of, responses_usage

_encode = msgspec.json.encode
_RAW = msgspec.Raw
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def responses(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer a response, streamed or not: the items of server tools, reasoning, then a message."""
    name = number.decode()
    entry = entry_of(ask, "responses", f"resp_{name}")
    done = _response(ask, name, now_s, "incomplete" if ask.is_cut else "completed", _items(ask, name))
    if not ask.stream:
        return answer_of(ask, number, (_encode(done),), entry)
    begun = _response(ask, name, now_s, "in_progress", [])
    return answer_of(ask, number, _events(ask, name, begun, done), entry)


def completions(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer a legacy completion, streamed or not."""
    entry = entry_of(ask, "completions", f"cmpl-{number.decode()}")
    head: dict[str, Any] = {
        "id": f"cmpl-{number.decode()}", "object": "text_completion", "created": now_s, "model": ask.model,
    }  # fmt: skip
    reason = "length" if ask.is_cut else "stop"
    usage = {} if hides_usage(ask) else {"usage": _RAW(chat_usage(ask))}
    if not ask.stream:
        body = {**head, "choices": [_choice(words(ask.visible_tokens).decode(), reason)], **usage}
        return answer_of(ask, number, (_encode(body),), entry)
    empty = {"usage": None} if usage and ask.include_usage else {}
    chunks = [{**head, "choices": [_choice(piece.decode(), None)], **empty} for piece in _pieces(ask)]
    last = [{**head, "choices": [_choice("", reason)], **empty}]
    if empty:
        last.append({**head, "choices": [], **usage})
    ending = b"".join(map(_data, last)) + b"data: [DONE]\n\n"
    return answer_of(ask, number, (*map(_data, chunks), ending), entry)


def moderations(ask: Ask, number: bytes) -> Answer:
    """Answer a moderation: nothing is flagged, and nothing is billed."""
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.001),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    body = {"id": f"modr-{number.decode()}", "model": ask.model, "results": [result] * ask.count}
    return answer_of(ask, number, (_encode(body),), entry_of(ask, "moderations", f"modr-{number.decode()}"))


def _response(ask: Ask, name: str, now_s: int, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    is_done = status != "in_progress"
    body: dict[str, Any] = {
        "id": f"resp_{name}", "object": "response", "created_at": now_s, "status": status, "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None, "metadata": {}, "model": ask.model, "output": items, "parallel_tool_calls": True,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "store": False,
        "service_tier": (ask.tier or "default") if is_done else "auto",
    }  # fmt: skip
    if not is_done:
        body["usage"] = None
    elif not hides_usage(ask):
        body["usage"] = _RAW(responses_usage(ask))
        if ask.wish.searches:
            body["tool_usage"] = {"image_gen": _NO_IMAGES, "web_search": {"num_requests": ask.wish.searches}}
    return body


_NO_IMAGES = {
    "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0,
    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "total_tokens": 0,
}  # fmt: skip


def _items(ask: Ask, name: str) -> list[dict[str, Any]]:
    wish = ask.wish
    items: list[dict[str, Any]] = []
    for at in range(wish.searches):
        action = {"type": "search", "query": "tokens", "queries": ["tokens"]}
        items.append({"id": f"ws_{name}-{at}", "type": "web_search_call", "status": "completed", "action": action})
    for at in range(wish.file_searches):
        items.append({"id": f"fs_{name}-{at}", "type": "file_search_call", "status": "completed",
                      "queries": ["tokens"], "results": None})  # fmt: skip
    for at in range(wish.code_sessions):
        items.append({"id": f"ci_{name}-{at}", "type": "code_interpreter_call", "status": "completed",
                      "code": "1 + 1", "container_id": f"cntr_{name}-{at}", "outputs": None})  # fmt: skip
    if wish.reasoning:
        items.append({"id": f"rs_{name}", "type": "reasoning", "summary": []})
    items.append(_message(name, words(ask.visible_tokens).decode(), "incomplete" if ask.is_cut else "completed"))
    return items


def _message(name: str, text: str, status: str) -> dict[str, Any]:
    content = [] if status == "in_progress" else [_part(text)]
    return {"id": f"msg_{name}", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(ask: Ask, name: str, begun: dict[str, Any], done: dict[str, Any]) -> tuple[bytes, ...]:
    *tools, message = done["output"]
    index, count = len(tools), 0

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal count
        body = {"type": kind, "sequence_number": count, **fields}
        count += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(body))

    at = {"item_id": message["id"], "output_index": index, "content_index": 0}
    start = event("response.created", response=begun) + event("response.in_progress", response=begun)
    for place, item in enumerate(tools):
        waiting = {**item, "status": "in_progress"} if "status" in item else item
        start += event("response.output_item.added", output_index=place, item=waiting)
        start += event("response.output_item.done", output_index=place, item=item)
    opened = _message(name, "", "in_progress")
    start += event("response.output_item.added", output_index=index, item=opened)
    start += event("response.content_part.added", **at, part=_part(""))
    deltas = [event("response.output_text.delta", **at, delta=piece.decode(), logprobs=[]) for piece in _pieces(ask)]
    text = words(ask.visible_tokens).decode()
    closed = event("response.output_text.done", **at, text=text, logprobs=[])
    closed += event("response.content_part.done", **at, part=_part(text))
    closed += event("response.output_item.done", output_index=index, item=message)
    return (start + deltas[0], *deltas[1:], closed, event(f"response.{done['status']}", response=done))


def _pieces(ask: Ask) -> tuple[bytes, ...]:
    return pieces(ask.visible_tokens, ask.chunks)


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(chunk)
