"""What a provider said about its answer: untrusted numbers, made into disjoint classes or rejected with a reason."""

from __future__ import annotations

from typing import Annotated

import msgspec

from schemas.tokens import TokenUsage

MAX_TOKENS = 10**9
"""More than any answer has; a larger count is a fault of the provider's."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class Reported(msgspec.Struct, frozen=True):
    """Model and usage of one answer. `usage` is None if none was reported, or none that can be believed."""

    model: str = ""
    usage: TokenUsage | None = None
    is_final: bool = True
    """False: counts of an unfinished stream, of which only the input holds."""
    fault: str = ""
    """A reason code where the report was rejected; never bytes of the answer."""
    units: dict[str, int] = {}
    """Billed beside tokens, by the names of `schemas.units`."""
    service_tier: str = ""
    """That served the answer; empty for the standard one."""
    flags: tuple[str, ...] = ()
    """Reason codes of what was odd and could be made good; never bytes of the answer."""
    failed: str = ""
    """A reason code where the answer says, under a status that says otherwise, that it has failed."""


ERROR_EVENT = "provider_error_event"
"""An event of a stream says that the answer has failed."""
ERROR_ANSWER = "provider_error_answer"
"""A whole answer with a good status says that it has failed."""
NOTHING_REPORTED = Reported(is_final=False)


class UnbelievableUsage(ValueError):
    """Counts that contradict each other; the text says which. Never leaves `ingress.core`."""
