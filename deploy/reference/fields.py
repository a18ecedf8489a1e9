"""The docstring below each field of a class, read from its source: what reference pages say of a field."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap


def field_docs(kind: type) -> dict[str, str]:
    """Return field → docstring in one line, for the fields of `kind` and of its bases that have one."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        docs.update(_own_docs(base))
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        named = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        text = _string(following)
        if named and text is not None:
            docs[statement.target.id] = " ".join(text.split())  # type: ignore[attr-defined]  # narrowed by `named`
    return docs


def _string(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else None
    return None
