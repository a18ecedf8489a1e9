"""Files and batches of the simulated provider: kept in memory, and done when somebody looks.

A batch is answered line by line when it is first retrieved after its creation, by the routes that its lines name; what
they answered is in the ledger from then on, at the tier `batch`, whether or not anybody fetches the file with it.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request
from deploy.simulator.form import read_form
from deploy.simulator.ledger import Ledger
from deploy.simulator.openai_api import error
from deploy.simulator.wishes import BadRequest

_encode = msgspec.json.encode
_USAGES = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))


class Line(msgspec.Struct):
    """One request of a batch."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class BatchBody(msgspec.Struct):
    """Body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class File(msgspec.Struct):
    """One file; `about` is what the API says of it."""

    about: dict[str, Any]
    content: bytes


class Vault:
    """All files and batches of one provider."""

    def __init__(self, ledger: Ledger, answer: Callable[[Request], Answer]) -> None:
        """Start empty; `answer` answers the request of a line."""
        self._ledger = ledger
        self._answer = answer
        self._files: dict[str, File] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def answer(self, request: Request, path: bytes, number: bytes) -> Answer:
        """Answer a request on `/v1/files…` or `/v1/batches…`. Raises `BadRequest`."""
        what, *rest = path.decode("ascii", "replace").removeprefix("/v1/").split("/")
        name, verb = rest[0] if rest else "", rest[1] if len(rest) > 1 else ""
        find = self._file if what == "files" else self._batch
        answer = find(request, name, verb, number) if len(rest) < 3 else None
        if answer is None:
            return error(404, f"No such {'file' if what == 'files' else 'batch'} object: {name}", number)
        return answer

    def _file(self, request: Request, name: str, verb: str, number: bytes) -> Answer | None:
        method = request.method
        if not name:
            return self._upload(request, number) if method == b"POST" else _listed(
                [file.about for file in self._files.values()]
            )  # fmt: skip
        file = self._files.get(name)
        if file is None:
            return None
        if method == b"DELETE":
            del self._files[name]
            return Answer(parts=(_encode({"id": name, "object": "file", "deleted": True}),))
        if verb == "content":
            return Answer(content_type=b"application/octet-stream", parts=(file.content,))
        return Answer(parts=(_encode(file.about),))

    def _batch(self, request: Request, name: str, verb: str, number: bytes) -> Answer | None:
        method = request.method
        if not name:
            return self._create(request, number) if method == b"POST" else _listed(list(self._batches.values()))
        batch = self._batches.get(name)
        if batch is None:
            return None
        if batch["status"] == "validating":
            if verb == "cancel":
                batch.update(status="cancelled", cancelled_at=int(time.time()))
            else:
                self._work(batch, request, number)
        return Answer(parts=(_encode(batch),))

    def _upload(self, request: Request, number: bytes) -> Answer:
        form = read_form(request.headers.get(b"content-type", b""), request.body)
        if not form.files:
            raise BadRequest("file: is missing")
        _, filename, content = form.files[0]
        return Answer(parts=(_encode(self._keep(number, filename, form.texts.get("purpose", ""), content).about),))

    def _keep(self, number: bytes, filename: str, purpose: str, content: bytes) -> File:
        about = {
            "id": f"file-{number.decode()}", "object": "file", "bytes": len(content), "created_at": int(time.time()),
            "filename": filename, "purpose": purpose, "status": "processed",
        }  # fmt: skip
        file = self._files[about["id"]] = File(about, content)  # type: ignore[index]  # the id is a text
        return file

    def _create(self, request: Request, number: bytes) -> Answer:
        try:
            body = msgspec.json.decode(request.body, type=BatchBody)
        except msgspec.MsgspecError as problem:
            raise BadRequest(f"request body: {problem}") from problem
        if body.input_file_id not in self._files:
            raise BadRequest(f"input_file_id: there is no file {body.input_file_id!r}")
        name = f"batch_{number.decode()}"
        batch = self._batches[name] = {
            "id": name, "object": "batch", "endpoint": body.endpoint, "errors": None,
            "input_file_id": body.input_file_id, "completion_window": body.completion_window, "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": int(time.time()), "completed_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": body.metadata,
        }  # fmt: skip
        return Answer(parts=(_encode(batch),))

    def _work(self, batch: dict[str, Any], asker: Request, number: bytes) -> None:
        """Answer every line of a batch."""
        lines = self._files[batch["input_file_id"]].content.splitlines()
        done: dict[bool, list[bytes]] = {True: [], False: []}
        usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        for at, text in enumerate(lines):
            line = msgspec.json.decode(text, type=Line)
            headers = {**asker.headers, b"content-type": b"application/json"}
            request = Request(b"POST", line.url.encode(), headers, bytes(line.body))
            answer = self._answer(request)
            is_done = answer.status == 200 and answer.entry is not None
            if answer.entry is not None:
                self._ledger.record(msgspec.structs.replace(answer.entry, tier="batch"))
                _add(usage, answer.parts[0])
            response = {
                "status_code": answer.status, "request_id": f"req_{number.decode()}-{at}",
                "body": msgspec.Raw(answer.parts[0]),
            }  # fmt: skip
            told = {"id": f"batch_req_{number.decode()}-{at}", "custom_id": line.custom_id, "response": response}
            done[is_done].append(_encode({**told, "error": None}) + b"\n")
        for is_done, key in ((True, "output"), (False, "error")):
            if done[is_done]:
                file = self._keep(number + b"-" + key.encode(), f"{batch['id']}_{key}.jsonl", "batch_output",
                                  b"".join(done[is_done]))  # fmt: skip
                batch[f"{key}_file_id"] = file.about["id"]
        counts = {"total": len(lines), "completed": len(done[True]), "failed": len(done[False])}
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        now_s = int(time.time())
        batch.update(status="completed", completed_at=now_s, request_counts=counts, usage={**usage, **details})


def _add(usage: dict[str, int], body: bytes) -> None:
    """Add the usage of an answer to that of its batch."""
    found = msgspec.json.decode(body).get("usage") or {}
    for name, other in _USAGES:
        count = found.get(name, found.get(other, 0))
        usage[name] += count
        usage["total_tokens"] += count


def _listed(items: list[dict[str, Any]]) -> Answer:
    items = items[::-1]
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return Answer(parts=(_encode(
        {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False}
    ),))  # fmt: skip
