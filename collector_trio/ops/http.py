"""The HTTP port: hypercorn answers, but the sockets are ours, so that leaving the scope closes them all at once.

hypercorn sends under a shield: a client that asks and does not read would hold its task, and with it our stop, for as
long as it likes. So each connection is a stream of ours with a deadline for every send, and whoever leaves `serve`
closes all sockets first and waits for the tasks then: a task whose socket is closed has nothing to wait for. What a
client may take: `IDLE_S` until a request is whole, `SEND_S` to read the answer. Of more than `CLIENTS` connections the
oldest is closed, so that a crowd of clients that hang keeps nobody else from an answer.
"""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, NoReturn

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from collector_trio.errors import CollectorError
from collector_trio.ops.census import HTTP, Owned, Owners

CLIENTS = 64
IDLE_S = 5.0
SEND_S = 5.0
BACKLOG = 128
ACCEPT_AGAIN_S = 0.5


class PortUnavailable(CollectorError):
    """The HTTP port cannot be opened. `listen` is what the config says."""

    def __init__(self, listen: str, problem: str) -> None:
        super().__init__(
            f'[http] listen = "{listen}": {problem}; choose another port (0 takes any free one), or "" for no HTTP'
        )
        self.listen = listen


@attrs.frozen
class Port:
    """The open listeners. `url` is where a client on this machine finds them, "" when HTTP is off."""

    host: str
    listeners: tuple[trio.SocketListener, ...]

    @property
    def url(self) -> str:
        """Return the address with the port that was bound."""
        if not self.listeners:
            return ""
        host, port = self.listeners[0].socket.getsockname()[:2]
        if ip_address(host).is_unspecified:
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def open_port(listen: str, owners: Owners) -> AsyncIterator[Port]:
    """Open the port of `[http] listen`, which is host:port, or "" for none; it is closed when the block is left.

    Raises PortUnavailable. Nobody is answered before `serve` runs; connections wait.
    """
    host, _, number = listen.rpartition(":")
    host = host.strip("[]")
    listeners: Sequence[trio.SocketListener] = ()
    if listen:
        try:
            listeners = await trio.open_tcp_listeners(int(number), host=host, backlog=BACKLOG)
        except OSError as error:
            raise PortUnavailable(listen, _problem(error)) from error
    with owners.owning(HTTP) as owned:
        try:
            for listener in listeners:
                owned.add(listener.socket.fileno())
            yield Port(host, tuple(listeners))
        finally:
            for listener in listeners:
                listener.socket.close()


def _problem(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there, maybe another collector"
    return error.strerror or str(error)


async def serve(port: Port, site: ASGIApp, owners: Owners, log: FilteringBoundLogger) -> NoReturn:
    """Answer on `port` until cancelled; then every socket, the listeners included, is closed before anything is waited
    for.
    """
    clients: dict[trio.SocketStream, None] = {}  # the oldest first
    answer = _Answerer(_guarded(site, port.host, log), clients, log)
    async with trio.open_nursery() as nursery:
        try:
            for listener in port.listeners:
                nursery.start_soon(_accept, listener, answer, owners, nursery, log)
            await trio.sleep_forever()
        finally:
            for listener in port.listeners:
                listener.socket.close()
            for client in clients:
                client.socket.close()
    raise AssertionError("the nursery ends by cancellation only")


async def _accept(
    listener: trio.SocketListener,
    answer: Callable[[trio.SocketStream, Owned], Awaitable[None]],
    owners: Owners,
    nursery: trio.Nursery,
    log: FilteringBoundLogger,
) -> NoReturn:
    failing = False
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:  # no fds left, or what the network did to a client: neither is the recorder's end
            if not failing:
                log.warning("http cannot accept", reason=str(error))
            failing = True
            await trio.sleep(ACCEPT_AGAIN_S)
        else:
            failing = False
            owned = Owned(HTTP, owners)
            owned.add(stream.socket.fileno())  # before anyone else can look
            nursery.start_soon(answer, stream, owned)


def _configured() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = config.errorlog = None
    config.keep_alive_timeout = IDLE_S
    config.include_server_header = False
    return config


@attrs.frozen
class _Answerer:
    """Lets hypercorn speak on one connection, which is closed when that is over, whatever ends it."""

    app: ASGIApp
    clients: dict[trio.SocketStream, None]
    log: FilteringBoundLogger
    config: HypercornConfig = attrs.field(factory=_configured)
    context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None))

    async def __call__(self, stream: trio.SocketStream, owned: Owned) -> None:
        self.clients[stream] = None
        if len(self.clients) > CLIENTS:
            oldest = next(iter(self.clients))
            del self.clients[oldest]
            oldest.socket.close()  # its task notices
        try:
            app = ASGIWrapper(self.app)  # type: ignore[arg-type]  # its own, stricter name for the same thing
            client: Any = _Client(stream)  # it wants an SSLStream, and takes what has a socket
            await _Server(app, self.config, self.context, ConnectionState({}), client)
        except Exception:  # whatever a client sent, it ends this connection and nothing else
            self.log.debug("http connection failed", exc_info=True)
        finally:
            stream.socket.close()
            owned.release()
            self.clients.pop(stream, None)


class _Server(TCPServer):
    """hypercorn's connection, which is over when the client has gone: its own waits `IDLE_S` in CLOSE_WAIT for more."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


@attrs.define(eq=False)
class _Client(trio.abc.HalfCloseableStream):
    """A client's socket as hypercorn sees it: nothing takes longer than `SEND_S`, whatever shields it uses."""

    stream: trio.SocketStream

    @property
    def socket(self) -> trio.socket.SocketType:
        """Return the socket, for its addresses."""
        return self.stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or give the client up."""
        with trio.move_on_after(SEND_S):
            await self.stream.send_all(data)
            return
        self.stream.socket.close()
        raise trio.BrokenResourceError(f"the client read nothing for {SEND_S:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive."""
        return await self.stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Send a FIN."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close at once."""
        self.stream.socket.close()
        await trio.lowlevel.checkpoint()


# Who is asked for


def _guarded(site: ASGIApp, listen_host: str, log: FilteringBoundLogger) -> ASGIApp:
    """Answer only who asks for us by a name of ours, and turn a bug in a page into a 500 that is logged once."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # before it was accepted: 403
            return
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if not is_ours(host, listen_host):
            await _refuse(send, host)
            return
        try:
            await site(scope, receive, send)
        except Exception:
            log.exception("http failed", path=scope.get("path"))
            raise

    return guarded


def is_ours(host: str, listen_host: str) -> bool:
    """Tell whether a Host header (with or without port) names this machine.

    A page of a stranger may make its own name resolve to 127.0.0.1 and then read what we answer (DNS rebinding), but
    it cannot make the browser send another name than its own. An IP address is nobody's name, and neither is one
    without a dot, as containers have. No header at all (HTTP/1.0) is no browser.
    """
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.strip("[]").rstrip(".").lower()
    loopback = listen_host in ("localhost", "") or _is_loopback(listen_host)
    if name in ("", "localhost", listen_host.lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return not loopback and ("." not in name or name == os.uname().nodename.lower())
    return address.is_loopback or not loopback


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _refuse(send: Send, host: str) -> None:
    body = f"{host!r} is no name of this collector; ask for it by its address, or by the host in [http] listen\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body.encode())).encode())]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
