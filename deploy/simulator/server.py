"""The simulator as a server: routes a request to the API it speaks, and listens.

Usable inside a test's event loop (`await Simulator().start()`) or as a process (`python -m deploy.simulator`).
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec

from deploy.simulator import anthropic_api, media_api, openai_api, responses_api
from deploy.simulator.answer import Answer
from deploy.simulator.ask import Ask, read_chat, read_count_tokens, read_embeddings, read_messages
from deploy.simulator.ask_media import read_audio, read_images, read_speech
from deploy.simulator.ask_text import read_completions, read_moderations, read_responses
from deploy.simulator.batches import Vault
from deploy.simulator.connection import Request, SimulatorProtocol
from deploy.simulator.faults import break_answer
from deploy.simulator.ledger import Ledger
from deploy.simulator.message_batches import PATH as MESSAGE_BATCHES
from deploy.simulator.message_batches import MessageBatches
from deploy.simulator.wishes import BadRequest

_RETRY_STATUSES = (429, 503, 529)
_STATUS_MESSAGES = {
    401: "Incorrect API key provided.",
    403: "Your key may not use this resource.",
    404: "The model does not exist or you do not have access to it.",
    429: "Rate limit reached; see retry-after.",
    500: "The server had an error while processing your request.",
    529: "Overloaded.",
}

Read = Callable[[Request], Ask]
Make = Callable[[Ask, bytes, int], Answer]
"""Takes the request, the answer's number and unix seconds."""


