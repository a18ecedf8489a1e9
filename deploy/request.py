"""One HTTP request to a service, by the standard library alone. Adapts sockets; knows no path and no meaning.

Most commands ask one thing and end: to import a larger client would take them several times as long.
A connection is used once, so that no answer is lost to one that a server has closed in the meantime.
Proxies are not asked: the services are on loopback, or on the operator's own hosts.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

SUCCESS = range(200, 300)
Stage = Literal["unreached", "cut off", "failed"]


@dataclass(frozen=True)
class Answer:
    """What a service has answered."""

    status_code: int
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the service did what it was asked for."""
        return self.status_code in SUCCESS

    @property
    def text(self) -> str:
        """The body as text, whatever it is."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Return the body's JSON. Raises ValueError without any."""
        return json.loads(self.content)


class NoAnswer(Exception):
    """There was none.

    Attributes:
        stage: `unreached`, nothing was sent; `cut off`, the other side ended before it had answered, so what it has
            done is not known; `failed`, anything else, such as a timeout.
    """

    def __init__(self, stage: Stage, error: Exception) -> None:
        self.stage = stage
        super().__init__(str(error) or type(error).__name__)


def is_http(url: str) -> bool:
    """Tell whether `url` names a host that can be asked."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def send(
    method: str, url: str, query: Mapping[str, str | int], body: Any, headers: Mapping[str, str], timeout_s: float
) -> Answer:
    """Send a request, with `body` as JSON unless it is None, and return its answer.

    Raises:
        NoAnswer: as it says.
    """
    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.connect()
    except (OSError, ValueError) as error:
        connection.close()
        raise NoAnswer("failed" if isinstance(error, TimeoutError) else "unreached", error) from error
    payload = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    more = {} if payload is None else {"Content-Type": "application/json"}
    target = parts.path + (f"?{urlencode(query)}" if query else "")
    try:
        connection.request(method, target, payload, {"Connection": "close", **headers, **more})
        found = connection.getresponse()
        return Answer(found.status, found.read())
    except (ConnectionError, http.client.IncompleteRead, http.client.BadStatusLine) as error:
        raise NoAnswer("cut off", error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer("failed", error) from error
    finally:
        connection.close()
