"""What enforcer and history answer before they can do anything: a refusal that a command line can wait out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.api import lacks_of
from deploy.request import Answer
from enforcer.settings import EnforcerSettings
from enforcer.worker import Worker
from meter.sink import api
from meter.sink.app import History
from meter.sink.settings import HistorySettings

TOKEN = "test-admin-token-0123456789"
NOWHERE = {"bootstrap": "127.0.0.1:1"}


def _enforcer(state: Path) -> tuple[Any, list[str]]:
    """Return the application of an enforcer that has read nothing yet, and what it lacks."""
    worker = Worker(EnforcerSettings.model_validate({"kafka": NOWHERE, "admin_token": TOKEN, "state_dir": state}))
    return worker._server.config.app, worker.services.waiting()


def _history(state: Path) -> tuple[Any, list[str]]:
    """Return the application of a history that has not opened its store, and what it lacks."""
    settings = HistorySettings.model_validate({"kafka": NOWHERE, "admin_token": TOKEN, "state_dir": state})
    history = History(settings)
    return api.application(history, settings.admin_token), history.waiting()


@pytest.mark.parametrize(
    ("make", "method", "path"),
    [
        (_enforcer, "GET", "/v1/ledger"),
        (_enforcer, "POST", "/v1/policy"),
        (_enforcer, "DELETE", "/v1/keys/key_1"),
        (_history, "GET", "/v1/ledger"),
        (_history, "POST", "/v1/sql"),
    ],
)
async def test_one_that_starts_says_what_it_lacks(make: Any, method: str, path: str, tmp_path: Path) -> None:
    """Each path says so before anything is done, in the form that the command line waits for."""
    app, lacks = make(tmp_path)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        answer = await client.request(method, path, json=None if method == "GET" else {"query": "SELECT 1"})
    assert answer.status_code == 503
    assert lacks
    assert lacks_of(Answer(answer.status_code, answer.content)) == ", ".join(lacks)
    assert lacks[0] in answer.json()["error"]["message"]
