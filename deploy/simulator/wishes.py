"""What a request asks of the simulator: the directive `[[sim key=value …]]` in front of a prompt.

| key | meaning |
|---|---|
| `output` | output tokens, exactly, even above `max_tokens` (reasoning tokens included) |
| `usage_input` | input tokens to report, cached and cache-written ones included |
| `cached`, `cache_write` | how many of the input tokens were read from, or written to, the prompt cache |
| `reasoning` | how many of the output tokens were reasoning |
| `chunks` | content chunks of a streamed answer (default: one a token, at most 20) |
| `delay_ms` | pause before the first bytes of the answer, and between chunks |
| `status` | answer with this error status (400–599), in the provider's shape |
| `retry_after` | seconds for the `retry-after` header of a 429, 503 or 529 (default 1) |
| `fail` | `reset`: connection reset before the first byte · `reset_midway`: in the middle of the answer · `truncate`: closed in the middle · `garbage`: bytes that are not HTTP · `bad_json`: status 200, body not JSON · `timeout`: no answer ever · `no_usage`: whole answer without usage |

Pure: text in, value or `BadRequest` out.
"""  # noqa: E501  (a table row is one line)

import re
from typing import Any, Literal, get_args

import msgspec

Failure = Literal["reset", "reset_midway", "truncate", "garbage", "bad_json", "timeout", "no_usage"]

_DIRECTIVE = re.compile(r"\s*\[\[sim\b([^\]]*)\]\]\s*")
_NONCE = re.compile(r"\bnonce=([A-Za-z0-9_.:-]+)")
_NUMBERS = {
    "output": 10_000_000,
    "usage_input": 1_000_000_000,
    "cached": 1_000_000_000,
    "cache_write": 1_000_000_000,
    "reasoning": 10_000_000,
    "chunks": 100_000,
    "delay_ms": 600_000,
    "status": 599,
    "retry_after": 86_400,
}


class BadRequest(Exception):
    """The request cannot be answered; the message goes to the client with status 400."""


class Wish(msgspec.Struct, frozen=True):
    """A parsed directive; None means the default."""

    output: int | None = None
    usage_input: int | None = None
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    chunks: int | None = None
    delay_ms: int = 0
    status: int | None = None
    retry_after: int = 1
    fail: Failure | None = None


NO_WISH = Wish()


def parse_wish(prompt: str) -> tuple[Wish, str]:
    """Split a prompt into its directive and the rest. Raises `BadRequest` naming the word that is wrong."""
    match = _DIRECTIVE.match(prompt) if "[[sim" in prompt[:64] else None
    if match is None:
        return NO_WISH, prompt
    values: dict[str, Any] = {}
    for word in match[1].split():
        key, _, value = word.partition("=")
        values[key] = _failure(value) if key == "fail" else _number(key, value)
    return Wish(**values), prompt[match.end() :]


def find_nonce(prompt: str) -> str:
    """Return the value of `nonce=…` anywhere in the prompt, or an empty string."""
    if "nonce=" not in prompt:
        return ""
    match = _NONCE.search(prompt)
    return match[1] if match else ""


def _failure(value: str) -> str:
    if value not in get_args(Failure):
        raise BadRequest(f"[[sim]]: fail={value!r} is not one of {', '.join(get_args(Failure))}")
    return value


def _number(key: str, value: str) -> int:
    limit = _NUMBERS.get(key)
    if limit is None:
        raise BadRequest(f"[[sim]]: unknown key {key!r}; use one of {', '.join((*_NUMBERS, 'fail'))}")
    low = 400 if key == "status" else 1 if key == "chunks" else 0
    if not (value.isascii() and value.isdigit()) or not low <= int(value) <= limit:
        raise BadRequest(f"[[sim]]: {key}={value!r} is not a whole number from {low} to {limit}")
    return int(value)
