"""Message batches of the simulated Anthropic: kept in memory, and done when somebody looks.

A batch ends when it is first retrieved after its creation, or after it was cancelled, which leaves nothing of it to be
worked on. What its requests used is in the ledger from then on, at the tier `batch`, and nowhere but in its results.
Those have an address that is absolute: that of the simulator itself.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.anthropic_api import error
from deploy.simulator.connection import Request
from deploy.simulator.ledger import Ledger
from deploy.simulator.lines import EXPIRED, Outcome, work
from deploy.simulator.listing import page_of
from deploy.simulator.wishes import BadRequest

PATH = b"/v1/messages/batches"
_encode = msgspec.json.encode
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class Wanted(msgspec.Struct):
    """One request of a batch."""

    custom_id: str
    params: msgspec.Raw


class BatchBody(msgspec.Struct):
    """Body of `POST /v1/messages/batches`."""

    requests: list[Wanted]


class MessageBatch(msgspec.Struct):
    """One batch; `about` is what the API says of it."""

    about: dict[str, Any]
    requests: list[Wanted]
    results: bytes = b""


class MessageBatches:
    """All message batches of one provider."""

    def __init__(self, ledger: Ledger, answer: Callable[[Request], Answer], address: Callable[[], str]) -> None:
        """Start empty; `answer` answers the request of a line, `address` is where the simulator listens."""
        self._ledger = ledger
        self._answer = answer
        self._address = address
        self._batches: dict[str, MessageBatch] = {}

    def answer(self, request: Request, path: bytes, number: bytes) -> Answer:
        """Answer a request on `/v1/messages/batches…`. Raises `BadRequest`."""
        name, _, verb = path[len(PATH) :].decode("ascii", "replace").removeprefix("/").partition("/")
        if not name:
            if request.method == b"POST":
                return self._create(request, number)
            return _whole(page_of([batch.about for batch in self._batches.values()], request.target))
        batch = self._batches.get(name)
        if batch is None or verb not in ("", "cancel", "results"):
            return error(404, f"batch: there is no {name!r}", number)
        if verb == "results":
            if not batch.about["results_url"]:
                return error(404, "results: the batch has not ended", number)
            return Answer(content_type=b"application/x-jsonl", parts=(batch.results,))
        if request.method == b"DELETE":
            return self._delete(name, batch)
        if verb == "cancel":
            _cancel(batch.about)
        elif batch.about["processing_status"] != "ended":
            self._end(batch, request)
        return _whole(batch.about)

    def _create(self, request: Request, number: bytes) -> Answer:
        try:
            wanted = msgspec.json.decode(request.body, type=BatchBody).requests
        except msgspec.MsgspecError as problem:
            raise BadRequest(f"request body: {problem}") from problem
        if not wanted or len({one.custom_id for one in wanted}) < len(wanted):
            raise BadRequest("requests: must be some, each with a custom_id of its own")
        now = datetime.now(UTC)
        about = {
            "id": f"msgbatch_{number.decode()}", "type": "message_batch", "processing_status": "in_progress",
            "request_counts": dict.fromkeys(_COUNTS, 0) | {"processing": len(wanted)}, "ended_at": None,
            "created_at": _written(now), "expires_at": _written(now + timedelta(days=1)), "archived_at": None,
            "cancel_initiated_at": None, "results_url": None,
        }  # fmt: skip
        self._batches[str(about["id"])] = MessageBatch(about, wanted)
        return _whole(about)

    def _delete(self, name: str, batch: MessageBatch) -> Answer:
        if batch.about["processing_status"] != "ended":
            raise BadRequest("batch: cannot be deleted before it has ended")
        del self._batches[name]
        return _whole({"id": name, "type": "message_batch_deleted"})

    def _end(self, batch: MessageBatch, asker: Request) -> None:
        """Answer every request of a batch, or none if it was cancelled; results are not in the order of requests."""
        about = batch.about
        counts = dict.fromkeys(_COUNTS, 0)
        told: list[bytes] = []
        for wanted in reversed(batch.requests):
            result: dict[str, Any] = {"type": "canceled"}
            if about["processing_status"] == "in_progress":
                outcome = work(self._answer, asker, "/v1/messages", bytes(wanted.params))
                if outcome.entry is not None:
                    self._ledger.record(outcome.entry)
                result = _result(outcome)
            counts[result["type"]] += 1
            told.append(_encode({"custom_id": wanted.custom_id, "result": result}) + b"\n")
        batch.results = b"".join(told)
        address = f"{self._address()}{PATH.decode()}/{about['id']}/results"
        about.update(
            processing_status="ended", ended_at=_written(datetime.now(UTC)), request_counts=counts, results_url=address
        )


def _result(outcome: Outcome) -> dict[str, Any]:
    if outcome.status == EXPIRED:
        return {"type": "expired"}
    if outcome.status != 200:
        return {"type": "errored", "error": msgspec.Raw(outcome.body)}
    return {"type": "succeeded", "message": msgspec.Raw(outcome.body)}


def _cancel(about: dict[str, Any]) -> None:
    if about["processing_status"] == "ended":
        raise BadRequest("batch: has ended and cannot be cancelled")
    if about["processing_status"] == "in_progress":
        about.update(processing_status="canceling", cancel_initiated_at=_written(datetime.now(UTC)))


def _whole(about: dict[str, Any]) -> Answer:
    return Answer(parts=(_encode(about),))


def _written(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
