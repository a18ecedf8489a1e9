"""Reads request bodies: a bounded number of bytes, strict JSON, every problem at once."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from enforcer.errors import Refusal, field_problem, invalid

MAX_BODY_BYTES = 2 * 1024 * 1024
M = TypeVar("M", bound="Body")

Text = Annotated[str, Field(max_length=256)]
Actor = Annotated[str, Field(min_length=1, max_length=128)]


class Body(BaseModel):
    """A body refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ApplyBody(Body):
    """`POST /v1/policy`."""

    document: str
    """The YAML."""
    note: Annotated[str, Field(max_length=2_000)] = ""
    actor: Actor = "api"
    dry_run: bool = False
    base_version: int | None = None
    """Only apply if this version is in force."""


class RollbackBody(Body):
    """`POST /v1/policy/rollback`."""

    version: int
    note: Annotated[str, Field(max_length=2_000)] = ""
    actor: Actor = "api"
    base_version: int | None = None


class KeyBody(Body):
    """`POST /v1/keys`."""

    org: Text
    project: Text = ""
    team: Text = ""
    user: Text = ""
    name: Text = ""
    models: list[Text] = ["*"]
    tags: dict[Text, Text] = {}
    tier: Annotated[int, Field(ge=0, le=2)] | None = None
    """0 is the most important, 2 the least; left out: that of the organisation."""
    expires_ms: int | None = None
    """Unix ms."""
    actor: Actor = "api"

    @field_validator("project", "team", "user", "name", mode="before")
    @classmethod
    def _absent_is_empty(cls, value: Any, info: ValidationInfo) -> Any:
        return "" if value is None else value


class PricesBody(Body):
    """`POST /v1/prices`."""

    document: str | None = None
    """A price file in YAML or JSON; left out: what the bundled list says of the models in force."""
    reason: Annotated[str, Field(max_length=2_000)] = ""
    actor: Actor = "api"
    dry_run: bool = False
    base: int | None = None
    """Only record if the book has so many entries."""


class IncreaseBody(Body):
    """`POST /v1/increases`."""

    rule: Text
    """A limit or budget."""
    scope: Annotated[str, Field(max_length=512)]
    """As rows have it: `org=acme,team=search`; what it leaves out may be anything."""
    reason: Annotated[str, Field(max_length=2_000)]
    requested_by: Actor
    approved_by: Actor
    """Somebody else."""
    expires_ms: int
    """Unix ms."""
    percent: int | None = None
    """Of what the document says; or an amount."""
    amount: int | Text | None = None
    """`50 USD`, or a whole number in the rule's unit."""
    actor: Actor = "api"


class FreezeBody(Body):
    """`POST /v1/freezes`."""

    scope: Annotated[str, Field(max_length=512)]
    """Attributes and values: `org=acme,team=search`, `model=gpt-4o`."""
    reason: Annotated[str, Field(max_length=2_000)]
    actor: Actor = "api"


async def read_body(request: Request, kind: type[M]) -> M | Refusal:
    """Return the body of a request as `kind`, or why it is none."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            return Refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send less")
    try:
        return kind.model_validate_json(bytes(data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if any(problem["type"] == "json_invalid" for problem in problems):
            return Refusal(400, f"the body is not JSON ({problems[0]['msg']}); send a JSON object")
        return invalid([_problem(problem) for problem in problems])


def _problem(problem: Any) -> dict[str, Any]:
    remedies = {
        "missing": "missing; add it",
        "extra_forbidden": "unknown field; remove it or mend its spelling",
    }
    path = ".".join(map(str, problem["loc"])) or "body"
    shown = None if problem["type"] == "missing" or isinstance(problem["input"], dict) else problem["input"]
    return field_problem(path, shown, remedies.get(problem["type"], problem["msg"]))
