"""Divides an amount over shares in proportion to weights, exactly: the largest remainder, in whole nano-dollars.

Theory. Each share gets its proportion rounded down; what is left, less than one unit a share, goes one by one to the
largest remainders. Ties go by the order of the shares. The shares always sum to the amount, and doing it again gives
the same; a negative amount is divided as its opposite.
"""

from __future__ import annotations

from collections.abc import Sequence


def divide(amount: int, weights: Sequence[int]) -> list[int]:
    """Return the shares of `amount`, one a weight; they sum to it.

    Args:
        amount: any integer.
        weights: of 0 or more. If all are 0, the shares are equal. ValueError if there are none, or one is below 0.
    """
    if not weights or min(weights) < 0:
        raise ValueError("an amount is divided over one weight or more, none below 0")
    if amount < 0:
        return [-share for share in divide(-amount, weights)]
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    shares = [amount * weight // whole for weight in weights]
    left = amount - sum(shares)
    by_remainder = sorted(range(len(weights)), key=lambda place: (-(amount * weights[place] % whole), place))
    for place in by_remainder[:left]:
        shares[place] += 1
    return shares
