"""Which SQL may be asked."""

from __future__ import annotations

import pytest

from meter.sink.core.statement import refusal

OUTSIDE = frozenset({"file", "url", "s3", "remote", "numbers", "values", "view", "mysql", "format"})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1", "select count() from usage;", " -- why\n SELECT 1 ;; ", "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH x AS (SELECT 1) SELECT * FROM x", "SHOW TABLES", "DESCRIBE TABLE usage", "EXPLAIN SELECT 1",
        "SELECT ';' AS a, 'it''s; file(1)', \"a;b\" FROM numbers(3)", "SELECT 'SETTINGS', 'INTO OUTFILE'",
        "SELECT * FROM system.settings", "SHOW SETTINGS LIKE 'max%'", "SELECT format('{}', 1), url FROM usage",
        "/* url('x'); */ SELECT 1", "SELECT $$ file('x'); $$", "SELECT `file` FROM usage", "SELECT 'c:/x', '\\'; DROP'",
        "EXISTS TABLE usage", "SELECT tags['a/b'] FROM tollway.usage",
    ],
)  # fmt: skip
def test_statements_that_read_are_let_through(sql: str) -> None:
    """Reading is what it is for, whatever stands in strings, comments and names."""
    assert refusal(sql, OUTSIDE) is None


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("", "empty"), ("  ; ", "empty"), ("-- nothing", "empty"),
        ("SELECT 1; SELECT 2", "more than one statement"), ("SELECT 1;\n--\nDROP TABLE usage", "more than one"),
        ("DROP TABLE usage", "'DROP' is not allowed"), ("INSERT INTO usage SELECT 1", "'INSERT'"),
        ("SET a = 1", "'SET'"),
        ("(DROP TABLE x)", "'DROP'"), ("KILL QUERY WHERE 1", "'KILL'"), ("SYSTEM RELOAD CONFIG", "'SYSTEM'"),
        ("SELECT 1 INTO OUTFILE 'x'", "INTO OUTFILE"), ("SELECT 1 into /* */ outfile 'x'", "INTO OUTFILE"),
        ("SELECT 1 SETTINGS max_execution_time = 0", "SETTINGS"), ("SELECT 1 FORMAT CSV", "FORMAT"),
        ("SELECT * FROM url('http://x', 'CSV')", "url() is not allowed"), ("SELECT * FROM URL ('x')", "URL()"),
        ("SELECT file('/etc/passwd')", "file()"), ("SELECT * FROM `s3`('x')", "`s3`()"), ("SELECT sleep(3)", "sleep()"),
        ("SELECT * FROM mysql('h', 'd', 't', 'u', 'p')", "mysql()"),
        ("SELECT * FROM default.x", "database default"), ('SELECT * FROM "default" . `x`', 'database "default"'),
        ("SELECT * FROM `/etc/passwd`", "names hold no path"), ("SELECT * FROM “default”.“x”", "straight quotes"),
    ],
)  # fmt: skip
def test_what_writes_or_reaches_outside_is_refused_in_words(sql: str, why: str) -> None:
    """Each refusal says what it is about."""
    assert why in (refusal(sql, OUTSIDE) or "nothing")
