"""The ClickHouse schema as numbered migrations: lists and loads `schemas/clickhouse/NNNN_name.sql`.

Knows no client. A migration that has been applied somewhere must never change; its checksum says whether it did.
Statements are safe to run twice, so that a migration that was cut short is finished by running it again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_NAME = re.compile(r"^(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")


@dataclass(frozen=True)
class Migration:
    """One file of statements."""

    number: int
    name: str
    statements: tuple[str, ...]
    sha256: str
    """Hex digest of the file."""


def migrations() -> tuple[Migration, ...]:
    """Return the migrations in the order of their numbers, which are contiguous from 1; ValueError if they are not."""
    folder = files("schemas").joinpath("clickhouse")
    sources = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    loaded = [load(entry.name, entry.read_text(encoding="utf-8")) for entry in sources]
    found = sorted(loaded, key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are numbered {numbers}: numbers must be contiguous from 1")
    return tuple(found)


def load(file_name: str, text: str) -> Migration:
    """Return the migration in a file; ValueError if its name is not `NNNN_name.sql`."""
    match = _NAME.match(file_name)
    if match is None:
        raise ValueError(f"{file_name!r} is not a migration: name it like 0003_tags.sql")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(match["number"]), match["name"], split(text), digest)


def split(text: str) -> tuple[str, ...]:
    """Return the statements of a file: separated by `;` at the end of a line, without comment lines."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(part.strip() for part in re.split(r";[ \t]*$", "\n".join(lines), flags=re.MULTILINE) if part.strip())
