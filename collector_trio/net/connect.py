"""The one door to WebSockets: a connection is an `async with`; after it the socket is closed and its tasks are gone.

    connect ── owns ──▶ socket (TCP, TLS)
       └─ nursery
          ├─ trio-websocket's reader ── reads ──▶ Tap ── batches ──▶ sink
          ├─ drain: binary messages, which trio-websocket delivers ──▶ sink
          └─ the block

The order in which it ends never varies: the block ends (or is cancelled because a task of the nursery has raised how
the connection ended) → the tap lets nothing through → the nursery is cancelled, so nobody else uses the stream → a
close frame is sent if the peer can still use one, which gets at most `CLOSE_S` → the socket is closed without waiting
for anything.

trio-websocket's own `aclose` is not used: 0.12.2 waits for the peer without bound there, and closes nothing when the
peer closed first. We do not wait for the peer's answering close frame either: it says nothing we need, and a dead peer
would cost each end a second.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import attrs
import h11
import trio
import trio_websocket
from wsproto.frame_protocol import FrameProtocol
from wsproto.utilities import ProtocolError, RemoteProtocolError

from collector_trio import __version__
from collector_trio.errors import ConnectionEnded
from collector_trio.net.dial import Connector, close_now, dial, start_tls, tcp, transport_socket
from collector_trio.net.frames import MAX_MESSAGE_BYTES
from collector_trio.net.tap import SEND_S, Sink, Tap

HANDSHAKE_S = 10.0
CLOSE_S = 1.0
QUEUE = 64  # binary messages on their way to the sink; when it is full trio-websocket stops reading

_LIBRARY_ERRORS = (trio_websocket.HandshakeError, trio_websocket.ConnectionClosed, ProtocolError, h11.ProtocolError)


@attrs.frozen
class Connection:
    """An open WebSocket connection, for use inside the block that opened it."""

    peer: str
    """What the socket is connected to, such as `1.2.3.4:443`: the exchange, or the proxy."""
    fd: int | None
    """The socket's file descriptor; None for a simulated connection."""
    _ws: trio_websocket.WebSocketConnection
    _tap: Tap

    async def send(self, text: str) -> None:
        """Send one text message within `SEND_S` seconds. Raises ConnectionEnded.

        A caller that is cancelled while sending may have sent half of it: nothing more can be sent on this connection
        then.
        """
        try:
            with trio.fail_after(SEND_S):
                await self._ws.send_message(text)
        except trio.TooSlowError:
            raise self._tap.ended("timeout", f"could not send for {SEND_S:g} s") from None
        except (trio_websocket.ConnectionClosed, ProtocolError) as error:
            raise _judged(self._ws, self._tap) from error

    @property
    def bytes_received(self) -> int:
        """Count what came since TCP or TLS was up, the handshake's answer included."""
        return self._tap.bytes_received


@attrs.frozen
class _Address:
    secure: bool
    host: str
    port: int
    host_header: str
    resource: str


@asynccontextmanager
async def connect(
    url: str,
    sink: Sink,
    *,
    clock: Callable[[], int],
    ssl_context: ssl.SSLContext,
    proxy: str | None,
    connector: Connector = tcp,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> AsyncIterator[Connection]:
    """Open a WebSocket connection to `url` (ws or wss) that lives exactly as long as the block.

    Everything received goes to `sink` in batches, with `clock()` in nanoseconds as the receive time: from when the
    block is entered, and not any more once it is left. Pings are answered. However the block ends, the socket is closed
    within `CLOSE_S` seconds.

    Raises ConnectionEnded when there is no connection (`dns`, `dial`, `proxy`, `tls`, `refused`, `timeout`) or no more
    (`closed`, `eof`, `reset`, `protocol`, `timeout`): bare, never in a group. What the block raises comes out as it is;
    only if something else was raised at the same time do both come out in a group. When a cancellation and the peer's
    ending meet, the cancellation is what comes out.
    """
    address = _parse(url)
    stream = await dial(address.host, address.port, proxy=proxy, connector=connector)
    if address.secure:
        stream = await start_tls(stream, address.host, ssl_context, proxy=proxy)
    tap = Tap(stream, sink, clock, max_message_bytes)
    async with _owning(stream, tap):
        problem: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                ws = await _shake_hands(nursery, tap, address, max_message_bytes)
                nursery.start_soon(_drain, ws, tap)
                connection = _describe(stream, address, ws, tap)
                tap.open()
                try:
                    yield connection
                finally:
                    tap.leaving()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            problem = _unwrapped(group, tap)
        if problem is not None:
            raise problem


@asynccontextmanager
async def _owning(stream: trio.abc.Stream, tap: Tap) -> AsyncIterator[None]:
    """Whatever ends the block, `stream` is closed within `CLOSE_S` seconds. Nobody else may use it by then."""
    try:
        yield
    finally:
        with (
            trio.move_on_after(CLOSE_S, shield=True),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError),
        ):
            if tap.may_say_goodbye:
                code = 1002 if tap.verdict else 1000
                await stream.send_all(bytes(FrameProtocol(client=True, extensions=[]).close(code)))
        await close_now(stream)


