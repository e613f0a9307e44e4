"""A WebSocket client that hides nothing: it shows every frame, and answers no ping unless told to."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import h11
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection

from collector_trio.sim import CALM, Scenario, SimServer, serve

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
# One symbol, fast enough that a test need not wait.
FAST = Scenario(symbols=("BTC-USDT",), quiet_symbols=(), trades_per_s=300, book_changes_per_s=10)


@attrs.frozen
class Frame:
    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big")


@attrs.define(eq=False)
class Wire:
    """The client's end of one connection."""

    stream: trio.abc.Stream
    _bytes: bytearray = attrs.Factory(bytearray)

    async def shake_hands(self, target: str) -> int:
        """Ask for a WebSocket; returns the status that was answered."""
        await self.stream.send_all(
            f"GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._bytes:
            await self._more()
        head, _, rest = bytes(self._bytes).partition(b"\r\n\r\n")
        self._bytes[:] = rest
        return int(head.split()[1])

    async def send(self, message: Any, opcode: int = TEXT) -> None:
        """Send one masked frame; what is no text is sent as JSON."""
        payload = message if isinstance(message, bytes) else message.encode() if isinstance(message, str) else None
        if payload is None:
            payload = json.dumps(message).encode()
        length = len(payload)
        if length < 126:
            size = bytes([0x80 | length])
        else:
            size = b"\xfe" + length.to_bytes(2, "big") if length < 65536 else b"\xff" + length.to_bytes(8, "big")
        await self.stream.send_all(bytes([0x80 | opcode]) + size + b"\0\0\0\0" + payload)

    async def frame(self) -> Frame:
        """Return the next frame; raises `EndOfChannel` at FIN and `BrokenResourceError` at RST."""
        await self._need(2)
        length, start = self._bytes[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            await self._need(start)
            length = int.from_bytes(self._bytes[2:start], "big")
        await self._need(start + length)
        assert self._bytes[0] & 0x80, "the simulator sends whole frames"
        frame = Frame(self._bytes[0] & 0x0F, bytes(self._bytes[start : start + length]))
        del self._bytes[: start + length]
        return frame

    async def message(self) -> Any:
        """Return the next text, decoded; pings on the way are passed over, a close frame is an error."""
        while True:
            frame = await self.frame()
            assert frame.opcode != CLOSE, frame
            if frame.opcode == TEXT:
                return json.loads(frame.payload)

    async def ask(self, message: Any) -> Any:
        """Send a request and return the next text that is no data."""
        await self.send(message)
        while True:
            answer = await self.message()
            if "stream" not in answer and "data" not in answer:
                return answer

    async def close_frame(self) -> Frame:
        """Read up to the server's close frame."""
        while (frame := await self.frame()).opcode != CLOSE:
            pass
        return frame

    async def to_the_end(self) -> list[Frame]:
        """Read everything up to FIN."""
        frames = []
        try:
            while True:
                frames.append(await self.frame())
        except trio.EndOfChannel:
            assert not self._bytes, "FIN in the midst of a frame"
            return frames

    async def _need(self, count: int) -> None:
        while len(self._bytes) < count:
            await self._more()

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise trio.EndOfChannel
        self._bytes += data


@asynccontextmanager
async def serving(scenario: Scenario = CALM, **options: Any) -> AsyncIterator[SimServer]:
    """Serve on loopback."""
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, scenario, **options))
        with trio.fail_after(20):
            yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(server: SimServer, target: str) -> AsyncIterator[Wire]:
    """Open a WebSocket to a server on loopback."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    try:
        wire = Wire(stream)
        assert await wire.shake_hands(target) == 101
        yield wire
    finally:
        await trio.aclose_forcefully(stream)


@attrs.define(eq=False)
class Timeless:
    """A server without sockets, for tests of time."""

    server: SimServer
    nursery: trio.Nursery

    async def connect(self, target: str) -> Wire:
        """Open a WebSocket."""
        wire = await self.connect_or_refused(target)
        assert wire is not None
        return wire

    async def connect_or_refused(self, target: str) -> Wire | None:
        """Try to open a WebSocket."""
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.server.serve_connection, theirs)
        wire = Wire(ours)
        return wire if await wire.shake_hands(target) == 101 else None


@asynccontextmanager
async def timeless(scenario: Scenario = CALM, **options: Any) -> AsyncIterator[Timeless]:
    """Serve memory streams; the exchange's clock is Trio's."""
    server = SimServer(scenario, now_ns=lambda: 1_700_000_000_000_000_000 + int(trio.current_time() * 1e9), **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        with trio.fail_after(100_000):
            yield Timeless(server, nursery)
        nursery.cancel_scope.cancel()


async def get(server: SimServer, target: str, headers: str = "") -> tuple[int, Any, dict[str, str]]:
    """Make one REST request: status, decoded body, headers."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        await ours.send_all(f"GET {target} HTTP/1.1\r\nHost: sim\r\n{headers}\r\n".encode())
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target=target, headers=[("Host", "sim")]))
        http.send(h11.EndOfMessage())
        body, status, answer_headers = b"", 0, {}
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await ours.receive_some()))
            elif isinstance(event, h11.Response):
                status = event.status_code
                answer_headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
        await ours.aclose()
    return status, json.loads(body), answer_headers


async def closed_with(websocket: WebSocketConnection) -> int:
    """Read a library's WebSocket to its end; returns the close code it reports."""
    while websocket.closed is None:
        with suppress(ConnectionClosed):
            await websocket.get_message()
    return int(websocket.closed.code)


def subscribe(*names: str, method: str = "SUBSCRIBE", number: int = 1) -> dict[str, Any]:
    """Build a Binance request."""
    return {"method": method, "params": list(names), "id": number}


def okx(channel: str, *native_symbols: str, op: str = "subscribe", number: str = "1") -> dict[str, Any]:
    """Build an OKX request."""
    return {"id": number, "op": op, "args": [{"channel": channel, "instId": native} for native in native_symbols]}
