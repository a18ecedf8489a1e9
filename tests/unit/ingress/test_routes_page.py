"""The page about routes names what is served, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from ingress.core.protocols_media import ACCOUNT_OPERATIONS, account_methods
from ingress.routes import METERED
from schemas.operations import ACCOUNT_OPERATIONS as ACCOUNT_NAMES
from schemas.operations import OPERATIONS

PAGE = Path(__file__).parents[3] / "docs" / "routes.md"
TAKES = {"JSON": "json", "form": "form", "JSON or form": "either", "any": "anything"}
ROW = re.compile(r"\| `(.+?)` \| `([a-z_.]+)` \| (.+?) \|")


def rows() -> list[tuple[list[str], str, str, str]]:
    """Return (methods, path, operation, body) of the table's rows."""
    found = []
    for routes, operation, body in ROW.findall(PAGE.read_text()):
        *first, last = routes.replace("` and `", " ").split(" ")
        found.append((first, last, operation, body))
    return found


def test_page_names_every_route_and_its_body() -> None:
    """Posted routes with the bodies that they take."""
    posted = {path.encode(): (operation, TAKES[body]) for methods, path, operation, body in rows()
              if path.encode() in METERED and methods == ["POST"]}  # fmt: skip
    assert posted == {path: (operation.name, operation.takes) for path, operation in METERED.items()}


def test_page_names_every_route_of_accounts() -> None:
    """Paths with ids, with their methods; no row is about a route that does not exist."""
    others = [(methods, path, operation) for methods, path, operation, _ in rows() if path.encode() not in METERED]
    assert len(others) == 10
    for methods, path, operation in others:
        assert account_methods(path.replace("{id}", "a-1").encode()) == tuple(method.encode() for method in methods)
        assert path.startswith(f"/v1/{operation.replace('.', '/')}")


def test_policies_name_the_operations_that_are_served() -> None:
    """Names of operations in policies are those of routes."""
    assert {operation.name for operation in METERED.values()} == {*OPERATIONS["openai"], *OPERATIONS["anthropic"]}
    for operation in METERED.values():
        assert operation.name in OPERATIONS[operation.shape]
    assert {operation.name for operation in ACCOUNT_OPERATIONS} == {
        name for names in ACCOUNT_NAMES.values() for name in names
    }
