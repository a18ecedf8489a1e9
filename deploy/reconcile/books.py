"""Reads our side from the history: what a provider's models cost by day and group. Adapts `deploy.api`."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import NamedTuple

import msgspec

from deploy.api import Api
from enforcer.core.model_names import Known
from enforcer.core.reconciling import Group
from schemas.errors import TransportError

_decoder = msgspec.json.Decoder(Group)


class Books(NamedTuple):
    """Our side of some days, the day before them included."""

    groups: list[Group]
    known: list[Known]
    """Names of our models."""


def read(api: Api, provider: str, since: date, until: date, exported_ms: int | None) -> Books:
    """Return what the history has of [since, until) and the day before. Raises as `Api.call` does."""
    body = api.lines(
        "/v1/costs/days", provider=provider, since=(since - timedelta(days=1)).isoformat(), until=until.isoformat(),
        exported=None if exported_ms is None else str(exported_ms),
    )  # fmt: skip
    *lines, last = body.splitlines()
    try:
        told = json.loads(last)
        columns, names = told["columns"], told["models"]
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError("the history's answer about costs was cut off; try again") from error
    if columns != list(Group.__struct_fields__):
        raise TransportError(
            f"the history gives the columns {', '.join(columns)}, this command reads "
            f"{', '.join(Group.__struct_fields__)}; let both be of one version"
        )
    return Books(
        [_decoder.decode(line) for line in lines], [Known(name["model"], name["reported"]) for name in names]
    )  # fmt: skip
