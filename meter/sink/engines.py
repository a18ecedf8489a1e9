"""How a client of the embedded engine, or of a server, is opened. Adapts clickhouse-connect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from meter.sink.store import Connect

CONNECT_S = 5
"""A server that takes no connection within this time is away."""


def embedded(directory: Path) -> Connect:
    """Return what opens clients of the engine over `directory`: one directory a process, one process a directory.

    The engine starts with the first client. A process that has started it must never fork and go on in the child.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = str(directory.resolve())

    def connect(database: str | None, settings: Mapping[str, Any]) -> Client:
        _warm_up()
        return clickhouse_connect.get_client(
            interface="chdb", path=path, database=database, settings=dict(settings), tz_mode="aware"
        )

    return connect


def server(url: str, answer_s: float = 60.0) -> Connect:
    """Return what opens clients of the ClickHouse server at `url` (`http(s)://user:password@host:port`).

    A server that does not answer for `answer_s` is taken to be away; whether it did what it was asked is unknown then.
    """

    def connect(database: str | None, settings: Mapping[str, Any]) -> Client:
        _warm_up()
        return clickhouse_connect.get_client(
            dsn=url, database=database or "default", settings=dict(settings), tz_mode="aware",
            autogenerate_session_id=False, client_name="tollway", connect_timeout=CONNECT_S,
            send_receive_timeout=max(1, round(answer_s)),
        )  # fmt: skip

    return connect


def _warm_up() -> None:
    """Let pyarrow look for pandas, which takes it a second, with the first client and not with the first batch."""
    pa.array([0])
