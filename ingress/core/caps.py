"""Caps on a single request: how large its input, its output and its cost may be, whatever else has been used.

A cap looks at the most that the request may come to: the upper bound of its input, and the output it asks for or, where
it does not say, the model's maximum. What is over a cap is refused for good (400): waiting does not help.
"""

from __future__ import annotations

import msgspec

from ingress.core.errors import Shape
from schemas.money import format_usd


class Cap(msgspec.Struct, frozen=True):
    """One cap and the rule that it is from."""

    rule: str
    limit: int
    """Tokens, or nano-USD."""


class Caps(msgspec.Struct, frozen=True):
    """The smallest cap of each kind among the rules that match a request; None without one."""

    max_input_tokens: Cap | None = None
    max_output_tokens: Cap | None = None
    max_cost_nanos: Cap | None = None


NO_CAPS = Caps()


class Broken(msgspec.Struct, frozen=True):
    """The cap that a request is over."""

    reason: str
    """`max_input_tokens`, `max_output_tokens` or `max_cost`."""
    rule: str
    measure: str
    """`tokens` or `cost`."""
    limit: int
    asked: int
    parameter: str
    """Of the request; empty where none stands for it."""
    message: str
    """For the client: rule, limit, value and remedy."""


def broken_cap(
    caps: Caps, shape: Shape, given: str, input_tokens: int, output_tokens: int, nanos: int
) -> Broken | None:
    """Return the first cap that a request is over.

    Args:
        caps: of its plan.
        shape: the protocol, whose parameters the remedy names.
        given: the parameter by which the client has limited the output; empty if it has not.
        input_tokens: upper bound.
        output_tokens: of all choices: asked for, or the model's maximum.
        nanos: what both cost at most.
    """
    cap = caps.max_input_tokens
    if cap is not None and input_tokens > cap.limit:
        return _broken("max_input_tokens", cap, input_tokens, "", "Send a shorter prompt.")
    cap = caps.max_output_tokens
    parameter = given or ("max_tokens" if shape == "anthropic" else "max_completion_tokens")
    if cap is not None and output_tokens > cap.limit:
        remedy = f"Send '{parameter}' of at most {cap.limit:,}, all choices together."
        if not given:
            remedy = f"The request sets no '{parameter}', so the model's maximum counts. {remedy}"
        return _broken("max_output_tokens", cap, output_tokens, parameter, remedy)
    cap = caps.max_cost_nanos
    if cap is not None and nanos > cap.limit:
        remedy = "Send a shorter prompt" + (f", lower '{parameter}'" if output_tokens else "")
        return _broken("max_cost", cap, nanos, given, f"{remedy}, or use a cheaper model.")
    return None


def _broken(reason: str, cap: Cap, asked: int, parameter: str, remedy: str) -> Broken:
    measure = "cost" if reason == "max_cost" else "tokens"
    what = {"max_input_tokens": "input", "max_output_tokens": "output", "max_cost": "cost"}[reason]
    limit, value = (
        (format_usd(cap.limit), format_usd(asked))
        if measure == "cost"
        else (f"{cap.limit:,} tokens", f"{asked:,} tokens")
    )
    message = f"Rule {cap.rule!r} allows a request {what} of at most {limit}; this one may come to {value}. {remedy}"
    return Broken(reason, cap.rule, measure, cap.limit, asked, parameter, message)
