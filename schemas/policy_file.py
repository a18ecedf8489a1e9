"""Reads a policy document from YAML and reports every problem with its path, value and remedy."""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import ConfigError
from schemas.fields import PolicyProblems
from schemas.policy import Policy

M = TypeVar("M", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently overwrite."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise ConfigError([f"line {line}: {key!r} is given twice in one mapping; keep one of them"])
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_policy(text: str, name: str = "policy") -> Policy:
    """Return the policy in YAML `text`; ConfigError with every problem, each beginning with `name`."""
    return load(Policy, text, name, "orgs, …")


def load(kind: type[M], text: str, name: str, parts: str) -> M:
    """Return the document in YAML `text` as `kind`; ConfigError with every problem, each beginning with `name`."""
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except ConfigError as error:
        raise ConfigError([f"{name}: {problem}" for problem in error.problems]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(document, dict):
        raise ConfigError([f"{name}: the document is {type(document).__name__}; it must be a mapping with {parts}"])
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ConfigError([f"{name}: {line}" for line in problem_lines(error)]) from error


def problem_lines(error: ValidationError) -> list[str]:
    """Return a line a problem: path, value, what is wrong and how to mend it."""
    lines: list[str] = []
    for problem in error.errors():
        cause = problem.get("ctx", {}).get("error")
        place = [str(part) for part in problem["loc"] if part != "[key]"]
        if isinstance(cause, PolicyProblems):
            lines += [_line([*place, inner], value, remedy) for inner, value, remedy in cause.problems]
            continue
        path = ".".join(place) or "document"
        lines.append(f"{path}: {_shown(problem)}{_remedy(problem['type'], problem['msg'])}")
    return lines


def _line(place: list[str], value: Any, remedy: str) -> str:
    path = ".".join(part for part in place if part)
    return f"{path}: {remedy}" if value is None else f"{path}: {value!r}: {remedy}"


def _shown(problem: Any) -> str:
    value = problem["input"]
    return "" if problem["type"] == "missing" or isinstance(value, dict) else f"{value!r}: "


def _remedy(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field; remove it or mend its spelling"
    if kind == "missing":
        return "missing; add it"
    return message.removeprefix("Value error, ")
