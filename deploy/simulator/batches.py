"""Files and batches of the simulated OpenAI: kept in memory, and done when somebody looks.

A batch is answered line by line when it is first retrieved after its creation, by the routes that its lines name; what
they answered is in the ledger from then on, at the tier `batch`, whether or not anybody fetches the file with it.

Batches have one model, which is told once they are done, with what they used together. `metadata: {"sim": …}` of a
batch asks for an older or another server: `no_usage` does not tell what was used, `no_model` not the model, and takes
lines of several; both may be named, with a blank between.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request
from deploy.simulator.form import read_form
from deploy.simulator.ledger import Entry, Ledger
from deploy.simulator.lines import EXPIRED, Outcome, work
from deploy.simulator.listing import page_of
from deploy.simulator.openai_api import error
from deploy.simulator.wishes import BadRequest

_encode = msgspec.json.encode
_WISHES = frozenset({"no_usage", "no_model"})
_EXPIRY = {"code": "batch_expired", "message": "This request was not executed before the completion window expired."}


class LineBody(msgspec.Struct):
    """What of a line's body matters to its batch."""

    model: str


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


class BadLine(Exception):
    """A batch cannot be worked on; carries what the batch says of it."""


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
            if method == b"POST":
                return self._upload(request, number)
            return _listed([file.about for file in self._files.values()], request)
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
            if method == b"POST":
                return self._create(request, number)
            return _listed(list(self._batches.values()), request)
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
        if unknown := _wishes(body.metadata) - _WISHES:
            raise BadRequest(f"metadata.sim: unknown {sorted(unknown)[0]!r}; use one of {', '.join(sorted(_WISHES))}")
        name, now_s = f"batch_{number.decode()}", int(time.time())
        batch = self._batches[name] = {
            "id": name, "object": "batch", "endpoint": body.endpoint, "errors": None,
            "input_file_id": body.input_file_id, "completion_window": body.completion_window, "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": now_s, "expires_at": now_s + 86_400,
            "completed_at": None, "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.metadata,
        }  # fmt: skip
        if "no_model" not in _wishes(body.metadata):
            batch["model"] = None
        if "no_usage" not in _wishes(body.metadata):
            batch["usage"] = _used([])
        return Answer(parts=(_encode(batch),))

    def _work(self, batch: dict[str, Any], asker: Request, number: bytes) -> None:
        """Answer every line of a batch, or none if one cannot be read."""
        now_s = int(time.time())
        try:
            lines, model = self._lines(batch)
        except BadLine as problem:
            errors = {"object": "list", "data": [problem.args[0]]}
            batch.update(status="failed", failed_at=now_s, errors=errors)
            return
        outcomes = [work(self._answer, asker, line.url, bytes(line.body)) for line in lines]
        entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
        for entry in entries:
            self._ledger.record(entry)
        told = [
            _line(line, outcome, number, at) for at, (line, outcome) in enumerate(zip(lines, outcomes, strict=True))
        ]
        for is_done, key in ((True, "output"), (False, "error")):
            texts = [text for text, outcome in zip(told, outcomes, strict=True) if (outcome.status == 200) is is_done]
            batch[f"{key}_file_id"] = self._results(batch, key, texts, number) if texts else ""
        is_expired = any(outcome.status == EXPIRED for outcome in outcomes)
        status = "expired" if is_expired else "completed"
        counts = {"total": len(lines), "completed": len(entries), "failed": len(lines) - len(entries)}
        batch.update({"status": status, f"{status}_at": now_s, "request_counts": counts})
        batch.update({"model": model} if "model" in batch else {})
        batch.update({"usage": _used(entries)} if "usage" in batch else {})

    def _lines(self, batch: dict[str, Any]) -> tuple[list[Line], str]:
        """Return the lines of a batch and the model of the first. Raises `BadLine`."""
        lines: list[Line] = []
        first = ""
        file = self._files.get(batch["input_file_id"])
        for at, text in enumerate([] if file is None else file.content.splitlines(), 1):
            try:
                line = msgspec.json.decode(text, type=Line)
                model = msgspec.json.decode(line.body, type=LineBody).model
            except msgspec.MsgspecError as problem:
                raise BadLine(_fault(at, "invalid_json_line", str(problem), None)) from problem
            first = first or model
            if model != first and "no_model" not in _wishes(batch["metadata"]):
                raise BadLine(_fault(at, "mismatched_model", f"{model!r} is not the model of the batch", "body.model"))
            lines.append(line)
        if not lines:
            raise BadLine(_fault(None, "empty_file", "The input file has no lines.", None))
        return lines, first

    def _results(self, batch: dict[str, Any], key: str, texts: list[bytes], number: bytes) -> str:
        """Keep a file of results and return its id."""
        name = f"{batch['id']}_{key}.jsonl"
        return str(self._keep(number + b"-" + key.encode(), name, "batch_output", b"".join(texts)).about["id"])


def _line(line: Line, outcome: Outcome, number: bytes, at: int) -> bytes:
    """Return a line of a file of results."""
    told: dict[str, Any] = {"id": f"batch_req_{number.decode()}-{at}", "custom_id": line.custom_id}
    if outcome.status == EXPIRED:
        return _encode({**told, "response": None, "error": _EXPIRY}) + b"\n"
    response = {
        "status_code": outcome.status, "request_id": f"req_{number.decode()}-{at}", "body": msgspec.Raw(outcome.body),
    }  # fmt: skip
    return _encode({**told, "response": response, "error": None}) + b"\n"


def _used(entries: list[Entry]) -> dict[str, Any]:
    """Return what a batch says it used."""
    given, made = sum(entry.input for entry in entries), sum(entry.output for entry in entries)
    return {
        "input_tokens": given, "input_tokens_details": {"cached_tokens": sum(entry.cached for entry in entries)},
        "output_tokens": made, "output_tokens_details": {"reasoning_tokens": sum(entry.reasoning for entry in entries)},
        "total_tokens": given + made,
    }  # fmt: skip


def _wishes(metadata: dict[str, str] | None) -> set[str]:
    return set((metadata or {}).get("sim", "").split())


def _fault(line: int | None, code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}


def _listed(items: list[dict[str, Any]], request: Request) -> Answer:
    return Answer(parts=(_encode({"object": "list", **page_of(items, request.target)}),))
