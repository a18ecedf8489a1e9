"""Brings the schema up to date: applies the migrations that are missing and refuses ones that have changed.

Adapts clickhouse-connect. What was applied is in the table `schema_migrations`, with the checksum of its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from schemas.errors import ConfigError
from schemas.migrations import Migration, migrations

REGISTER = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number      UInt32,
    name        String,
    sha256      String,
    applied_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY number
"""


class MigrationError(ConfigError):
    """The database's schema is not one that this version can bring up to date."""


def apply(client: Client, database: str, wanted: Sequence[Migration] | None = None) -> list[Migration]:
    """Apply what is missing to `database`, which `client` uses from here on; return what was applied.

    Raises:
        MigrationError: an applied migration is not the one of this version, or the database is of a later version.
    """
    client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
    client.database = database
    client.command(REGISTER)
    rows = client.query("SELECT number, name, sha256 FROM schema_migrations FINAL ORDER BY number").result_rows
    applied = {int(number): (str(name), str(digest)) for number, name, digest in rows}
    found = migrations() if wanted is None else tuple(wanted)
    _check(applied, found, database)
    missing = [migration for migration in found if migration.number not in applied]
    for migration in missing:
        for statement in migration.statements:
            client.command(statement)
        row = [migration.number, migration.name, migration.sha256, datetime.now(UTC)]
        client.insert("schema_migrations", [row], ["number", "name", "sha256", "applied_at"])
    return missing


def _check(applied: dict[int, tuple[str, str]], found: Sequence[Migration], database: str) -> None:
    ours = {migration.number: migration for migration in found}
    problems = []
    for number, (name, digest) in sorted(applied.items()):
        label = f"database {database}: migration {number:04d}_{name}"
        if number not in ours:
            problems.append(f"{label} is not known to this version; run the version that applied it, or a later one")
        elif ours[number].sha256 != digest:
            problems.append(
                f"{label} was applied as {digest[:12]} and is {ours[number].sha256[:12]} here; "
                "put the file back, and make the change a new migration"
            )
    if problems:
        raise MigrationError(problems)
