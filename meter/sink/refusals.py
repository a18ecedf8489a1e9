"""Answers of the history's API that are not what was asked for: `{"error": {"message", "field"?, "problems"?}}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

AUTHENTICATE = {"WWW-Authenticate": "Bearer"}


class Refused(Exception):
    """An answer other than the one that was asked for."""

    def __init__(
        self, status: int, message: str, field: str = "", problems: list[str] | None = None,
        waiting: list[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        error: dict[str, Any] = {"message": message}
        if field:
            error["field"] = field
        if problems:
            error["problems"] = problems
        if waiting:  # nothing was done with the request
            error["waiting"] = waiting
        self.body = {"error": error}


def add(app: FastAPI) -> None:
    """Have `app` answer faults in this form."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=AUTHENTICATE if error.status == 401 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [
            f"{'.'.join(str(part) for part in found['loc'][1:]) or 'body'}: {found['msg']}" for found in error.errors()
        ]
        field = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        return JSONResponse(Refused(422, "; ".join(problems), field, problems).body, 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(Refused(error.status_code, str(error.detail)).body, error.status_code)
