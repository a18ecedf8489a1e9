"""Which SQL may be asked over HTTP: one statement that reads tables, and nothing else.

The engine's own read-only mode is the first guard; it still lets a statement read files of the machine, write a result
into one, call other hosts, kill queries and lift its own limits. This is the second: it looks at the words of a
statement, not at its structure, and when in doubt it refuses. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

FIRST_WORDS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"})
HARMLESS_TABLE_FUNCTIONS = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "null", "values", "view", "generate_series", "generateseries",
     "merge", "format", "dictionary", "generaterandom", "fuzzjson", "primes"}
)  # fmt: skip
"""Table functions that reach nothing outside the database."""
NEVER = frozenset({"file", "url", "executable", "remote", "catboostevaluate", "sleep", "sleepeachrow", "input"})
"""Functions that are refused whatever the engine says of itself."""
OUTSIDE = frozenset({"default"})
"""Databases that stand for files of the machine in the embedded engine."""
CURLY_QUOTES = "\u2018\u2019\u201c\u201d"
"""The engine takes these for quotes; here they would hide what is between them."""

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*|\#(?:!|[ ])[^\n]*|/\*.*?\*/)
    | (?P<heredoc>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>[0-9][A-Za-z0-9_]*(?:\.[0-9]+)?)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A word, quoted name, string, number or sign of a statement."""

    kind: str
    text: str

    @property
    def name(self) -> str:
        """What it may name, without quotes, in lower case; empty for what names nothing."""
        if self.kind == "word":
            return self.text.lower()
        return self.text[1:-1].lower() if self.kind == "quoted" else ""

    @property
    def keyword(self) -> str:
        """The word in upper case; empty for what cannot be a keyword."""
        return self.text.upper() if self.kind == "word" else ""


def tokens(sql: str) -> Iterator[Token]:
    """Yield what a statement is made of, without blanks and comments."""
    for match in _TOKEN.finditer(sql):
        kind = str(match.lastgroup if match.lastgroup != "tag" else "heredoc")
        if kind not in ("space", "comment"):
            yield Token(kind, match.group())


def refusal(sql: str, outside_functions: Collection[str] = ()) -> str | None:
    """Return why `sql` may not be asked, in words with a remedy; None if it may.

    `outside_functions` are the engine's table functions in lower case; harmless ones among them are let through.
    """
    found = list(tokens(sql))
    while found and found[-1].text == ";":
        found.pop()
    if not found:
        return "the query is empty: write one SELECT"
    if any(token.text == ";" for token in found):
        return "there is more than one statement: ask one at a time"
    first = next((token for token in found if token.text != "("), found[0])
    if first.keyword not in FIRST_WORDS:
        return f"{first.text!r} is not allowed: only {', '.join(sorted(FIRST_WORDS))} are, the history is read only"
    refused = (frozenset(outside_functions) - HARMLESS_TABLE_FUNCTIONS) | NEVER
    padded = [Token("sign", ""), *found, Token("sign", "")]
    for before, token, after in zip(padded, padded[1:], padded[2:], strict=False):
        if why := _refused(before, token, after, refused):
            return why
    return None


def _refused(before: Token, token: Token, after: Token, refused: Collection[str]) -> str | None:
    if token.keyword == "OUTFILE" and before.keyword == "INTO":
        return "INTO OUTFILE is not allowed: use the format of the request"
    if token.keyword == "SETTINGS" and before.text != "." and before.keyword not in ("FROM", "SHOW", "TABLE"):
        return "SETTINGS are not allowed: limits are set where the history is started (TOLLWAY_HISTORY_SQL_…)"
    if token.keyword == "FORMAT" and after.kind == "word":
        return "FORMAT is not allowed: use the format of the request"
    if after.text == "(" and token.name in refused:
        return f"{token.text}() is not allowed: it reaches outside the history"
    if after.text == "." and before.text != "." and token.name in OUTSIDE:
        return f"database {token.text} is not allowed: it stands for files of the machine"
    if token.text in CURLY_QUOTES and token.text:
        return f"{token.text} is not allowed: use straight quotes"
    if token.kind == "quoted" and ("/" in token.text or "\\" in token.text):
        return f"{token.text} is not allowed: names hold no path"
    return None
