"""Rows: the counters that limits are held by. A row is one rule, one measure, one scope and one window.

The key is text, the same on every topic and in every process. Scopes always begin with the organisation, because a
row lives in the partition of its organisation.
"""

from __future__ import annotations

import enum
from typing import NamedTuple
from urllib.parse import quote, unquote

from schemas.windows import Window, parse_window


class Measure(enum.StrEnum):
    """What a row counts, and its unit."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    COST = "cost"
    """nano-USD"""
    CONCURRENCY = "concurrency"
    """Requests in flight. Nothing is ever settled in such a row: its total is what its gauges hold."""


class RowKey(NamedTuple):
    """The identity of a row.

    `scope` is a tuple of (attribute, value) pairs in the rule's own order, `org` first.
    """

    rule: str
    measure: str
    scope: tuple[tuple[str, str], ...]
    window: Window

    def encode(self) -> str:
        """Return `rule/measure/org=acme,team=search/minute@1764547200+60`, values percent-encoded."""
        return f"{self.rule}/{self.measure}/{scope_text(self.scope)}/{self.window}"


def scope_text(scope: tuple[tuple[str, str], ...]) -> str:
    """Return a scope as `org=acme,team=search`; values are percent-encoded."""
    return ",".join(f"{name}={quote(value, safe='.:@-_ ')}" for name, value in scope)


def parse_scope(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a scope made by `scope_text`."""
    pairs = (part.partition("=") for part in text.split(","))
    return tuple((name, unquote(value)) for name, _, value in pairs)


def parse_row_key(text: str) -> RowKey:
    """Return the parts of a key made by `RowKey.encode`; ValueError if it is none."""
    parts = text.split("/")
    if len(parts) != 4:
        raise ValueError(f"{text!r} is not a row key: it needs rule/measure/scope/window")
    rule, measure, scope, window = parts
    return RowKey(rule, Measure(measure).value, parse_scope(scope), parse_window(window))
