"""A command that meets a process which is only just starting, or being started again: asked again, on real sockets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deploy.api import Api, NotFound, Patience
from deploy.cli.__main__ import cli
from deploy.supervisor.files import StateDir
from schemas.errors import ConfigError, TransportError
from tests.fixtures.fake_service import FakeService

STARTING = (503, {"error": {"message": "not ready: keys; try again in a moment", "waiting": ["keys", "policy"]}})
HERE: tuple[int, Any] = (200, {"keys": []})
PATIENT_S = 20.0
"""Far longer than any of these tests waits."""


def test_one_that_starts_is_asked_again_and_that_is_said_once(service: FakeService) -> None:
    """The answer is the one given when ready; one line names the service, what it lacks, and the limit."""
    service.answers["GET /v1/keys"] = STARTING
    said: list[str] = []

    def becomes_ready(line: str) -> None:
        said.append(line)
        service.answers["GET /v1/keys"] = HERE

    with Api("enforcer", service.url, patience=Patience(PATIENT_S, say=becomes_ready)) as api:
        assert api.get("/v1/keys") == {"keys": []}
    assert said == ["waiting up to 20 s for enforcer: keys, policy"]
    assert [asked[:2] for asked in service.asked] == [("GET", "/v1/keys")] * 2


def test_a_change_is_sent_again_to_one_that_had_done_nothing(service: FakeService) -> None:
    """A service that is starting has not begun with a POST, so it is sent whole once more."""
    service.answers["POST /v1/keys"] = STARTING

    def becomes_ready(_: str) -> None:
        service.answers["POST /v1/keys"] = (201, {"secret": "s"})

    with Api("enforcer", service.url, patience=Patience(PATIENT_S, say=becomes_ready)) as api:
        assert api.post("/v1/keys", {"org": "acme"}) == {"secret": "s"}
    assert [asked[2] for asked in service.asked] == [{"org": "acme"}] * 2


def test_patience_ends_with_the_fault_and_lasts_over_calls(service: FakeService) -> None:
    """After the time, the error is the one of an impatient caller; a second call has no time left."""
    service.answers["GET /v1/keys"] = STARTING
    said: list[str] = []
    with Api("enforcer", service.url, patience=Patience(0.5, say=said.append)) as api:
        with pytest.raises(TransportError, match=r"enforcer at .* failed with 503: not ready: keys; try again"):
            api.get("/v1/keys")
        times = len(service.asked)
        with pytest.raises(TransportError, match="failed with 503"):
            api.get("/v1/keys")
    assert 2 <= times <= 4
    assert len(service.asked) == times + 1
    assert len(said) == 1


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (503, {"message": "the broker did not acknowledge; look before you try again"}, TransportError),
        (503, "no object", TransportError),
        (500, {"message": "oops", "waiting": ["x"]}, TransportError),
        (401, {"message": "no"}, TransportError),
        (404, {"message": "no such key"}, NotFound),
        (422, {"message": "bad"}, ConfigError),
    ],
)
def test_no_other_answer_is_asked_for_twice(
    service: FakeService, status: int, error: Any, kind: type[Exception]
) -> None:
    """Faults and refusals are said at once; what may have been done is not done again."""
    service.answers["POST /v1/policy"] = (status, {"error": error})
    patience = Patience(PATIENT_S, lambda: True, pytest.fail)
    with Api("enforcer", service.url, patience=patience) as api, pytest.raises(kind):
        api.post("/v1/policy", {})
    assert len(service.asked) == 1


def test_without_patience_one_that_starts_is_a_fault(service: FakeService) -> None:
    """The default: what `tollway up` itself and `tollway status` ask is answered at once."""
    service.answers["GET /v1/keys"] = STARTING
    with Api("enforcer", service.url) as api, pytest.raises(TransportError, match="failed with 503"):
        api.get("/v1/keys")
    assert len(service.asked) == 1


# ------------------------------------------------------------------------------------------ refused and cut connections


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_is_tried_again_while_somebody_starts_the_process(method: str) -> None:
    """Nothing was sent, so even a change may be sent again when the process listens."""
    with Listener() as listener:
        said: list[str] = []

        def starts(line: str) -> None:
            said.append(line)
            listener.start()

        with Api("history", listener.url, patience=Patience(PATIENT_S, lambda: True, starts)) as api:
            assert api.call(method, "/x") == {"asked": 1}
    assert said == ["waiting up to 20 s for history: it is being started again"]


def test_a_refused_connection_is_a_fault_where_nobody_starts_the_process() -> None:
    """A deployment that has ended in the meantime, or is only known by address, is not waited for."""
    with Listener() as listener:
        patience = Patience(PATIENT_S, say=pytest.fail)
        with Api("history", listener.url, patience=patience) as api, pytest.raises(TransportError, match="tollway sta"):
            api.get("/x")


def test_waiting_ends_when_the_deployment_does() -> None:
    """Who waits for a process is told soon after its supervisor has ended."""
    alive = threading.Event()
    alive.set()
    with Listener() as listener:
        patience = Patience(PATIENT_S, alive.is_set, lambda _: alive.clear())
        with Api("history", listener.url, patience=patience) as api, pytest.raises(TransportError):
            api.get("/x")
    assert patience.left_s > PATIENT_S / 2


@pytest.mark.parametrize(("method", "asked"), [("GET", 2), ("POST", 1)])
def test_a_question_that_a_kill_cut_off_is_asked_again_a_change_is_not(method: str, asked: int) -> None:
    """Whether a change was made before the process died is not known: a person has to look."""
    with Listener(cut=1) as listener:
        listener.start()
        with Api("enforcer", listener.url, patience=Patience(PATIENT_S, lambda: True)) as api:
            if method == "GET":
                assert api.call(method, "/x") == {"asked": 2}
            else:
                with pytest.raises(TransportError, match="does not answer"):
                    api.call(method, "/x")
    assert listener.asked == asked


def test_an_address_that_is_no_url_is_refused_by_name() -> None:
    """Before anything is asked, with what it should look like."""
    for url in ("localhost:8710", "ftp://host", "http://"):
        with pytest.raises(ConfigError, match=re.escape(f"enforcer URL {url!r}: must be http://HOST:PORT")):
            Api("enforcer", url)


def test_a_service_below_a_path_is_asked_there(service: FakeService) -> None:
    """A base URL may have a path; query and body arrive as they were given."""
    service.answers["POST /below/x"] = (200, {"a": 1})
    with Api("enforcer", f"{service.url}/below/", "t") as api:
        assert api.call("POST", "/x", {"q": "a b&c", "none": None, "n": 1}, {"text": "Ü"}) == {"a": 1}
    assert service.asked == [("POST", "/below/x?q=a+b%26c&n=1", {"text": "Ü"}, "Bearer t")]


def test_one_that_does_not_answer_in_time_is_a_fault() -> None:
    """A process that is frozen is neither waited for nor asked again."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        patience = Patience(PATIENT_S, lambda: True, pytest.fail)
        with Api("history", url, timeout_s=0.1, patience=patience) as api, pytest.raises(TransportError, match="timed"):
            api.get("/x")


