"""Works on one line of a batch: what the route that it names answers, as a provider puts it into a file of results.

A batch is never streamed, and its connection is nobody's: what would break an answer on its way fails the line, and an
answer that would never come (`fail=timeout`) leaves it expired.
"""

from collections.abc import Callable

import msgspec

from deploy.simulator import anthropic_api, openai_api
from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request
from deploy.simulator.ledger import Entry

EXPIRED = 0
"""The status of a line that was not worked on in time."""
_BROKEN = frozenset({"reset", "reset_midway", "truncate", "garbage", "bad_json"})


class Outcome(msgspec.Struct, frozen=True):
    """What became of a line; the entry belongs into the ledger."""

    status: int
    body: bytes
    entry: Entry | None


def work(answer: Callable[[Request], Answer], asker: Request, path: str, body: bytes) -> Outcome:
    """Answer the request of a line, which comes from whoever `asker` is, at the tier `batch`."""
    headers = {**asker.headers, b"content-type": b"application/json"}
    found = answer(Request(b"POST", path.encode(), headers, body))
    if found.fail == "timeout":
        return Outcome(EXPIRED, b"", None)
    if found.fail in _BROKEN:
        return Outcome(500, _error(path, 500, "The server had an error while processing your request."), None)
    if found.streamed:
        return Outcome(400, _error(path, 400, "stream: is not supported in batches"), None)
    if found.entry is None:
        return Outcome(found.status if found.status != 200 else 500, found.parts[0], None)
    text = found.parts[0].replace(b'"service_tier":"standard"', b'"service_tier":"batch"')
    return Outcome(200, text, msgspec.structs.replace(found.entry, tier="batch"))


def _error(path: str, status: int, message: str) -> bytes:
    """Return an error in the shape of the API that a path belongs to."""
    make = anthropic_api.error if path.startswith("/v1/messages") else openai_api.error
    return make(status, message, b"line").parts[0]
