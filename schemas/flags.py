"""What may be odd about the usage of an answer, or about how it was read: the fixed vocabulary of `Detail.flags`.

A flag is a word of this table and never holds a byte of an answer, so that it may be a label of a metric.
`docs/usage.md` has the rule behind each.
"""

from __future__ import annotations

from schemas.money import Price, unpriced_units
from schemas.tokens import TokenUsage
from schemas.units import UNITS

NEGATIVE = "negative"
OVERSIZED = "oversized"
FRACTIONAL = "fractional"
NOT_FINITE = "not_finite"
NOT_A_NUMBER = "not_a_number"
CONTRADICTORY = "contradictory"
DUPLICATED = "duplicated"
MISSING_INPUT = "missing_input"
MISSING_OUTPUT = "missing_output"
MALFORMED = "malformed"
UNKNOWN_TIER = "unknown_tier"

ODD: dict[str, str] = {
    NEGATIVE: "A count was below zero: taken as not told.",
    OVERSIZED: "A count was larger than any answer has: taken as not told.",
    FRACTIONAL: "A count was not a whole number: rounded up.",
    NOT_FINITE: "A count was infinite or not a number: taken as not told.",
    NOT_A_NUMBER: "A count was text or another type: its digits were read, or it was taken as not told.",
    CONTRADICTORY: "Counts excluded each other: the larger reading was taken.",
    DUPLICATED: "A key stood in the usage more than once: the larger value was taken.",
    MISSING_INPUT: "The usage told nothing that can be believed of the input, which was estimated.",
    MISSING_OUTPUT: "The usage told nothing that can be believed of the output, which was estimated.",
    MALFORMED: "The usage could not be read at all, and was estimated.",
    UNKNOWN_TIER: "The service tier was no name: taken as the standard one.",
}
"""Of usage that a provider reported, with what was made of it."""

DRAINED = "drained"
DRAIN_CUT = "drain_cut"
NO_ANSWER = "no_answer"
NO_TERMINATOR = "no_terminator"
COUNTED = "counted"
BATCH_TOTAL = "batch_total"
BATCH_FOUND = "batch_found"

READ: dict[str, str] = {
    DRAINED: "The client had hung up: the answer was read to its end without it.",
    DRAIN_CUT: "The client had hung up: the answer was read on, and given up before its end.",
    NO_ANSWER: "The provider had the request and did not begin to answer: whether it bills it is not known.",
    NO_TERMINATOR: "The stream ended without the event that ends streams, but after its usage.",
    COUNTED: "The provider tells no usage of this operation: what it bills was counted in the request.",
    BATCH_TOTAL: "The usage of a whole batch as the provider summed it: tiers of long prompts are not told.",
    BATCH_FOUND: "A batch that was not created through Tollway: charged to whoever was seen with it first.",
}
"""Of how an answer was read."""

UNPRICED = "unpriced"
UNKNOWN_COST: dict[str, str] = {
    UNPRICED: "The model has no price, or none for tokens: the cost is unknown.",
    **{f"{UNPRICED}_{unit}": f"The price says nothing of {unit}: the cost is unknown." for unit in UNITS},
}
"""Of what was used and has no price; limits are charged at `unpriced_reserve` for it."""

FLAGS: dict[str, str] = {**ODD, **READ, **UNKNOWN_COST}
"""Every flag with its meaning."""


def unpriced_flags(price: Price | None, usage: TokenUsage, units: dict[str, int]) -> tuple[str, ...]:
    """Return the flags of what was used and `price` does not know."""
    if price is None:
        return (UNPRICED,)
    tokens = (UNPRICED,) if usage.total and not price.tiers else ()
    return (*tokens, *(f"{UNPRICED}_{unit}" for unit in unpriced_units(price, units)))
