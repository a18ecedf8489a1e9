"""Usage as OpenAI's protocol tells it, and the servers that speak it: names of counts, tiers and fees.

Two spellings: `prompt_tokens`, `completion_tokens` (completions, embeddings) and `input_tokens`, `output_tokens`
(responses, images). The input holds what was cached, written to the cache, heard and seen; the output holds reasoning,
audio and images. What other servers do otherwise:

* DeepSeek: `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens` beside the prompt that they add up to.
* Gemini, xAI: reasoning beside the completion, which only the total gives away; details may be missing.
* Moonshot, Together: `cached_tokens` in the usage itself. Perplexity: `reasoning_tokens` there, which neither the
  completion nor the total holds, and its searches.
* xAI: the sources that a live search read.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ingress.core.counts import has_duplicates, repaired, salvaged
from ingress.core.normal import Told, disjoint
from ingress.core.reported import Count, Reported
from schemas import flags, units
from schemas.tokens import TokenUsage

NO_USAGE = msgspec.Raw(b"null")
STANDARD_TIERS = frozenset({"", "auto", "default", "on_demand", "standard"})
"""Names of the tier that has no prices of its own."""
MAX_NAME = 128
MAX_TIER = 32


class WrittenDetails(msgspec.Struct):
    """What was written to the cache, by how long it is kept."""

    ttl_30m_tokens: Count | None = None
    ttl_12h_tokens: Count | None = None


class InputDetails(msgspec.Struct):
    """Parts of the input."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    cache_write_tokens_details: WrittenDetails | None = None


