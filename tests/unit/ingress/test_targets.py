"""Where requests go, and with which credential."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingress.adapters.targets import TargetBook
from schemas.policy import Provider

ENVIRONMENT = {"OPENAI_API_KEY": " sk-secret\n", "BROKEN": "a\nb", "EMPTY": " "}


def _book() -> TargetBook:
    return TargetBook("http://127.0.0.1:8701/v1", ENVIRONMENT.get)


def _provider(**fields: object) -> Provider:
    return Provider.model_validate({"protocol": "openai", "base_url": "https://api.example.com/v1/", **fields})


def test_url_becomes_origin_host_and_path() -> None:
    """Scheme, port, path and time limits are taken from the provider's entry."""
    timeouts = {"connect": "1s", "first_byte": "2s", "idle": "3s", "total": "4s"}
    target = _book().find("p", _provider(timeouts=timeouts, max_connections=9))
    origin = target.origin
    assert (origin.host, origin.port, origin.tls, origin.max_connections) == ("api.example.com", 443, True, 9)
    assert (origin.connect_s, origin.first_byte_s, origin.idle_s, origin.total_s) == (1, 2, 3, 4)
    assert target.base_path == b"/v1"
    assert target.lines == b"host: api.example.com\r\naccept-encoding: identity\r\n"


def test_other_ports_are_in_the_host() -> None:
    """An explicit port is part of what the provider is called by."""
    target = _book().find("p", _provider(base_url="http://10.0.0.1:8000"))
    assert (target.origin.port, target.origin.tls, target.base_path) == (8000, False, b"")
    assert b"host: 10.0.0.1:8000\r\n" in target.lines


def test_simulated_stands_for_the_built_in_provider() -> None:
    """`simulated` is an URL that the settings know."""
    target = _book().find("p", _provider(base_url="simulated"))
    assert (target.origin.host, target.origin.port, target.base_path) == ("127.0.0.1", 8701, b"/v1")


@pytest.mark.parametrize(
    ("protocol", "line"),
    [("openai", b"authorization: Bearer sk-secret\r\n"), ("anthropic", b"x-api-key: sk-secret\r\n")],
)
def test_credential_is_sent_as_the_protocol_wants_it(protocol: str, line: bytes) -> None:
    """Each protocol has its header; space around the value is not part of it."""
    assert line in _book().find("p", _provider(protocol=protocol, credential="env:OPENAI_API_KEY")).lines


def test_credential_may_be_in_a_file(tmp_path: Path) -> None:
    """A mounted secret is read from its path."""
    path = tmp_path / "key"
    path.write_text("sk-file\n")
    assert b"Bearer sk-file\r\n" in _book().find("p", _provider(credential=f"file:{path}")).lines


@pytest.mark.parametrize("reference", ["env:NO_SUCH", "env:EMPTY", "env:BROKEN", "file:/no/such/file"])
def test_missing_credential_is_a_problem_that_names_the_reference(reference: str) -> None:
    """What cannot be read, or would break a header, is told by its reference and never by its value."""
    target = _book().find("prod", _provider(credential=reference))
    assert reference in target.problem
    assert "'prod'" in target.problem
    assert b"authorization" not in target.lines


def test_target_is_the_same_until_something_changes() -> None:
    """Equal entries share connections over policy versions."""
    book = _book()
    first = book.find("p", _provider())
    assert book.find("p", _provider()) is first
    assert book.find("p", _provider(max_connections=5)) is not first


def test_credential_is_read_again_with_every_policy() -> None:
    """A credential that comes later, or is rotated, is taken up; connections stay where they are."""
    environment: dict[str, str] = {}
    book = TargetBook("http://x/v1", environment.get)
    provider = _provider(credential="env:LATER")
    assert book.find("q", provider).problem
    environment["LATER"] = "sk-1"
    first = book.find("q", provider)
    environment["LATER"] = "sk-2"
    second = book.find("q", provider)
    assert (b"sk-1" in first.lines, b"sk-2" in second.lines, first.problem, second.problem) == (True, True, "", "")
    assert first.origin == second.origin
