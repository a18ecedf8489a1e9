"""What tools of the provider's may cost that a request offers to the model: held beside its tokens.

How often they are used is the model's choice. One use of each is held; what is beyond it, up to the number that the
request allows, or `MOST_USES` where it names none, is part of the overshoot bound. A strict rule holds all of it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.money import Price, cost_nanos
from schemas.tokens import NO_TOKENS
from schemas.units import CODE_SESSION, FILE_SEARCH, WEB_SEARCH

MOST_USES = 10
"""Of a tool, where the request names no number."""
MOST_TOOLS = 128
_UNITS = (("web_search", WEB_SEARCH), ("file_search", FILE_SEARCH), ("code_interpreter", CODE_SESSION))


class Fees(msgspec.Struct, frozen=True):
    """Uses of units: one each, and at most."""

    once: dict[str, int] = {}
    most: dict[str, int] = {}

    def nanos(self, price: Price, is_strict: bool) -> tuple[int, int]:
        """Return what to hold, and what may come beyond it, in nano-USD."""
        most = cost_nanos(price, NO_TOKENS, self.most) - price.request_nanos
        held = most if is_strict else cost_nanos(price, NO_TOKENS, self.once) - price.request_nanos
        return held, most - held


NO_FEES = Fees()


def fees_of(fields: dict[str, Any]) -> Fees:
    """Return the fees of the tools that a request offers; what is no tool of the provider's costs nothing."""
    tools = fields.get("tools")
    if type(tools) is not list or not tools:
        return NO_FEES
    most: dict[str, int] = {}
    allowed = _count(fields.get("max_tool_calls"), MOST_USES)
    for tool in tools[:MOST_TOOLS]:
        kind = tool.get("type") if type(tool) is dict else None
        if type(kind) is not str or kind == "function":
            continue
        for start, unit in _UNITS:
            if kind.startswith(start):
                most[unit] = most.get(unit, 0) + _count(tool.get("max_uses"), allowed)
    return Fees(dict.fromkeys(most, 1), most) if most else NO_FEES


def _count(value: Any, otherwise: int) -> int:
    return value if type(value) is int and 0 < value <= 1_000 else otherwise
