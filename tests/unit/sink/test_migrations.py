"""Migrations as files."""

from __future__ import annotations

import pytest

from schemas.migrations import load, migrations, split

FROZEN: dict[str, str] = {}
"""Checksums of migrations that a release has applied somewhere: these files must never change. None is released yet."""


def test_migrations_are_numbered_without_gaps() -> None:
    """They are listed in order from 1, and each has statements that are safe to run twice."""
    found = migrations()
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    for migration in found:
        assert migration.statements
        before = ("", *migration.statements)
        for statement, one_before in zip(migration.statements, before, strict=False):
            assert is_repeatable(statement, one_before), f"{migration.name}: {statement}"


def is_repeatable(statement: str, one_before: str) -> bool:
    """Whether a statement does nothing, or the same again, when it is run twice."""
    if statement.startswith("INSERT INTO "):  # what it fills was emptied just before
        return (
            one_before == f"TRUNCATE TABLE IF EXISTS {statement.split()[2]}" and "insert_deduplicate = 0" in statement
        )
    return any(words in statement for words in ("IF NOT EXISTS", "IF EXISTS", "MODIFY QUERY"))


def test_released_migrations_are_as_they_were() -> None:
    """A file whose checksum is known here has that checksum."""
    now = {f"{migration.number:04d}_{migration.name}": migration.sha256 for migration in migrations()}
    assert {name: now.get(name) for name in FROZEN} == FROZEN


def test_statements_end_with_a_semicolon_at_the_end_of_a_line() -> None:
    """Comments are left out; a semicolon within a line is none of ours."""
    assert split("-- a\nSELECT ';' AS x;\n\n  -- b;\nSELECT\n2 ;  \n") == ("SELECT ';' AS x", "SELECT\n2")


def test_the_checksum_is_of_the_whole_file() -> None:
    """Any change of a file is noticed, in comments too."""
    first, second = load("0001_a.sql", "SELECT 1;\n"), load("0001_a.sql", "SELECT 1; \n")
    assert first.statements == second.statements
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("name", ["1_a.sql", "0001.sql", "0001-a.sql", "0001_A.sql"])
def test_file_names_are_checked(name: str) -> None:
    """A name that is no number and name is refused."""
    with pytest.raises(ValueError, match="name it like"):
        load(name, "SELECT 1;")
