"""OpenAI's responses: which fields matter, where the usage is, which tools of the provider's are billed beside tokens.

A stream ends with one of three events, which holds the whole response with its usage; one that is cut off ends with
`response.incomplete`, for the reason `max_output_tokens`. Searches are billed as the response says, or else one by
one where pages were not only opened; a session for code is billed once for each container.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.ask import MAX_ASKED_TOKENS, Ask, count_field, flag_field, text_field
from ingress.core.counts import count_of
from ingress.core.cutoff import CutOff
from ingress.core.providers.openai import is_failure
from ingress.core.providers.openai_usage import NO_USAGE, report, unreadable
from ingress.core.reported import ERROR_ANSWER, ERROR_EVENT, NOTHING_REPORTED, Reported
from ingress.core.sse import data_of, split_events
from ingress.core.strict_json import InputError
from schemas import units

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_UNITS = {
    "web_search_call": units.WEB_SEARCH,
    "file_search_call": units.FILE_SEARCH,
    "image_generation_call": units.IMAGES,
    "code_interpreter_call": units.CODE_SESSION,
}
"""What items of an output are billed as."""


class _Item(msgspec.Struct):
    type: Any = None
    status: Any = None
    action: Any = None
    container_id: Any = None


class _Response(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    model: Any = None
    service_tier: Any = None
    status: Any = None
    output: list[_Item] | None = None
    tool_usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    response: msgspec.Raw = NO_USAGE


class _Place(msgspec.Struct):
    type: Any = None
    sequence_number: Any = None


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_place = msgspec.json.Decoder(_Place).decode
_decode_any = msgspec.json.Decoder().decode


def read_response(fields: dict[str, Any]) -> Ask:
    """Understand the body of a response; `InputError` names the field that is wrong."""
    if flag_field(fields, "background"):
        raise InputError("background: not served here, because the answer is fetched where its usage is not seen")
    return Ask(
        text_field(fields, "model"),
        flag_field(fields, "stream"),
        count_field(fields, "max_output_tokens", MAX_ASKED_TOKENS),
    )


def read_compaction(fields: dict[str, Any]) -> Ask:
    """Understand the body of a request to make a context smaller; `InputError` names the field that is wrong."""
    return Ask(text_field(fields, "model"))


def read_answer(body: bytes) -> Reported:
    """Return what a whole response reports."""
    try:
        answer = _decode_response(body)
    except _FAULTS:
        return unreadable(body)
    reported = _reported(answer)
    has_failed = answer.status == "failed" or (answer.status is None and is_failure(body))
    return msgspec.structs.replace(reported, failed=ERROR_ANSWER) if has_failed else reported


class ResponsesStream:
    """Reads the events of one streamed response that may matter (see `sse.EventReader`)."""

    __slots__ = ("_begun", "failed", "is_complete", "reported")

    end_mark = b'"usage"'
    usage_mark = b'"usage"'
    piece_mark = b'"delta"'
    text_mark = b'"delta":"'

    def __init__(self, hides_usage: bool = False) -> None:
        """Start reading; nothing is ever hidden, because the usage is never asked for."""
        self._begun = b""
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream, and note the usage in it."""
        try:
            event = _decode_event(data)
        except _FAULTS:
            return self._salvage(data)
        if event.type not in _ENDS:
            return False
        response = bytes(event.response)
        try:
            self.reported = _reported(_decode_response(response))
        except _FAULTS:
            self.reported = unreadable(response)
        self._end(event.type)
        return True

    def take(self, data: bytes) -> bool:
        """Keep what the response is, which the first event tells; nothing is ever hidden."""
        if not self._begun:
            try:
                self._begun = bytes(_decode_event(data).response)
            except _FAULTS:
                return False
        return False

    def note_error(self, data: bytes) -> None:
        """Note an event that says that the response has failed."""
        try:
            if _decode_place(data).type in ("error", "response.failed"):
                self.failed = ERROR_EVENT
        except _FAULTS:
            return

    def finished(self, block: bytes) -> frozenset[int]:
        """Return the choices that end in a block: a response has only one, which ends with the stream."""
        return frozenset()

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return the event that ends the stream: the response as it began, incomplete, with its usage."""
        response: dict[str, Any] = {
            "id": cut.answer_id, "object": "response", "created_at": cut.now_s, "model": cut.model, "error": None,
            "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": None,
            "tool_choice": "auto", "tools": [], "top_p": None,
        }  # fmt: skip
        response.update(_object_in(self._begun))
        response.update({
            "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [],
            "usage": {
                "input_tokens": cut.usage.all_input,
                "input_tokens_details": {"cached_tokens": cut.usage.cache_read, "cache_write_tokens": 0},
                "output_tokens": cut.usage.all_output, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": cut.usage.total,
            },
        })  # fmt: skip
        event = {
            "type": "response.incomplete", "sequence_number": _next_number(last), "response": response,
            "tollway": cut.notice,
        }  # fmt: skip
        return b"event: response.incomplete\ndata: %b\n\n" % msgspec.json.encode(event)

    def _end(self, kind: Any) -> None:
        self.is_complete = True
        if kind == "response.failed":
            self.failed = ERROR_EVENT

    def _salvage(self, data: bytes) -> bool:
        """Read an event that the strict decoder refuses; tell whether it ends the stream."""
        kind = next((kind for kind in sorted(_ENDS) if b'"%b"' % kind.encode() in data), "")
        if not kind:
            return False
        self.reported = unreadable(data, ("response",))
        self._end(kind)
        return True


def _reported(answer: _Response) -> Reported:
    odd: set[str] = set()
    billed = _billed(answer, odd)
    reported = report(answer.model, bytes(answer.usage), answer.service_tier, billed)
    return msgspec.structs.replace(reported, flags=tuple(sorted({*reported.flags, *odd}))) if odd else reported


def _billed(answer: _Response, odd: set[str]) -> dict[str, int]:
    """Return what the provider's own tools have done, by unit."""
    found: dict[str, int] = {}
    containers: set[str] = set()
    for item in answer.output or ():
        unit = _UNITS.get(item.type) if type(item.type) is str and item.status != "failed" else None
        if unit is None or (unit == units.WEB_SEARCH and _is_of_pages(item.action)):
            continue
        if unit == units.CODE_SESSION:
            containers.add(str(item.container_id))
            found[unit] = len(containers)
        else:
            found[unit] = found.get(unit, 0) + 1
    searches = _told_searches(answer.tool_usage, odd)
    if searches:
        found[units.WEB_SEARCH] = searches
    elif searches == 0:
        found.pop(units.WEB_SEARCH, None)
    return found


def _is_of_pages(action: Any) -> bool:
    """Tell whether a search call only looked at pages, which is not billed."""
    return type(action) is dict and action.get("type") in ("open_page", "find", "find_in_page")


def _told_searches(tool_usage: Any, odd: set[str]) -> int | None:
    """Return how many searches the response says are billed; None if it does not say."""
    searched = tool_usage.get("web_search") if type(tool_usage) is dict else None
    told = searched.get("num_requests") if type(searched) is dict else None
    return None if told is None else count_of(told, odd)


def _object_in(raw: bytes) -> dict[str, Any]:
    try:
        found = _decode_any(raw) if raw else None
    except _FAULTS:
        return {}
    return found if isinstance(found, dict) else {}


def _next_number(last: bytes) -> int:
    """Return the number of the event after the last ones of a stream."""
    for event in reversed(split_events(last)):
        try:
            number = _decode_place(data_of(event)).sequence_number
        except _FAULTS:
            continue
        if type(number) is int:
            return number + 1
    return 0