class OutputDetails(msgspec.Struct):
    """Parts of the output."""

    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class Usage(msgspec.Struct):
    """A usage object, of whichever server."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    prompt_cache_miss_tokens: Count | None = None
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    num_search_queries: Count | None = None
    num_sources_used: Count | None = None


_decode = msgspec.json.Decoder(Usage).decode


def report(
    model: Any, raw: bytes, tier: Any = None, billed: dict[str, int] | None = None, has_output: bool = True
) -> Reported:
    """Return what a usage object says.

    Args:
        model: the name that the answer gives.
        raw: JSON of the usage; empty or `null` for none.
        tier: the service tier that the answer names.
        billed: beside tokens, as counted elsewhere in the answer.
        has_output: whether the operation has output tokens.
    """
    name = model[:MAX_NAME] if type(model) is str else ""
    if not raw or raw == b"null":
        return Reported(name, is_final=False)
    odd: set[str] = set()
    usage = usage_of(raw, odd)
    served = tier_of(tier, odd)
    if usage is None:
        return Reported(name, None, False, "unreadable_usage", billed or {}, served, tuple(sorted(odd)))
    beside = billed or {}
    if usage.num_search_queries or usage.num_sources_used:
        beside = _units(usage, billed)
    found, knows_input, knows_output = normalise(usage, has_output, odd)
    return Reported(
        name, found, knows_input and knows_output, "", beside, served, tuple(sorted(odd)) if odd else (), "",
        knows_input, knows_output,
    )  # fmt: skip


def usage_of(raw: bytes, odd: set[str]) -> Usage | None:
    """Return a usage object, repaired where it has to be; `odd` takes the flags. None if it is none."""
    try:
        usage = _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return repaired(salvaged(raw), Usage, odd)
    return repaired(salvaged(raw), Usage, odd) if has_duplicates(raw) else usage


def unreadable(data: bytes, path: tuple[str, ...] = (), has_output: bool = True) -> Reported:
    """Return the report of an answer that the strict decoder refuses, with whatever it says of its usage.

    Args:
        data: JSON, or what should be.
        path: members that lead from the answer to the object that has the usage.
        has_output: whether the operation has output tokens.
    """
    found = salvaged(data)
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    usage = found.get("usage") if isinstance(found, dict) else None
    if usage is None:
        return Reported(fault="unreadable_usage", is_final=False, flags=(flags.MALFORMED,))
    odd: set[str] = set()
    counts = repaired(usage, Usage, odd)
    model = found.get("model")
    name = model[:MAX_NAME] if isinstance(model, str) else ""
    if counts is None:
        return Reported(name, None, False, "unreadable_usage", flags=tuple(sorted(odd)))
    tokens, knows_input, knows_output = normalise(counts, has_output, odd)
    return Reported(
        name, tokens, knows_input and knows_output, "", _units(counts, None), tier_of(found.get("service_tier"), odd),
        tuple(sorted(odd)), "", knows_input, knows_output,
    )  # fmt: skip


def tier_of(tier: Any, odd: set[str]) -> str:
    """Return the name of a service tier, empty for the standard one."""
    if tier is None:
        return ""
    if type(tier) is not str or len(tier) > MAX_TIER or not (tier.isascii() and tier.isprintable()):
        odd.add(flags.UNKNOWN_TIER)
        return ""
    name = tier.lower()
    return "" if name in STANDARD_TIERS else name


def normalise(usage: Usage, has_output: bool, odd: set[str]) -> tuple[TokenUsage, bool, bool]:
    """Return the disjoint classes of a usage object, and whether the input and the output are known.

    A flag goes to `odd` for what contradicts itself or is missing.
    """
    found = _usual(usage) if has_output else None
    return (found, True, True) if found is not None else _unusual(usage, has_output, odd)


def _usual(usage: Usage) -> TokenUsage | None:
    """Return the classes of a usage object that has one spelling and adds up, as nearly all do; else None."""
    if usage.cached_tokens or usage.prompt_cache_hit_tokens or usage.prompt_cache_miss_tokens or usage.reasoning_tokens:
        return None
    if usage.input_tokens is None:
        whole_in, whole_out = usage.prompt_tokens, usage.completion_tokens
        inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    elif usage.prompt_tokens is None and usage.completion_tokens is None:
        whole_in, whole_out = usage.input_tokens, usage.output_tokens
        inputs, outputs = usage.input_tokens_details, usage.output_tokens_details
    else:
        return None
    if whole_in is None or whole_out is None or usage.total_tokens not in (None, whole_in + whole_out):
        return None
    cached = written = heard = seen = reasoning = spoken = made = 0
    if inputs is not None:
        if inputs.cache_write_tokens_details is not None:
            return None
        cached, written = inputs.cached_tokens or 0, inputs.cache_write_tokens or 0
        heard, seen = inputs.audio_tokens or 0, inputs.image_tokens or 0
    if outputs is not None:
        reasoning, spoken, made = outputs.reasoning_tokens or 0, outputs.audio_tokens or 0, outputs.image_tokens or 0
    fresh, text = whole_in - cached - written - heard - seen, whole_out - reasoning - spoken - made
    if fresh < 0 or text < 0:
        return None
    return TokenUsage(fresh, text, cached, written, 0, reasoning, heard, spoken, seen, made)


def _unusual(usage: Usage, has_output: bool, odd: set[str]) -> tuple[TokenUsage, bool, bool]:
    """Return the same for any usage object."""
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    if usage.input_tokens is not None or usage.output_tokens is not None:
        prompt, completion = _larger(prompt, usage.input_tokens, odd), _larger(completion, usage.output_tokens, odd)
    inputs = inputs or usage.input_tokens_details
    outputs = outputs or usage.output_tokens_details
    if not has_output:
        completion = completion or 0
        prompt = _larger(prompt, None if total is None else max(0, total - completion), odd)
    if usage.prompt_cache_hit_tokens is not None and usage.prompt_cache_miss_tokens is not None:
        prompt = _larger(prompt, usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, odd)
    knows_input, knows_output = prompt is not None, completion is not None
    if completion is None and prompt is not None and total is not None and total >= prompt:
        # Some servers leave out a completion of nothing but reasoning. After a count that was odd it is a lower bound.
        completion, knows_output = total - prompt, not odd
    elif prompt is None and completion is not None and total is not None and total >= completion:
        prompt, knows_input = total - completion, not odd
    cached = _cached(usage, inputs, odd)
    reasoning = usage.reasoning_tokens or 0
    is_plain = not inputs and not outputs and not cached and not reasoning
    if is_plain and prompt is not None and completion is not None and total in (None, prompt + completion):
        return TokenUsage(prompt, completion), knows_input, knows_output
    if reasoning > (completion or 0) and completion is not None:
        completion, total = completion + reasoning, None if total is None else total + reasoning
    told = _told(prompt or 0, completion or 0, total, cached, reasoning, inputs, outputs)
    if prompt is None:
        odd.add(flags.MISSING_INPUT)
        told.input, told.total = max(cached + told.cache_write, told.audio_input + told.image_input), None
    if completion is None:
        odd.add(flags.MISSING_OUTPUT)
        told.output, told.total = told.reasoning + told.audio_output + told.image_output, None
    return disjoint(told, odd), knows_input, knows_output


def _told(
    prompt: int, completion: int, total: int | None, cached: int, reasoning: int, inputs: InputDetails | None,
    outputs: OutputDetails | None,
) -> Told:  # fmt: skip
    told = Told(prompt, completion, total, cached, reasoning=reasoning)
    if inputs is not None:
        told.cache_write = inputs.cache_write_tokens or 0
        told.audio_input, told.image_input = inputs.audio_tokens or 0, inputs.image_tokens or 0
        if inputs.cache_write_tokens_details is not None:
            longer = min(inputs.cache_write_tokens_details.ttl_12h_tokens or 0, told.cache_write)
            told.cache_write, told.cache_write_1h = told.cache_write - longer, longer
    if outputs is not None:
        told.reasoning = max(reasoning, outputs.reasoning_tokens or 0)
        told.audio_output, told.image_output = outputs.audio_tokens or 0, outputs.image_tokens or 0
    return told


def _cached(usage: Usage, details: InputDetails | None, odd: set[str]) -> int:
    """Return what was read from the cache; of several words on it the least, because it is a discount."""
    words = [
        word
        for word in (
            None if details is None else details.cached_tokens, usage.prompt_cache_hit_tokens, usage.cached_tokens
        )
        if word is not None
    ]  # fmt: skip
    if not words:
        return 0
    if max(words) != min(words):
        odd.add(flags.CONTRADICTORY)
    return min(words)


def _larger(one: int | None, other: int | None, odd: set[str]) -> int | None:
    """Return the larger of two words on the same count."""
    if one is None or other is None:
        return other if one is None else one
    if one != other:
        odd.add(flags.CONTRADICTORY)
    return max(one, other)


def _units(usage: Usage, billed: dict[str, int] | None) -> dict[str, int]:
    if not usage.num_search_queries and not usage.num_sources_used:
        return billed or {}
    found = dict(billed or {})
    for name, count in ((units.WEB_SEARCH, usage.num_search_queries), (units.SEARCHES, usage.num_sources_used)):
        if count:
            found[name] = found.get(name, 0) + count
    return found
