"""Routes of the audit: what was found last, an audit of everything now, and repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from meter.sink.auditor import Auditor, Found
from meter.sink.core.errors import StoreUnavailable
from meter.sink.repair import Repairer
from schemas.audits import Difference
from schemas.errors import TransportError

Asking = Callable[[str], AbstractContextManager[None]]


class RepairRequest(BaseModel):
    """Whether to do what the plan says."""

    model_config = ConfigDict(extra="forbid")

    apply: bool = False


def add(app: APIRouter, auditor: Auditor, repairer: Repairer, asking: Asking) -> None:
    """Add them.

    Args:
        app: of guarded routes.
        auditor: compares.
        repairer: repairs.
        asking: counts a query, and turns its faults into answers.
    """

    @app.get("/audit")
    async def last() -> dict[str, Any]:
        """Return what the last audit found; null before the first."""
        return {"audit": None if auditor.last is None else _told(auditor.last)}

    @app.post("/audit")
    async def everything() -> dict[str, Any]:
        """Compare everything that is kept, now."""
        with asking("audit"), _patiently():
            return {"audit": _told(await auditor.look(everything=True))}

    @app.post("/repair")
    async def mend(request: RepairRequest) -> dict[str, Any]:
        """Say how differences are mended, or mend them."""
        with asking("repair"), _patiently():
            done = await repairer.run(request.apply)
        return {
            "steps": [step.text for step in done.plan.steps],
            "hopeless": done.plan.hopeless,
            "before": _told(done.before),
            "after": None if done.after is None else _told(done.after),
            "inserted_rows": done.inserted_rows,
        }


@contextmanager
def _patiently() -> Iterator[None]:
    """Turn what does not answer, log or store, into the store's fault: try again."""
    try:
        yield
    except TransportError as error:
        raise StoreUnavailable(str(error)) from error


def _told(found: Found) -> dict[str, Any]:
    return {
        "ok": not found.differences,
        "at_ms": found.at_ms,
        "seconds": round(found.seconds, 3),
        "hours": found.hours,
        "partitions": [{"partition": one.partition, "position": one.position, "runs": len(one.runs)}
                       for one in found.audits],
        "differences": [_difference(one) for one in found.differences],
    }  # fmt: skip


def _difference(one: Difference) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(one)
    return {**fields, "text": one.text, "remedy": one.remedy}
