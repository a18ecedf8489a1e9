"""The failure table of docs/bound.md: each row names what shows it, and that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SHOWN = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _rows() -> list[str]:
    section = (ROOT / "docs" / "bound.md").read_text().partition("## What happens while something is broken")[2]
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return lines[1:]


def test_each_row_of_the_failure_table_names_tests_that_exist() -> None:
    """A row without a test, or with one that was renamed, is a promise that nobody keeps."""
    rows = _rows()
    assert len(rows) >= 7
    for row in rows:
        shown = SHOWN.findall(row.split("|")[-2])
        assert shown, f"no test: {row}"
        for path, name in shown:
            tree = ast.parse((ROOT / path).read_text())
            names = {
                node.name
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            }
            assert name in names, f"{path} has no {name}"
