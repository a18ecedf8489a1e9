"""What a request may come to whose body does not say it in text: images, audio, files. At most, and probably.

The reader of an operation says both when it reads the request. The first is reserved; the second is charged where the
provider says nothing, and marked as an estimate. What is counted in the request itself, as characters that are to be
spoken, is no estimate: the provider bills just that and tells nothing of it, and the flag `counted` says so.
"""

from __future__ import annotations

import msgspec

from ingress.core.reported import Reported
from schemas.flags import COUNTED
from schemas.money import FEMTOS_PER_NANO, Price, Rates, cost_nanos
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.usage import UsageSource

PROVIDER, ESTIMATED, NONE = UsageSource.PROVIDER.value, UsageSource.ESTIMATED.value, UsageSource.NONE.value


class Expected(msgspec.Struct, frozen=True):
    """Tokens and units of one request. A model is billed by the one or by the other; its price tells which."""

    most: TokenUsage = NO_TOKENS
    likely: TokenUsage = NO_TOKENS
    most_units: dict[str, int] = {}
    likely_units: dict[str, int] = {}
    is_counted: bool = False
    """The units are what is billed, not an estimate of it."""
    least_nanos: int = 0
    """Room that budgets must have, where it is later that something is billed."""

    @property
    def is_nothing(self) -> bool:
        """Whether providers bill nothing for it."""
        return not self.most.total and not self.most_units


NOTHING = Expected()
LATER = Expected(least_nanos=1)
"""Nothing by itself, but what follows costs something: a batch."""


def is_by_tokens(price: Price | None, expected: Expected) -> bool:
    """Tell whether a price is by tokens: it is one, and by none of the units of the request."""
    return price is not None and not any(name in price.units for name in expected.most_units)


def costs_tokens(price: Price, usage: TokenUsage) -> bool:
    """Tell whether tokens cost anything by a price, which may have units as well."""
    return any(_femtos(rates, usage) for rates in price.tiers)


def charged(reported: Reported, expected: Expected, price: Price | None) -> tuple[TokenUsage, str, Reported]:
    """Return the usage of an answer, where it is from, and the report that says so with the units that are billed.

    Args:
        reported: tokens that the provider told, and units that it told or that the answer shows.
        expected: of the request.
        price: of the model; None if it has none.
    """
    if expected.is_nothing:
        return NO_TOKENS, NONE, reported
    told = reported.usage if reported.usage is None or reported.usage.total else None
    is_priced = told is not None and reported.is_final and price is not None and costs_tokens(price, told)
    if is_priced or is_by_tokens(price, expected) or (price is None and told is not None):
        return _by_tokens(reported, told, expected)
    usage = NO_TOKENS if told is None else told
    if reported.units:
        return usage, PROVIDER if reported.is_final else ESTIMATED, reported
    found = msgspec.structs.replace(reported, units=expected.likely_units)
    if not expected.is_counted:
        return usage, ESTIMATED, found
    return usage, PROVIDER, msgspec.structs.replace(found, flags=(*reported.flags, COUNTED))


def _by_tokens(
    reported: Reported, told: TokenUsage | None, expected: Expected
) -> tuple[TokenUsage, str, Reported]:  # fmt: skip
    """Return the same where tokens are billed: what an answer shows of units is not."""
    if told is None and reported.usage is not None and reported.is_final:
        return NO_TOKENS, PROVIDER, reported  # explicitly none; units that were told instead have no price
    if told is not None and reported.is_final:
        return told, PROVIDER, msgspec.structs.replace(reported, units={})
    usage = expected.likely if told is None else _filled(reported, told, expected.likely)
    return usage, ESTIMATED, msgspec.structs.replace(reported, usage=told, units={})


def _filled(reported: Reported, told: TokenUsage, likely: TokenUsage) -> TokenUsage:
    """Return what was told, and what is likely of the side that is not known, if that is more."""
    if not reported.knows_input and likely.all_input > told.all_input:
        told = TokenUsage(
            likely.input, told.output, 0, 0, 0, told.reasoning, likely.audio_input, told.audio_output,
            likely.image_input, told.image_output,
        )  # fmt: skip
    if not reported.knows_output and likely.all_output > told.all_output:
        told = msgspec.structs.replace(
            told, output=likely.output, reasoning=0, audio_output=likely.audio_output, image_output=likely.image_output
        )
    return told


def holds_tokens(price: Price | None, expected: Expected) -> bool:
    """Tell whether a request may be billed by tokens."""
    return price is None or is_by_tokens(price, expected) or costs_tokens(price, expected.most)


def most_nanos(expected: Expected, price: Price | None, reserve_price: Price) -> int:
    """Return what a request may cost at most, in nano-USD, rounded up; tokens by the dearest tier.

    Args:
        expected: of the request.
        price: of the model; None if it has none, and then it may be billed by tokens or by units.
        reserve_price: the same with a price for whatever it lacks.
    """
    tokens = units = 0
    if holds_tokens(price, expected):
        femtos = max((_femtos(rates, expected.most) for rates in reserve_price.tiers), default=0)
        tokens = -(-femtos // FEMTOS_PER_NANO) + reserve_price.request_nanos
    if not is_by_tokens(price, expected):
        units = cost_nanos(reserve_price, NO_TOKENS, expected.most_units) + 1
    return max(tokens, units)


def _femtos(rates: Rates, usage: TokenUsage) -> int:
    image_input = rates.input if rates.image_input < 0 else rates.image_input
    image_output = rates.output if rates.image_output < 0 else rates.image_output
    return (
        usage.input * rates.input + usage.output * rates.output + usage.audio_input * rates.audio_input
        + usage.audio_output * rates.audio_output + usage.image_input * image_input
        + usage.image_output * image_output
    )  # fmt: skip
