"""Faults of settings as lines for a person: variable, what is wrong, and the value unless it is or holds a secret."""

from __future__ import annotations

from pydantic import ValidationError

_SECRET = ("PASSWORD", "TOKEN", "SECRET", "URL", "KEY")
"""Words in the name of a variable whose value is not shown; an URL may hold a password."""


def setting_problems(error: ValidationError, prefix: str) -> list[str]:
    """Return a line a problem of settings that are read from environment variables beginning with `prefix`."""
    lines = []
    for problem in error.errors(include_url=False):
        name = prefix + "__".join(map(str, problem["loc"])).upper()
        lines.append(f"{name}: {problem['msg']}{_shown(name, problem['type'], problem['input'])}")
    return lines


def _shown(name: str, kind: str, value: object) -> str:
    hidden = kind == "missing" or not isinstance(value, str | int | float) or any(word in name for word in _SECRET)
    return "" if hidden else f" (got {value!r})"
