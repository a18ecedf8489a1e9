"""How results are printed: tables for people, JSON and CSV for programs. No colours."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Format = Literal["table", "json", "csv"]
_NUMBER = re.compile(r"^-?[\d,]+(\.\d+)?(%| USD)?$")
GAP = "  "


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return aligned columns with a header line; numbers to the right."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[index]) for row in cells)]) for index, name in enumerate(columns)]
    right = [
        bool(cells) and all(_NUMBER.match(row[index]) or row[index] in ("", "-") for row in cells)
        for index in range(len(columns))
    ]

    def line(values: Sequence[str]) -> str:
        parts = [
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        ]
        return GAP.join(parts).rstrip()

    return "\n".join([line(list(columns)), *(line(row) for row in cells)])


def cell(value: Any) -> str:
    """Return a value as a table shows it: a dash for nothing, no line breaks."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(str(value).split())


def records(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows as objects."""
    return [dict(zip(columns, row, strict=True)) for row in rows]


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV with a header; nothing is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return buffer.getvalue().removesuffix("\n")


def as_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def pairs(values: Mapping[str, Any]) -> str:
    """Return a line for each name and value, aligned."""
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name.ljust(width)}  {cell(value)}" for name, value in values.items())


def rows_of(answer: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a service's answer, whose rows may be lists or objects."""
    columns = [column["name"] if isinstance(column, dict) else str(column) for column in answer["columns"]]
    rows = [[row.get(name) for name in columns] if isinstance(row, dict) else list(row) for row in answer["rows"]]
    return columns, rows
