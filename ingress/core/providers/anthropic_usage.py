"""Usage as Anthropic's protocol tells it.

`input_tokens` leaves out what was read from or written to the cache, which are counted beside it; `output_tokens` holds
the thinking. What was written is told as a sum, by how long it is kept, or as both. Searches are billed one by one;
fetching pages is not. There is no total. Of the `iterations` only compactions of the context are left out of the sums.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.counts import has_duplicates, repaired, salvaged
from ingress.core.normal import Told, disjoint
from ingress.core.providers.openai_usage import MAX_NAME, tier_of
from ingress.core.reported import Count, Reported
from schemas import flags
from schemas.tokens import TokenUsage
from schemas.units import WEB_SEARCH

NO_USAGE = msgspec.Raw(b"null")
_NO_UNITS: dict[str, int] = {}


class CacheCreation(msgspec.Struct):
    """What was written to the cache, by how long it is kept."""

    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    """Parts of the output."""

    thinking_tokens: Count | None = None


class ServerTools(msgspec.Struct):
    """What the provider's own tools did."""

    web_search_requests: Count | None = None


class Iteration(msgspec.Struct):
    """One of the requests that an answer took."""

    type: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None


class Usage(msgspec.Struct):
    """A usage object; in a stream each one tells some of it."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    iterations: list[Iteration] | None = None


_decode = msgspec.json.Decoder(Usage | None).decode


def usage_of(raw: bytes, odd: set[str]) -> Usage | None:
    """Return a usage object, repaired where it has to be; `odd` takes the flags. None if there is none."""
    try:
        usage = _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return repaired(salvaged(raw), Usage, odd)
    return repaired(salvaged(raw), Usage, odd) if usage is not None and has_duplicates(raw) else usage


def merge(before: Usage | None, told: Usage | None) -> Usage | None:
    """Return what is known after `told`: its counts replace those of `before`."""
    if before is None or told is None:
        return before if told is None else told
    for name in Usage.__struct_fields__:
        value = getattr(told, name)
        if value is not None:
            setattr(before, name, value)
    return before


def report(model: Any, usage: Usage | None, odd: set[str], is_final: bool) -> Reported:
    """Return what a usage object says.

    Args:
        model: the name that the answer gives.
        usage: None for none.
        odd: flags so far; this adds to them.
        is_final: whether it is of the whole answer.
    """
    name = model[:MAX_NAME] if type(model) is str else ""
    if usage is None:
        return Reported(name, None, False, "unreadable_usage" if odd else "", flags=tuple(sorted(odd)))
    fresh, output = usage.input_tokens, usage.output_tokens
    if fresh is None:
        odd.add(flags.MISSING_INPUT)
    if output is None and is_final:
        odd.add(flags.MISSING_OUTPUT)
    read, (short, long) = usage.cache_read_input_tokens or 0, _written(usage, odd)
    details, tools = usage.output_tokens_details, usage.server_tool_use
    thinking = 0 if details is None else details.thinking_tokens or 0
    whole = (fresh or 0) + read + short + long
    told = Told(whole, thinking if output is None else output, None, read, short, long, reasoning=thinking)
    tokens = _with_compactions(disjoint(told, odd), usage.iterations)
    searches = 0 if tools is None else tools.web_search_requests or 0
    tier = "fast" if usage.speed == "fast" else tier_of(usage.service_tier, odd)
    return Reported(
        name, tokens, is_final and fresh is not None and output is not None, "",
        {WEB_SEARCH: searches} if searches else _NO_UNITS, tier, tuple(sorted(odd)) if odd else (), "",
        fresh is not None, is_final and output is not None,
    )  # fmt: skip


def _written(usage: Usage, odd: set[str]) -> tuple[int, int]:
    """Return the tokens written to the cache for five minutes and for an hour; of several readings the larger."""
    creation = usage.cache_creation
    total = usage.cache_creation_input_tokens
    if creation is None:
        return total or 0, 0
    short, long = creation.ephemeral_5m_input_tokens, creation.ephemeral_1h_input_tokens or 0
    if total is None:
        return short or 0, long
    if long > total or (short is not None and short + long != total):
        odd.add(flags.CONTRADICTORY)
    return max(short or 0, total - long), long


def _with_compactions(tokens: TokenUsage, iterations: list[Iteration] | None) -> TokenUsage:
    """Return the tokens of an answer with those of the requests that made its context smaller."""
    for entry in iterations or ():
        if entry.type == "compaction":
            tokens = msgspec.structs.replace(
                tokens,
                input=tokens.input + (entry.input_tokens or 0),
                output=tokens.output + (entry.output_tokens or 0),
                cache_read=tokens.cache_read + (entry.cache_read_input_tokens or 0),
                cache_write=tokens.cache_write + (entry.cache_creation_input_tokens or 0),
            )
    return tokens
