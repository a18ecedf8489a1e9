"""The real engine behind ClickHouse's HTTP protocol, as far as an HTTP client of it goes: a server for tests.

`python -m tests.clickhouse_front DIRECTORY PORT PASSWORD` serves the embedded engine over DIRECTORY on
loopback: statements in the body or in `query`, settings and `param_…` in the address, data after `FORMAT X`, errors
with `X-ClickHouse-Exception-Code`. What clients see of statements is the engine's; nothing is remembered between two
requests but tables. Faults are asked for by a POST to `/__faults`; see `clickhouse_faults`.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import secrets
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped] # ships no annotations

from tests.clickhouse_faults import USER, Fault

OWN = frozenset(
    {"query", "database", "session_id", "session_timeout", "session_check", "query_id", "quota_key", "compress",
     "decompress", "wait_end_of_query", "client_protocol_version", "role", "enable_http_compression", "buffer_size",
     "send_progress_in_http_headers", "http_headers_progress_interval_ms", "default_format",
     "cancel_http_readonly_queries_on_client_close"}
)  # fmt: skip
"""Parameters of the transport; all others are settings of the statement."""
CODES = {60: 404, 81: 404, 62: 400, 43: 400, 47: 404, 516: 403, 159: 408, 202: 503}
"""Status of an answer by the code of an exception; 500 for others."""
_CODE = re.compile(r"Code: (\d+)\.")
_INSERT = re.compile(rb"\s*INSERT\s+INTO\s+.*?\sFORMAT\s+(\w+)(?:\s|$)", re.IGNORECASE | re.DOTALL)
_VALUES = re.compile(rb"\s*INSERT\b.*?\b(VALUES|SELECT)\b", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
UNPACK: dict[str, Any] = {
    "": bytes, "identity": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress, "lz4": lz4.frame.decompress
}  # fmt: skip


class Failed(Exception):
    """An answer with a status that is not 200."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Engine:
    """The engine of this process. Each statement has a handle of its own: settings end with it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = str(directory.resolve())
        self._first = chdb.connect(self._path)  # keeps the engine open
        self.timezone = self._first.query("SELECT timezone()", "TabSeparated").bytes().decode().strip()
        self.faults: list[Fault] = []
        self.counts: dict[str, int] = {"statements": 0, "inserts": 0}
        self.lock = threading.Lock()

    def run(self, statement: bytes, given: dict[str, str]) -> tuple[bytes, str]:
        """Run a statement with the parameters of its request; return the result and its format, empty for none."""
        settings = {name: value for name, value in given.items() if name not in OWN and not name.startswith("param_")}
        bound = {name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")}
        handle = chdb.connect(self._path)
        try:
            if given.get("database"):
                handle.query(f"USE `{given['database']}`", "TabSeparated")
            for name, value in sorted(settings.items(), key=lambda item: item[0] == "readonly"):
                handle.query(f"SET {name} = '{_quoted(value)}'", "TabSeparated")
            insert = _INSERT.match(statement)
            if insert and not _VALUES.match(statement[: insert.end()]):
                _insert(handle, statement, insert)
                return b"", ""
            return _select(handle, statement, bound)
        except Exception as error:  # the engine's own kind is a RuntimeError
            text = str(error)
            code = _CODE.search(text)
            raise Failed(int(code[1]) if code else 1001, text[max(0, text.find("Code: ")) :]) from error
        finally:
            handle.close()

    def fault_for(self, statement: bytes) -> Fault | None:
        """Return what is to be done to a statement, and count it as done."""
        with self.lock:
            self.counts["statements"] += 1
            self.counts["inserts"] += statement.lstrip()[:6].upper() == b"INSERT"
            for fault in self.faults:
                if fault.times > 0 and fault.words.encode() in statement[:2_000]:
                    fault.times -= 1
                    return fault
        return None


def _insert(handle: Any, statement: bytes, insert: re.Match[bytes]) -> None:
    head, form, data = statement[: insert.start(1)], insert[1].decode(), statement[insert.end() :]
    into = re.sub(rb"\s+FORMAT\s+$", b"", head, flags=re.IGNORECASE).decode()
    with tempfile.NamedTemporaryFile(suffix=".insert") as file:
        file.write(data)
        file.flush()
        handle.query(f"{into} FROM INFILE '{file.name}' FORMAT {form}", "TabSeparated")


def _select(handle: Any, statement: bytes, bound: dict[str, str]) -> tuple[bytes, str]:
    named = _FORMAT.search(statement)
    if named:
        return bytes(handle.query(statement.decode(), "TabSeparated", params=bound).bytes()), named[1].decode()
    # Statements with a result, even an empty one, name its columns; others give nothing.
    lines = bytes(handle.query(statement.decode(), "TabSeparatedWithNames", params=bound).bytes())
    return lines.partition(b"\n")[2], "TabSeparated" if lines else ""


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    engine: Engine
    authorization: str

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        if url.path == "/ping":
            self._send(200, b"Ok.\n", {})
        elif url.path == "/__faults":
            if self.command == "POST":
                self.engine.faults = [Fault(**fields) for fields in json.loads(body)]
            state = {"counts": self.engine.counts, "faults": [asdict(fault) for fault in self.engine.faults]}
            self._send(200, json.dumps(state).encode(), {})
        elif not secrets.compare_digest(self.headers.get("authorization") or "", self.authorization):
            self._fail(Failed(516, "Code: 516. DB::Exception: authentication failed. (AUTHENTICATION_FAILED)"))
        else:
            given = dict(parse_qsl(url.query, keep_blank_values=True))
            self._statement(b"\n".join(part for part in (given.get("query", "").encode(), body) if part), given)

    def _statement(self, statement: bytes, given: dict[str, str]) -> None:
        fault = self.engine.fault_for(statement)
        if fault is not None and fault.action == "reset":
            return self._cut()
        if fault is not None and fault.action == "error":
            return self._fail(Failed(fault.code, f"Code: {fault.code}. DB::Exception: a fault that a test asked for"))
        if fault is not None and fault.action == "slow":
            time.sleep(fault.seconds)
        try:
            result, form = self.engine.run(statement, given)
        except Failed as failed:
            return self._fail(failed)
        if fault is not None and fault.action == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is not None and fault.action == "lost":
            return self._cut()
        headers = {"X-ClickHouse-Timezone": self.engine.timezone, "X-ClickHouse-Summary": "{}"}
        return self._send(200, result, {**headers, **({"X-ClickHouse-Format": form} if form else {})})

    def _body(self) -> bytes:
        if "chunked" in (self.headers.get("transfer-encoding") or ""):
            data = b"".join(iter(self._chunk, b""))
        else:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return bytes(UNPACK[self.headers.get("content-encoding") or ""](data))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _fail(self, failed: Failed) -> None:
        headers = {"X-ClickHouse-Exception-Code": str(failed.code)}
        self._send(CODES.get(failed.code, 500), failed.text.encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        """End the connection as a dead machine's does: with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let connections end as they like."""


def main() -> None:
    """Serve until SIGTERM."""
    directory, port, password = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    Handler.engine = Engine(directory)
    Handler.authorization = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
    server = Server(("127.0.0.1", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(0.02)
    os._exit(0)  # threads may still be in the engine, which keeps what it has acknowledged


if __name__ == "__main__":
    main()
