"""What may be odd about the usage of an answer, or about how it was read: the fixed vocabulary of `Detail.flags`.

A flag is a word of this table and never holds a byte of an answer, so that it may be a label of a metric.
`docs/usage.md` has the rule behind each.
"""

from __future__ import annotations

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

READ: dict[str, str] = {
    DRAINED: "The client had hung up: the answer was read to its end without it.",
    DRAIN_CUT: "The client had hung up: the answer was read on, and given up before its end.",
    NO_ANSWER: "The provider had the request and did not begin to answer: whether it bills it is not known.",
    NO_TERMINATOR: "The stream ended without the event that ends streams, but after its usage.",
    COUNTED: "The provider tells no usage of this operation: what it bills was counted in the request.",
}
"""Of how an answer was read."""

FLAGS: dict[str, str] = {**ODD, **READ}
"""Every flag with its meaning."""
