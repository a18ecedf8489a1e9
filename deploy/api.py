"""The HTTP API of enforcer, history and ingress as the command line uses it. Prints nothing.

A process that was started a moment ago, or is being started again, is asked again for as long as the caller has
patience. What may have been done already is never asked for twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from deploy.request import Answer, NoAnswer, is_http, send
from schemas.errors import ConfigError, TransportError

TIMEOUT_S = 30.0
BAD_INPUT = frozenset({400, 404, 409, 413, 422})
POLL_S = 0.2
UNAVAILABLE = 503


class NotFound(ConfigError):
    """What was asked for does not exist."""


def _nobody() -> bool:
    return False


def _silent(line: str) -> None:
    del line


@dataclass
class Patience:
    """How long a service that is starting is waited for; by default not at all.

    Attributes:
        left_s: the time that is left for it, over all calls of an `Api`.
        is_supervised: whether somebody starts the service again if it has ended: one that cannot be connected to is
            waited for only then.
        say: told in one line that, for what and how long we wait.
    """

    left_s: float = 0.0
    is_supervised: Callable[[], bool] = _nobody
    say: Callable[[str], None] = _silent


class Api:
    """One service of a deployment.

    Args:
        name: what the service is called in errors.
        url: its base URL.
        token: the admin token, empty for a service that needs none.
        timeout_s: how long one answer may take.
        patience: how long to wait until the service can answer at all.

    Raises:
        ConfigError: the URL is none that can be asked.
    """

    def __init__(
        self, name: str, url: str, token: str = "", timeout_s: float = TIMEOUT_S, patience: Patience | None = None
    ) -> None:
        if not is_http(url):
            raise ConfigError([f"{name} URL {url!r}: must be http://HOST:PORT or https://HOST:PORT"])
        self.name, self.url = name, url.rstrip("/")
        self._timeout_s, self._patience = timeout_s, patience or Patience()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def close(self) -> None:
        """End: nothing is kept open between requests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: str, **query: str | int | None) -> Any:
        """Return the JSON of a GET. Raises as `call` does."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of a POST of `body`. Raises as `call` does."""
        return self.call("POST", path, body=body)

    def lines(self, path: str, **query: str | int | None) -> bytes:
        """Return the body of a GET whose answer is a JSON value a line. Raises as `call` does."""
        return self._answer("GET", path, query).content

    def call(
        self, method: str, path: str, query: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Send a request and return the JSON of its answer (None without one).

        Raises:
            NotFound: 404.
            ConfigError: the service refuses the input; one problem each.
            TransportError: the service cannot be reached, refuses the token, or fails.
        """
        found = self._answer(method, path, query, body)
        return found.json() if found.content else None

    def _answer(
        self, method: str, path: str, query: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:  # fmt: skip
        """Send a request, again while the service is coming back, and return its answer. Raises as `call` does."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        said = False
        while True:
            found = self._ask(method, path, given, body)
            lacks = lacks_of(found) if isinstance(found, Answer) else self._comes_back(method, found)
            if not lacks or self._patience.left_s <= 0:
                return self._result(found)
            if not said:
                self._patience.say(f"waiting up to {self._patience.left_s:.0f} s for {self.name}: {lacks}")
            said = True
            began = time.monotonic()
            time.sleep(POLL_S)
            self._patience.left_s -= time.monotonic() - began

    def _ask(
        self, method: str, path: str, query: Mapping[str, str | int], body: Mapping[str, Any] | None
    ) -> Answer | NoAnswer:
        try:
            return send(method, self.url + path, query, body, self._headers, self._timeout_s)
        except NoAnswer as error:
            return error

    def _comes_back(self, method: str, error: NoAnswer) -> str:
        """Return what is said of a service that ended and will be back, empty if it will not, or must not be asked."""
        not_done = error.stage == "unreached" or (method == "GET" and error.stage == "cut off")
        return "it is being started again" if not_done and self._patience.is_supervised() else ""

    def _result(self, found: Answer | NoAnswer) -> Answer:
        if isinstance(found, NoAnswer):
            raise TransportError(
                f"{self.name} at {self.url} does not answer ({found}); see whether it runs with: tollway status"
            ) from found
        if found.is_success:
            return found
        raise self._fault(found)

    def _fault(self, answer: Answer) -> Exception:
        problems = problems_of(answer)
        if answer.status_code in (401, 403):
            return TransportError(
                f"{self.name} at {self.url} refuses the admin token; it is in the state directory "
                "(--state DIR), or give it with TOLLWAY_TOKEN"
            )
        if answer.status_code == 404:
            return NotFound(problems)
        if answer.status_code in BAD_INPUT:
            return ConfigError(problems)
        return TransportError(f"{self.name} at {self.url} failed with {answer.status_code}: {'; '.join(problems)}")


def lacks_of(answer: Answer) -> str:
    """Return what a service that is starting waits for; empty if this is another answer.

    Such a service has done nothing with the request, and says so by `waiting` in its error.
    """
    if answer.status_code != UNAVAILABLE:
        return ""
    try:
        return ", ".join(map(str, answer.json()["error"].get("waiting", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def problems_of(answer: Answer) -> list[str]:
    """Return what an error answer complains about, a line a problem."""
    try:
        error = answer.json()["error"]
        problems = [_line(problem) for problem in error.get("problems") or []]
        field = f"{error['field']}: " if error.get("field") else ""
        return problems or [f"{field}{error['message']}"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"HTTP {answer.status_code}: {answer.text[:500].strip() or 'no explanation'}"]


def _line(problem: Any) -> str:
    if isinstance(problem, dict):
        parts = [str(problem[name]) for name in ("path", "value", "remedy", "message") if problem.get(name) is not None]
        return ": ".join(parts)
    return str(problem)
