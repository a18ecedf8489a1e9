"""Routes of postings: what to know before one is computed, begin, post, end."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response
from pydantic import Field

from enforcer.adjust import AdjustPlane
from enforcer.answers import as_json, made, refuse
from enforcer.core.adjustments import Adjustment, Posting, Target
from enforcer.core.audit import POSTING_BEGUN, POSTING_ENDED
from enforcer.errors import Refusal, invalid
from enforcer.requests import Actor, Body, read_body
from enforcer.services import plain
from enforcer.telemetry import Telemetry

MAX_CHUNK_BYTES = 8 * 1024 * 1024
MAX_CHUNK = 5_000
MAX_DETAIL_BYTES = 16_384


class BeginBody(Body):
    """`POST /v1/adjustments`."""

    after: Annotated[int, Field(ge=0)]
    """`last` of what was known when the corrections were computed."""
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """`reprice`, or the invoice."""
    detail: dict[str, Any] = Field(default_factory=dict)
    """What the audit entry says beside it."""
    actor: Actor = "api"


class Chunk(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/adjustments/{posting}`: some corrections. Ids are 16 bytes in base64."""

    chunk: int
    targets: list[Target]
    adjustments: list[Adjustment]


_chunks = msgspec.json.Decoder(Chunk)


def add(app: FastAPI, plane: AdjustPlane, telemetry: Telemetry) -> None:
    """Add them to the application."""

    @app.get("/v1/adjustments")
    async def look() -> Response:
        """Return the last posting's number, and where the usage log ends."""
        return as_json(plain(await plane.look()))

    @app.post("/v1/adjustments")
    async def begin(request: Request) -> Response:
        """Begin a posting."""
        body = await read_body(request, BeginBody)
        if isinstance(body, Refusal):
            return refuse(body)
        if len(msgspec.json.encode(body.detail)) > MAX_DETAIL_BYTES:
            return refuse(Refusal(413, f"the detail is larger than {MAX_DETAIL_BYTES} bytes; say less", "detail"))
        found = await plane.begin(body.after, {"reason": body.reason, **body.detail}, body.actor)
        return made(found, plain, telemetry, POSTING_BEGUN, 201)

    @app.post("/v1/adjustments/{posting}")
    async def post(posting: int, request: Request) -> Response:
        """Write corrections."""
        chunk = await _read(request)
        if isinstance(chunk, Refusal):
            return refuse(chunk)
        found = await plane.post(posting, chunk.chunk, Posting(chunk.targets, chunk.adjustments))
        return made(found, plain, telemetry, None)

    @app.post("/v1/adjustments/{posting}/end")
    async def end(posting: int) -> Response:
        """Conclude a posting."""
        return made(await plane.end(posting), plain, telemetry, POSTING_ENDED)


async def _read(request: Request) -> Chunk | Refusal:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_CHUNK_BYTES:
            return Refusal(413, f"the body is larger than {MAX_CHUNK_BYTES} bytes; send smaller chunks")
    try:
        chunk = _chunks.decode(data)
    except msgspec.ValidationError as error:
        return invalid([str(error)])
    except msgspec.DecodeError as error:
        return Refusal(400, f"the body is not JSON ({error}); send a JSON object")
    if not 0 < len(chunk.adjustments) <= MAX_CHUNK:
        return Refusal(422, f"{len(chunk.adjustments)} corrections in one chunk; send 1 to {MAX_CHUNK}", "adjustments")
    return chunk
