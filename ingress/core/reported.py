"""What a provider said about its answer: untrusted numbers, made into disjoint classes or rejected with a reason."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ingress.core.counts import MAX_TOKENS
from schemas.tokens import TokenUsage

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class Reported(msgspec.Struct, frozen=True):
    """Model and usage of one answer. `usage` is None if none was reported, or none that can be believed."""

    model: str = ""
    usage: TokenUsage | None = None
    is_final: bool = True
    """False: of an unfinished stream, or not to be believed in all. An estimate is the least of what is not known."""
    fault: str = ""
    """A reason code where the report was rejected; never bytes of the answer."""
    units: dict[str, int] = {}
    """Billed beside tokens, by the names of `schemas.units`."""
    service_tier: str = ""
    """That served the answer; empty for the standard one."""
    flags: tuple[str, ...] = ()
    """Of `schemas.flags`: what was odd and could be made good; never bytes of the answer."""
    failed: str = ""
    """A reason code where the answer says, under a status that says otherwise, that it has failed."""
    knows_input: bool = True
    """Where it is not final: whether its word on the input holds."""
    knows_output: bool = False
    """Where it is not final: whether its word on the output holds."""


ERROR_EVENT = "provider_error_event"
"""An event of a stream says that the answer has failed."""
ERROR_ANSWER = "provider_error_answer"
"""A whole answer with a good status says that it has failed."""
NOTHING_REPORTED = Reported(is_final=False)


def estimated(reported: Reported, input_tokens: int, output_tokens: int, is_whole: bool) -> TokenUsage:
    """Return what to charge for an answer of which not all is known.

    Args:
        reported: what was told so far; where it may be too little, the estimate is the least that counts.
        input_tokens: estimate of the input.
        output_tokens: estimate of the output so far.
        is_whole: whether nothing of the answer is missing.
    """
    told = reported.usage
    if told is None:
        return TokenUsage(input_tokens, output_tokens)
    more_input = 0 if reported.knows_input else max(0, input_tokens - told.all_input)
    more_output = 0 if is_whole and reported.knows_output else max(0, output_tokens - told.all_output)
    if not more_input and not more_output:
        return told
    return msgspec.structs.replace(told, input=told.input + more_input, output=told.output + more_output)
