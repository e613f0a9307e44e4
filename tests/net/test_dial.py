import socket
import ssl
import threading
from typing import Any

import pytest
import trio
import trio.testing

from collector_trio.errors import ConnectionEnded
from collector_trio.net.dial import (
    LOOKUPS,
    Resolver,
    dial,
    install_resolver,
    make_ssl_context,
    start_tls,
    tcp,
    transport_socket,
)

from .conftest import Certificates
from .peers import Dialled, Peer, serving, silence


async def greeting(peer: Peer) -> None:
    await peer.send(b"hello")


async def secured(port: int, host: str, context: ssl.SSLContext, dialled: Dialled) -> bytes:
    stream = await start_tls(await dial("127.0.0.1", port, proxy=None, connector=dialled), host, context)
    async with stream:
        return bytes(await stream.receive_some())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_that_proves_its_name_is_trusted(
    host: str, certificates: Certificates, dialled: Dialled
) -> None:
    async with serving(greeting, certificates.server) as port:
        assert await secured(port, host, certificates.client, dialled) == b"hello"
        assert not dialled.still_open


@pytest.mark.parametrize(
    ("server", "host", "how"),
    [
        ("stranger", "localhost", "tls: TLS with localhost: .*unable to get local issuer certificate"),
        ("other_host", "localhost", "tls: TLS with localhost: .*Hostname mismatch"),
        ("server", "exchange.example", "tls: TLS with exchange.example: .*Hostname mismatch"),
        (None, "localhost", "tls: TLS with localhost: .*WRONG_VERSION_NUMBER"),
    ],
)
async def test_a_server_that_does_not_prove_its_name_is_refused_and_its_socket_closed(
    server: str | None, host: str, how: str, certificates: Certificates, dialled: Dialled
) -> None:
    async with serving(greeting, getattr(certificates, server) if server else None) as port:
        with pytest.raises(ConnectionEnded, match=how):
            await secured(port, host, certificates.client, dialled)
        assert not dialled.still_open


async def test_a_server_that_closes_during_tls_is_said_to(certificates: Certificates, dialled: Dialled) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive(1)

    async with serving(script) as port:
        with pytest.raises(ConnectionEnded, match="tls: TLS with localhost: "):
            await secured(port, "localhost", certificates.client, dialled)
        assert not dialled.still_open


async def test_a_port_that_nobody_listens_on_is_said_to_refuse() -> None:
    with pytest.raises(ConnectionEnded, match=r"^dial: 127\.0\.0\.1:1: Connection refused$"):
        await dial("127.0.0.1", 1, proxy=None)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
async def test_a_name_that_cannot_be_looked_up_is_said_to_be_the_reason(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object, **kwargs: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectionEnded, match=f"dns: {host}:443: ") as ended:
        await dial(host, 443, proxy=None)
    assert ended.value.reason == "dns"


async def test_a_connection_is_kept_alive_and_does_not_delay_small_messages() -> None:
    async with serving(silence) as port, await tcp("127.0.0.1", port) as stream:
        sock = transport_socket(stream)
        assert sock is not None
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_look_ups_that_hang_are_abandoned_and_hold_no_token_of_trios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    real = socket.getaddrinfo

    def hanging(host: str | bytes, *args: Any) -> Any:
        if isinstance(host, str):  # Trio first asks whether it is a number
            return real(host, *args)
        if host == b"hangs.example":
            may_end.wait(10)
        return real("127.0.0.1", *args)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    install_resolver()
    try:
        for _ in range(LOOKUPS):
            with trio.move_on_after(0.01):
                await trio.socket.getaddrinfo("hangs.example", 443)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        with trio.move_on_after(0.01) as scope:
            await trio.socket.getaddrinfo("other.example", 443)
        assert scope.cancelled_caught  # its own tokens are all taken
    finally:
        may_end.set()
    assert await trio.socket.getaddrinfo("other.example", 443)


async def test_addresses_are_looked_up_backwards_by_the_same_resolver() -> None:
    assert await Resolver().getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (
        "127.0.0.1",
        "80",
    )


def test_the_context_verifies_and_honours_ssl_cert_file(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    context = make_ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/missing.pem")
    with pytest.raises(FileNotFoundError):
        make_ssl_context()
