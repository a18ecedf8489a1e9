"""What the API refuses, as values that become answers."""

from __future__ import annotations

from typing import Any

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was not done: an HTTP status, a sentence with the remedy, and what was wrong where."""

    status: int
    message: str
    field: str = ""
    problems: list[Any] = []
    """Lines, or mappings with path, value and remedy."""
    waiting: list[str] = []
    """What this process waits for before it can do anything; it has done nothing with the request."""

    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        error: dict[str, Any] = {"message": self.message}
        if self.field:
            error["field"] = self.field
        if self.problems:
            error["problems"] = self.problems
        if self.waiting:
            error["waiting"] = self.waiting
        return {"error": error}


def missing(what: str, remedy: str) -> Refusal:
    """Return the refusal of something that does not exist."""
    return Refusal(404, f"{what}; {remedy}")


def invalid(problems: list[Any], message: str = "the request is not valid; every problem is listed") -> Refusal:
    """Return the refusal of bad input."""
    return Refusal(422, message, problems=problems)


def field_problem(path: str, value: object, remedy: str) -> dict[str, Any]:
    """Return a problem with its place."""
    return {"path": path, "value": value, "remedy": remedy}