class Simulator:
    """A provider that speaks both APIs."""

    def __init__(
        self, *, ledger: Path | None = None, require_key: str | None = None, keep_entries: bool = False
    ) -> None:
        """Make a simulator that does not listen yet.

        Args:
            ledger: file to append a line to for each completed answer.
            require_key: the only provider key accepted; None accepts any, and none.
            keep_entries: keep every entry in `self.ledger.entries`, for tests.
        """
        self.ledger = Ledger(ledger, keep_entries=keep_entries)
        self.connections: set[SimulatorProtocol] = set()
        self.url = ""
        self._key = None if require_key is None else require_key.encode()
        self._series = b"%x" % time.time_ns()
        self._count = 0
        self._server: asyncio.Server | None = None
        self._posts: dict[bytes, tuple[Read, Make]] = {
            b"/v1/chat/completions": (of_body(read_chat), openai_api.chat),
            b"/v1/messages": (of_body(read_messages), timeless(anthropic_api.messages)),
            b"/v1/embeddings": (of_body(read_embeddings), timeless(openai_api.embeddings)),
            b"/v1/responses": (of_body(read_responses), responses_api.responses),
            b"/v1/completions": (of_body(read_completions), responses_api.completions),
            b"/v1/moderations": (of_body(read_moderations), timeless(responses_api.moderations)),
            b"/v1/messages/count_tokens": (of_body(read_count_tokens), timeless(anthropic_api.count_tokens)),
            b"/v1/images/generations": (read_images, media_api.generations),
            b"/v1/images/edits": (read_images, media_api.edits),
            b"/v1/images/variations": (read_images, media_api.variations),
            b"/v1/audio/speech": (read_speech, timeless(media_api.speech)),
            b"/v1/audio/transcriptions": (read_audio, timeless(media_api.transcriptions)),
            b"/v1/audio/translations": (read_audio, timeless(media_api.translations)),
        }
        self._vault = Vault(self.ledger, self.answer)
        self._batches = MessageBatches(self.ledger, self.answer, lambda: self.url)

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> str:
        """Listen, and return the URL without a path. Port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SimulatorProtocol(self), host, port, backlog=4096)
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"
        return self.url

    async def stop(self) -> None:
        """Stop listening, cut every connection, close the ledger."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self.connections):
                connection.transport.abort()
            await self._server.wait_closed()
            self._server = None
        self.ledger.close()

    def answer(self, request: Request) -> Answer:
        """Decide the answer to a request."""
        self._count += 1
        number = b"%b-%d" % (self._series, self._count)
        path = request.target.partition(b"?")[0]
        if path not in self._posts:
            return self._answer_other(request, path, number)
        if request.method != b"POST":
            return self._error(request, path, 405, "Use POST on this route.", number)
        self.ledger.totals.received += 1
        if not self._is_authorised(request):
            return self._error(request, path, 401, _STATUS_MESSAGES[401], number)
        try:
            return self._post(request, path, number)
        except BadRequest as error:
            return self._error(request, path, 400, str(error), number)

    def _post(self, request: Request, path: bytes, number: bytes) -> Answer:
        read, make = self._posts[path]
        ask = read(request)
        if ask.wish.status is not None:
            return self._wished_error(request, ask, number)
        return break_answer(make(ask, number, int(time.time())), path)

    def _answer_other(self, request: Request, path: bytes, number: bytes) -> Answer:
        if not path.startswith((b"/v1/files", b"/v1/batches", MESSAGE_BATCHES)):
            return self._answer_get(request, path, number)
        if not self._is_authorised(request):
            return self._error(request, path, 401, _STATUS_MESSAGES[401], number)
        try:
            keeper = self._batches if path.startswith(MESSAGE_BATCHES) else self._vault
            return keeper.answer(request, path, number)
        except BadRequest as error:
            return self._error(request, path, 400, str(error), number)

    def _answer_get(self, request: Request, path: bytes, number: bytes) -> Answer:
        if request.method == b"GET" and path.startswith(b"/__sim/"):
            return self._answer_own(path, number)
        if request.method == b"GET" and (path == b"/v1/models" or path.startswith(b"/v1/models/")):
            if not self._is_authorised(request):
                return self._error(request, path, 401, _STATUS_MESSAGES[401], number)
            name = unquote_to_bytes(path[len(b"/v1/models/") :]).decode("utf-8", "replace")
            if _speaks_anthropic(request, path):
                return anthropic_api.model(name) if name else anthropic_api.models()
            return openai_api.model(name) if name else openai_api.models()
        message = f"Unknown request URL: {request.method.decode()} {path.decode('ascii', 'replace')}"
        return self._error(request, path, 404, message, number)

    def _answer_own(self, path: bytes, number: bytes) -> Answer:
        if path == b"/__sim/ledger":
            return Answer(parts=(msgspec.json.encode(self.ledger.totals),))
        if path == b"/__sim/health":
            return Answer(parts=(b'{"status":"ok"}',))
        return openai_api.error(404, "Unknown request URL.", number)

    def _is_authorised(self, request: Request) -> bool:
        if self._key is None:
            return True
        headers = request.headers
        return headers.get(b"authorization") == b"Bearer " + self._key or headers.get(b"x-api-key") == self._key

    def _wished_error(self, request: Request, ask: Ask, number: bytes) -> Answer:
        wish = ask.wish
        status = wish.status or 500
        headers = b"retry-after: %d\r\n" % wish.retry_after if status in _RETRY_STATUSES else b""
        message = _STATUS_MESSAGES.get(status, f"Simulated error with status {status}.")
        path = request.target.partition(b"?")[0]
        answer = self._error(request, path, status, message, number, headers)
        return msgspec.structs.replace(answer, delay_s=wish.delay_ms / 1000)

    @staticmethod
    def _error(request: Request, path: bytes, status: int, message: str, number: bytes, headers: bytes = b"") -> Answer:
        error = anthropic_api.error if _speaks_anthropic(request, path) else openai_api.error
        return error(status, message, number, headers)


def _speaks_anthropic(request: Request, path: bytes) -> bool:
    return b"anthropic-version" in request.headers or path.startswith(b"/v1/messages")


def of_body(read: Callable[[bytes], Ask]) -> Read:
    """Return a reader of requests that looks at the body only."""
    return lambda request: read(request.body)


def timeless(make: Callable[[Ask, bytes], Answer]) -> Make:
    """Return a maker of answers that names no time."""
    return lambda ask, number, now_s: make(ask, number)
