"""The cache of the broker's artifacts, against a repository on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.kafka.artifacts import ROOTS, ArtifactError, Jar, cache_dir, ensure_jars, load_lock

CONTENT = b"what a jar holds"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and does not log."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Repository:
    """A Maven repository in a directory, served over HTTP."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root)))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def publish(self, name: str, content: bytes = CONTENT) -> Jar:
        place = self.root / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        return Jar("org.example", name, "1.0", hashlib.sha256(content).hexdigest())

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """Serve a repository, and point the resolver at it."""
    served = Repository(tmp_path / "repository")
    monkeypatch.setenv("TOLLWAY_MAVEN_URL", served.url + "/")
    yield served
    served.close()


def test_lock_pins_every_jar_by_sha256() -> None:
    """The committed lock holds the roots that the code names, each jar once, with a whole SHA-256."""
    jars = load_lock()
    assert set(ROOTS) <= {jar.coordinate for jar in jars}
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars)
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)


def test_lock_names_no_host() -> None:
    """Where artifacts come from is the resolver's affair: the lock names coordinates and digests only."""
    text = Path(__file__).parents[3].joinpath("deploy", "kafka", "artifacts.lock.json").read_text()
    assert "://" not in text


def test_downloads_once_and_then_needs_no_network(repository: Repository, tmp_path: Path) -> None:
    """The first call downloads and says so; the second answers from the cache while the repository is away."""
    jars = [repository.publish("one"), repository.publish("two", b"another")]
    progress = io.StringIO()
    paths = ensure_jars(jars, tmp_path / "cache", progress)
    assert [path.read_bytes() for path in paths] == [CONTENT, b"another"]
    assert "[ 2/2]" in progress.getvalue()
    repository.close()
    silence = io.StringIO()
    assert ensure_jars(jars, tmp_path / "cache", silence) == paths
    assert silence.getvalue() == ""


def test_refuses_a_download_that_is_not_what_the_lock_says(repository: Repository, tmp_path: Path) -> None:
    """A wrong file is named with both digests, and nothing of it stays in the cache."""
    honest = repository.publish("one")
    expected = "0" * 64
    forged = Jar(honest.group, honest.artifact, honest.version, expected)
    with pytest.raises(ArtifactError, match=rf"SHA-256 is {honest.sha256}, the lock says {expected}"):
        ensure_jars([forged], tmp_path / "cache", io.StringIO())
    assert not list((tmp_path / "cache" / "kafka").glob("*.jar"))
    assert not list((tmp_path / "cache" / "kafka").glob(".download-*"))


def test_replaces_a_cached_jar_whose_content_changed(repository: Repository, tmp_path: Path) -> None:
    """A damaged cache heals itself: the content is checked at every start, not only after the download."""
    jar = repository.publish("one")
    (path,) = ensure_jars([jar], tmp_path, io.StringIO())
    path.write_bytes(b"tampered")
    assert ensure_jars([jar], tmp_path, io.StringIO()) == [path]
    assert path.read_bytes() == CONTENT


def test_says_what_to_do_without_network(repository: Repository, tmp_path: Path) -> None:
    """An artifact that cannot be had is named, with the ways out."""
    jar = repository.publish("one")
    repository.close()
    with pytest.raises(ArtifactError, match=r"cannot download org\.example:one:1\.0.*--broker HOST:PORT"):
        ensure_jars([jar], tmp_path, io.StringIO())


def test_cache_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$TOLLWAY_CACHE` before `$XDG_CACHE_HOME` before the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TOLLWAY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "tollway"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "tollway"
    monkeypatch.setenv("TOLLWAY_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