async def _shake_hands(
    nursery: trio.Nursery, tap: Tap, address: _Address, max_message_bytes: int
) -> trio_websocket.WebSocketConnection:
    """Upgrade the connection, and leave trio-websocket's reader running in `nursery`, which ends by what it raises."""
    try:
        with trio.fail_after(HANDSHAKE_S):
            return await trio_websocket.wrap_client_stream(
                nursery,
                tap,  # type: ignore[arg-type]  # any stream will do, as its documentation says
                address.host_header,
                address.resource,
                extra_headers=[(b"User-Agent", f"collector-trio/{__version__}".encode())],
                message_queue_size=QUEUE,
                max_message_size=max_message_bytes,
                receive_buffer_size=None,
            )
    except trio.TooSlowError:
        raise tap.ended("timeout", f"no answer to the WebSocket handshake within {HANDSHAKE_S:g} s") from None


async def _drain(ws: trio_websocket.WebSocketConnection, tap: Tap) -> None:
    """Pass on the messages that trio-websocket delivers: binary ones. Also notice when its reader just stops.

    When the reader is stopped by an exception, that is still on its way: raising here, too, would cancel the reader at
    its last checkpoint, and Cancelled would take the exception's place.
    """
    while True:
        try:
            message = await ws.get_message()
        except trio_websocket.ConnectionClosed as error:
            if tap.raised:
                return
            raise _judged(ws, tap) from error
        await tap.offer([message.encode() if isinstance(message, str) else message])


def _judged(ws: trio_websocket.WebSocketConnection, tap: Tap) -> ConnectionEnded:
    """Return the verdict where trio-websocket says that the connection is closed."""
    closed = ws.closed
    return tap.ended(
        "protocol", f"{closed.code} {closed.reason or closed.name}" if closed else "trio-websocket gave up"
    )


def _unwrapped(group: BaseExceptionGroup[BaseException], tap: Tap) -> BaseException:
    """Return what leaves the door for what left the nursery."""
    _, others = group.split((ConnectionEnded, *_LIBRARY_ERRORS))
    if others is None:
        first = _first_leaf(group)
        if isinstance(first, ConnectionEnded):
            return first
        ended = tap.ended("protocol", str(_remote_fault(first)))
        ended.__cause__ = first
        return ended
    cancelled, faults = others.split(trio.Cancelled)
    if faults is None and cancelled is not None:
        return cancelled
    return group.exceptions[0] if len(group.exceptions) == 1 else group


def _remote_fault(error: BaseException) -> BaseException:
    """Return what the peer did wrong: trio-websocket stumbles a second time when it wants to tell the server."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, RemoteProtocolError):
        found = found.__context__
    return found or error


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _describe(
    stream: trio.abc.Stream, address: _Address, ws: trio_websocket.WebSocketConnection, tap: Tap
) -> Connection:
    sock = transport_socket(stream)
    peer = f"{address.host}:{address.port}"
    if sock is None:
        return Connection(peer, None, ws, tap)
    with suppress(OSError):  # reset already
        host, port, *_ = sock.getpeername()
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Connection(peer, sock.fileno(), ws, tap)


def _parse(url: str) -> _Address:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url} is not a WebSocket URL: ws://host/path or wss://host/path")
    secure = parts.scheme == "wss"
    default = 443 if secure else 80
    port = parts.port or default
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Address(secure, parts.hostname, port, name if port == default else f"{name}:{port}", resource)
