"""The HTTP API of enforcer, history and ingress as the command line uses it. Adapts httpx; prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx

from schemas.errors import ConfigError, TransportError

TIMEOUT_S = 30.0
BAD_INPUT = frozenset({400, 404, 409, 413, 422})


class NotFound(ConfigError):
    """What was asked for does not exist."""


class Api:
    """One service of a deployment.

    Args:
        name: what the service is called in errors.
        url: its base URL.
        token: the admin token, empty for a service that needs none.
    """

    def __init__(self, name: str, url: str, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.name, self.url = name, url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Loopback or the operator's own hosts: a proxy for the outside world has no business here.
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

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
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = self._client.request(method, path, params=given, json=body)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise TransportError(
                f"{self.name} at {self.url} does not answer ({what}); see whether it runs with: tollway status"
            ) from error
        if answer.is_success:
            return answer.json() if answer.content else None
        raise self._fault(answer)

    def _fault(self, answer: httpx.Response) -> Exception:
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


def problems_of(answer: httpx.Response) -> list[str]:
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
