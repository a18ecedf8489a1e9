"""What a request asks of the simulator: the directive `[[sim key=value …]]` in front of a prompt.

| key | meaning |
|---|---|
| `output` | output tokens, exactly, even above `max_tokens` (reasoning tokens included) |
| `usage_input` | input tokens to report, cached and cache-written ones included |
| `cached`, `cache_write` | how many of the input tokens were read from, or written to, the prompt cache |
| `cache_write_1h` | how many of the cache-written ones are kept for an hour (Anthropic) |
| `reasoning` | how many of the output tokens were reasoning |
| `audio_input`, `audio_output`, `image_input`, `image_output` | how many of the input or output tokens were audio or images |
| `searches`, `file_searches`, `code_sessions` | server tools that the answer has used |
| `seconds` | length of uploaded audio, in whole seconds (default: a second for 16,000 bytes, at least one) |
| `tier` | service tier that the answer names: `default`, `flex`, `priority`, `batch`, `standard`, `scale` |
| `chunks` | content chunks of a streamed answer (default: one a token, at most 20) |
| `delay_ms` | pause before the first bytes of the answer, and between chunks |
| `status` | answer with this error status (400–599), in the provider's shape |
| `retry_after` | seconds for the `retry-after` header of a 429, 503 or 529 (default 1) |
| `fail` | how the answer breaks, see below |
| `hostile` | what is wrong with the reported usage, see below |

`fail`, for every route:

* before the answer: `reset` (connection reset), `timeout` (no answer ever), `garbage` (bytes that are not HTTP),
  `bad_json` (status 200, body not JSON), `error_inside` (status 200 with an error object as the whole answer, or as
  the only event of a stream);
* in its middle: `reset_midway`, `truncate` (closed), `error_event` (a stream ends with an error event, properly
  framed; a whole answer as `error_inside`);
* at its end: `no_end` (a stream ends, properly framed, without its last events, which have the usage; a whole answer
  has no usage), `no_terminator` (a stream has its usage and all else but the mark of its end), `no_usage` (whole
  answer, without usage).

`hostile`, for every usage object (the ledger has what the wish says without it):

* `negative`, `fractional`, `infinite`, `huge` (10**15), `endless` (10**40), `text`, `null`, `missing`: the count of
  output tokens, or of seconds, or of input tokens where there is neither;
* `contradictory`: details, and the total, do not fit the counts; `no_total`: without the total;
* `usage_null`, `usage_empty`, `usage_list`: instead of the object.

Pure: text in, value or `BadRequest` out.
"""  # noqa: E501  (a table row is one line)

import re
from typing import Any, Literal, get_args

import msgspec

Failure = Literal[
    "reset", "reset_midway", "truncate", "garbage", "bad_json", "timeout", "no_usage", "error_inside", "error_event",
    "no_end", "no_terminator",
]  # fmt: skip
Hostile = Literal[
    "negative", "fractional", "infinite", "huge", "endless", "text", "null", "missing", "contradictory", "no_total",
    "usage_null", "usage_empty", "usage_list",
]  # fmt: skip
Tier = Literal["default", "flex", "priority", "batch", "standard", "scale"]

_DIRECTIVE = re.compile(r"\s*\[\[sim\b([^\]]*)\]\]\s*")
_NONCE = re.compile(r"\bnonce=([A-Za-z0-9_.:-]+)")
_NUMBERS = {
    "output": 10_000_000,
    "usage_input": 1_000_000_000,
    "cached": 1_000_000_000,
    "cache_write": 1_000_000_000,
    "cache_write_1h": 1_000_000_000,
    "reasoning": 10_000_000,
    "audio_input": 1_000_000_000,
    "audio_output": 10_000_000,
    "image_input": 1_000_000_000,
    "image_output": 10_000_000,
    "searches": 1_000,
    "file_searches": 1_000,
    "code_sessions": 1_000,
    "seconds": 1_000_000,
    "chunks": 100_000,
    "delay_ms": 600_000,
    "status": 599,
    "retry_after": 86_400,
}
_WORDS: dict[str, tuple[str, ...]] = {"fail": get_args(Failure), "hostile": get_args(Hostile), "tier": get_args(Tier)}


class BadRequest(Exception):
    """The request cannot be answered; the message goes to the client with status 400."""


class Wish(msgspec.Struct, frozen=True):
    """A parsed directive; None means the default."""

    output: int | None = None
    usage_input: int | None = None
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    seconds: int | None = None
    tier: Tier | None = None
    chunks: int | None = None
    delay_ms: int = 0
    status: int | None = None
    retry_after: int = 1
    fail: Failure | None = None
    hostile: Hostile | None = None

    @property
    def special_input(self) -> int:
        """Input tokens that are not fresh text."""
        return self.cached + self.cache_write + self.audio_input + self.image_input

    @property
    def special_output(self) -> int:
        """Output tokens that are not visible text."""
        return self.reasoning + self.audio_output + self.image_output


NO_WISH = Wish()


def parse_wish(prompt: str) -> tuple[Wish, str]:
    """Split a prompt into its directive and the rest. Raises `BadRequest` naming the word that is wrong."""
    match = _DIRECTIVE.match(prompt) if "[[sim" in prompt[:64] else None
    if match is None:
        return NO_WISH, prompt
    values: dict[str, Any] = {}
    for word in match[1].split():
        key, _, value = word.partition("=")
        values[key] = _word(key, value) if key in _WORDS else _number(key, value)
    return Wish(**values), prompt[match.end() :]


def find_nonce(prompt: str) -> str:
    """Return the value of `nonce=…` anywhere in the prompt, or an empty string."""
    if "nonce=" not in prompt:
        return ""
    match = _NONCE.search(prompt)
    return match[1] if match else ""


def _word(key: str, value: str) -> str:
    if value not in _WORDS[key]:
        raise BadRequest(f"[[sim]]: {key}={value!r} is not one of {', '.join(_WORDS[key])}")
    return value


def _number(key: str, value: str) -> int:
    limit = _NUMBERS.get(key)
    if limit is None:
        raise BadRequest(f"[[sim]]: unknown key {key!r}; use one of {', '.join((*_NUMBERS, *_WORDS))}")
    low = 400 if key == "status" else 1 if key == "chunks" else 0
    if not (value.isascii() and value.isdigit()) or not low <= int(value) <= limit:
        raise BadRequest(f"[[sim]]: {key}={value!r} is not a whole number from {low} to {limit}")
    return int(value)
