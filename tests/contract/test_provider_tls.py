"""The provider port over TLS: certificates are checked, and everything else is as without it."""

import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ingress.adapters.egress_httpx import HttpxEgress
from ingress.adapters.provider_pool import Origin, ProviderEgress, ProviderPool
from tests.contract.provider_lab import DEADLINE_S, OK, REQUEST, Recorder

both = pytest.mark.parametrize("egress", ["pool", "httpx"])
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
EGRESSES: dict[str, Callable[[ssl.SSLContext], ProviderEgress]] = {
    "pool": lambda context: ProviderPool(ssl_context=context, tick_s=0.005),
    "httpx": lambda context: HttpxEgress(ssl_context=context),
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `provider.test`, its key in the same file, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert, joined = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=provider.test"
    )
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:provider.test", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    joined.write_bytes(key.read_bytes() + cert.read_bytes())
    return joined


Scenario = Callable[[ProviderEgress, Origin, list[bytes]], Awaitable[None]]


def play(egress: str, certificate: Path, answers: list[bytes], scenario: Scenario, **origin: Any) -> None:
    """Serve the answers in turn over TLS, one connection after the other; an answer ending in CLOSE closes it."""
    trusting = ssl.create_default_context(cafile=str(certificate))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answers:
            try:
                requests.append(await reader.readexactly(len(REQUEST)))
            except asyncio.IncompleteReadError:
                break
            answer = answers.pop(0)
            writer.write(answer.removesuffix(b"CLOSE"))
            if answer.endswith(b"CLOSE"):
                break
        writer.close()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # a failed handshake is the server's fault
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        made = EGRESSES[egress](trusting)
        values = {"host": "127.0.0.1", "port": port, "tls": True, "server_hostname": "provider.test", **origin}
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario(made, Origin(**values), requests)
        finally:
            server.close()
            async with asyncio.timeout(DEADLINE_S):
                await made.close()
                await server.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def exchange(egress: ProviderEgress, origin: Origin) -> Recorder:
    """Send one request and wait for the outcome."""
    got = Recorder()
    got.attempt = egress.send(origin, REQUEST, got)
    got.sending = False
    return await got.over()


@both
def test_exchanges_over_tls_share_a_connection(egress: str, certificate: Path) -> None:
    """Sized and chunked responses arrive over one TLS connection."""

    async def scenario(made: ProviderEgress, origin: Origin, requests: list[bytes]) -> None:
        assert (await exchange(made, origin)).body == b"ok"
        assert (await exchange(made, origin)).body == b"hello"
        assert len(requests) == 2
        if isinstance(made, ProviderPool):
            assert made.opened_total == 1
            assert requests == [REQUEST, REQUEST]

    play(egress, certificate, [OK, CHUNKED], scenario)


@both
def test_ends_of_stream_over_tls(egress: str, certificate: Path) -> None:
    """Close-delimited and truncated bodies are told apart over TLS too."""

    async def scenario(made: ProviderEgress, origin: Origin, requests: list[bytes]) -> None:
        assert (await exchange(made, origin)).body == b"until the end"
        assert (await exchange(made, origin)).fault() == ("truncated", True)
        assert (await exchange(made, origin)).fault() == ("reset", True)

    answers = [b"HTTP/1.1 200 OK\r\n\r\nuntil the endCLOSE", CHUNKED[:-5] + b"CLOSE", b"CLOSE"]
    play(egress, certificate, answers, scenario)


def test_connection_closed_while_idle_is_replaced_over_tls(certificate: Path) -> None:
    """A provider that closes after its answer costs the next request nothing (the pool only: see `egress_httpx`)."""

    async def scenario(made: ProviderEgress, origin: Origin, requests: list[bytes]) -> None:
        for _ in range(5):
            assert (await exchange(made, origin)).body == b"ok"

    play("pool", certificate, [OK + b"CLOSE"] * 5, scenario)


@both
@pytest.mark.parametrize("name", [None, "other.test"], ids=["address", "other name"])
def test_certificate_of_another_name_is_refused(egress: str, certificate: Path, name: str | None) -> None:
    """A certificate for another name is a `connect` fault; no byte of the request was sent."""

    async def scenario(made: ProviderEgress, origin: Origin, requests: list[bytes]) -> None:
        assert (await exchange(made, origin)).fault() == ("connect", False)
        assert requests == []

    play(egress, certificate, [OK], scenario, server_hostname=name)


def test_unknown_authority_is_refused_by_default(certificate: Path) -> None:
    """Without a context of one's own the system's trust store decides."""

    async def scenario(made: ProviderEgress, origin: Origin, requests: list[bytes]) -> None:
        pool = ProviderPool()
        assert (await exchange(pool, origin)).fault() == ("connect", False)
        assert requests == []
        await pool.close()

    play("pool", certificate, [OK], scenario)
