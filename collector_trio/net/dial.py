"""From a host name to a byte stream: look-up, TCP, proxy, TLS. Each step has its own deadline, and what is half made is
closed.

The only place in the package that opens a TCP connection; a simulated network takes its place as a `Connector`.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import httpx
import trio

from collector_trio.errors import ConnectionEnded
from collector_trio.net.proxies import open_tunnel, parse_proxy
from collector_trio.net.tls import TlsStream

TCP_S = 10.0  # the look-up and all addresses that are tried
PROXY_S = 10.0
TLS_S = 10.0
LOOKUPS = 8
_LEFT = (7, 8)  # CLOSE (reset) and CLOSE_WAIT, in the kernel's numbers


class Connector(Protocol):
    """Opens a TCP connection, or what a simulation takes for one."""

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        """Return the connected stream, which the caller then owns. Raises OSError."""


async def tcp(host: str, port: int) -> trio.abc.Stream:
    """Open a TCP connection to whichever address of `host` answers first (happy eyeballs, RFC 8305)."""
    stream = await trio.open_tcp_stream(host, port)
    with suppress(OSError):  # it may have been reset already: the first read will say so
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


async def dial(host: str, port: int, *, proxy: str | None, connector: Connector = tcp) -> trio.abc.Stream:
    """Return a connection to `host`, directly or through the proxy whose URL is given; the caller owns it.

    Raises ConnectionEnded: `dns`, `dial`, `proxy`, `timeout`.
    """
    if proxy is None:
        with _step("dial", TCP_S, f"{host}:{port}"):
            return await connector(host, port)
    via = parse_proxy(proxy)
    with _step("proxy", TCP_S, str(via)):
        stream = await connector(via.host, via.port)
    async with closed_on_failure(stream):
        with _step("proxy", PROXY_S, str(via)):
            await open_tunnel(stream, via, host, port)
    return stream


async def start_tls(
    stream: trio.abc.Stream, host: str, context: ssl.SSLContext, *, proxy: str | None = None
) -> trio.abc.Stream:
    """Return `stream` encrypted, once the server has shown a certificate for `host` that `context` trusts; the caller
    owns it. `proxy` is the URL of the one between, who may have promised too much.

    Raises ConnectionEnded, `tls` or `timeout`, and then `stream` is closed.
    """
    async with closed_on_failure(stream):
        with _step("tls", TLS_S, f"TLS with {host}" + (f" through {parse_proxy(proxy)}" if proxy else "")):
            secured = TlsStream(stream, context, host)
            await secured.do_handshake()
    return secured


def make_ssl_context() -> ssl.SSLContext:
    """Make the context that verifies servers: by certifi's authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR."""
    return httpx.create_ssl_context()


@asynccontextmanager
async def closed_on_failure(stream: trio.abc.Stream) -> AsyncIterator[None]:
    """Close `stream` at once, without a word to the peer, unless the block succeeds."""
    try:
        yield
    except BaseException:
        await close_now(stream)
        raise


async def close_now(stream: trio.abc.Stream) -> None:
    """Close `stream` without waiting for anything, even when cancelled."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


def transport_socket(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket beneath `stream`; None for a simulated connection."""
    while isinstance(stream, TlsStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def peer_has_left(stream: trio.abc.Stream) -> bool:
    """Tell from the kernel's state of the connection, without reading, that the peer has closed or reset it."""
    sock = transport_socket(stream)
    if sock is None or sock.fileno() < 0:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _LEFT


def describe(error: BaseException) -> str:
    """Say what happened to a socket in the system's or TLS's words, which Trio's errors only carry as their cause."""
    while not isinstance(error, OSError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error.__cause__, ExceptionGroup):  # of all addresses; Trio repeats each in its text
        return ", ".join(dict.fromkeys(_words(cause) for cause in error.__cause__.exceptions))
    return str(error) or type(error).__name__


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


@contextmanager
def _step(reason: str, seconds: float, where: str) -> Iterator[None]:
    """Give the block its deadline, and map whatever goes wrong in it."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise ConnectionEnded("timeout", f"{where}: no connection within {seconds:g} s") from None
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no host name at all, as with a label of 64 letters
        raise ConnectionEnded("dns" if reason == "dial" else reason, f"{where}: {error}") from error
    except (OSError, ssl.CertificateError, trio.BrokenResourceError) as error:
        raise ConnectionEnded(reason, f"{where}: {describe(error)}") from error


class Resolver(trio.abc.HostnameResolver):
    """Looks names up in threads that have their own limit.

    A look-up that hangs is abandoned by its caller, but its thread stays until the system gives up; in Trio's default
    limiter such threads would hold the tokens that the journal's `fdatasync` needs.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(LOOKUPS)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  the name is Trio's
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Look up as `socket.getaddrinfo` does; the wait for a thread is part of the caller's deadline."""
        return await trio.to_thread.run_sync(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True, limiter=self._limiter
        )

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Look up as `socket.getnameinfo` does."""
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=self._limiter
        )


def install_resolver() -> None:
    """Have all look-ups of this `trio.run` made by a `Resolver`."""
    trio.socket.set_custom_hostname_resolver(Resolver())