def test_the_command_line_imports_no_client_for_a_question() -> None:
    """Most commands ask one thing and end: what they import is what they cost."""
    ask = "import sys, deploy.cli.keys, deploy.cli.policy; print({'httpx', 'aiokafka', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Listener:
    """A port that nobody listens on until `start`; the first `cut` requests end without an answer."""

    def __init__(self, cut: int = 0) -> None:
        self.asked = 0
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                listener.asked += 1
                if listener.asked <= cut:
                    self.close_connection = True
                    return
                data = json.dumps({"asked": listener.asked}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Stay quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()  # bound, not listening: connections are refused, and the port stays ours
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Listen and answer."""
        self._server.server_activate()
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def deployment(service: FakeService, tmp_path: Path) -> Any:
    """Yield the arguments that lead to a running deployment whose enforcer and history are `service`."""
    state = StateDir(tmp_path / "state")
    state.acquire()
    urls = {"enforcer": service.url, "history": service.url}
    state.write("run.json", {"api": service.url, "history": service.url, "token": "t", "urls": urls, "kafka": {
        "bootstrap": f"127.0.0.1:{_closed_port()}"}})  # fmt: skip
    yield ["--state", str(state.root)]
    state.release()


@pytest.mark.parametrize(
    ("path", "arguments", "ready"),
    [
        ("GET /v1/keys", ["keys", "list"], {"keys": []}),
        ("POST /v1/keys", ["keys", "create", "--org", "acme"], {"key": {"id": "key_1"}, "secret": "s"}),
        ("DELETE /v1/keys/key_1", ["keys", "revoke", "key_1"], {}),
        ("GET /v1/policy", ["policy", "show"], {"document": "a: 1\n"}),
        ("GET /v1/policy/history", ["policy", "history"], {"versions": []}),
        ("POST /v1/policy/rollback", ["policy", "rollback", "1"], {"changes": [], "message": "done"}),
        ("GET /v1/decisions/abc", ["decision", "abc"], {"rule": "x"}),
        ("POST /v1/sql", ["sql", "SELECT 1"], {"columns": ["n"], "rows": [[1]]}),
        ("GET /v1/report/spend", ["report", "spend"], {"columns": ["n"], "rows": [[1]], "totals": {}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_command_waits_for_a_process_that_comes_back(
    service: FakeService, deployment: list[str], path: str, arguments: list[str], ready: Any
) -> None:
    """Standard output is what it always is; standard error has the one line, whatever was waited for."""
    service.answers[path] = STARTING
    waiting = threading.Thread(target=_when, args=(lambda: len(service.asked) >= 2, service.answers, path, ready))
    waiting.start()
    done = CliRunner().invoke(cli, [*arguments, *deployment], catch_exceptions=False)
    waiting.join()
    assert done.exit_code == 0
    assert done.stderr.count("waiting up to 30 s for") == 1
    assert "waiting" not in done.stdout


def test_status_answers_at_once_and_names_what_is_not_ready(service: FakeService, deployment: list[str]) -> None:
    """It is what one asks to see why others wait, so it waits for nothing."""
    for path in ("GET /v1/status", "GET /v1/budgets"):
        service.answers[path] = STARTING
    service.answers["GET /readyz"] = (503, {"ready": False})
    began = time.monotonic()
    done = CliRunner().invoke(cli, ["status", "--json", *deployment], catch_exceptions=False)
    assert time.monotonic() - began < PATIENT_S
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert {"enforcer is not ready", "history is not ready"} <= set(found["problems"])
    assert any("failed with 503: not ready: keys" in problem for problem in found["problems"])
    assert [asked[1] for asked in service.asked].count("/v1/status") == 2, "once each"
    assert done.stderr == ""


def _when(condition: Callable[[], bool], answers: dict[str, tuple[int, Any]], path: str, value: Any) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    answers[path] = (200, value)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
