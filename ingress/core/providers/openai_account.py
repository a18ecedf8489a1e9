"""OpenAI's files and batches: passed through for an account, and counted as requests that cost nothing by themselves.

Neither names a model: the policy says with which entry under `models` they are sent, by its `operations`. What the
requests of a batch use is not known when it is created, and is not charged: `docs/routes.md` says what follows.
"""

from __future__ import annotations

from typing import Any

from ingress.core.ask import Ask
from ingress.core.expected import NOTHING
from ingress.core.holding import BytesReader
from ingress.core.providers.openai import is_failure
from ingress.core.reported import ERROR_ANSWER, Reported
from ingress.core.sse import ERROR_MARK


def read_passed(fields: dict[str, Any]) -> Ask:
    """Understand a request that names no model."""
    return Ask("", output_tokens=0, is_free=True, expected=NOTHING)


def prepare(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body as it is."""
    return body


def read_answer(body: bytes) -> Reported:
    """Return what an answer reports: no usage, whatever usage of other requests stands in it."""
    return Reported(is_final=False, failed=ERROR_ANSWER if ERROR_MARK in body[:64] and is_failure(body) else "")


class NoEvents(BytesReader):
    """Reads an answer that should be no stream of events: not at all."""

    __slots__ = ()
