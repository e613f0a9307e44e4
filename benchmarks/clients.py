"""Who receives: one client in a process of its own, which prints what a message cost it in CPU microseconds.

    python benchmarks/clients.py NAME URL AUTHORITY COUNT

The first fifth of the messages is not counted: code, loop and sockets get warm with it. Each client takes the texts in
the cheapest form it has, offers no compression, and runs on the loop that suits it best (uvloop, where there is
asyncio).
`recorder` is ours with the session behind it: it appends to a journal, decodes, and follows ids.
"""

import asyncio
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

from collector_trio.net.frames import FrameSplitter


class Enough(Exception):
    """All messages are here."""


@attrs.define
class Count:
    """Counts messages and looks at the CPU clock at the first and at the last that count."""

    wanted: int
    seen: int = 0
    _first: int = 0
    _start: float = 0.0
    _end: float = 0.0

    def add(self, messages: int = 1) -> bool:
        """Count; tell whether that is all."""
        self.seen += messages
        if not self._first and self.seen >= self.wanted / 5:
            self._first, self._start = self.seen, time.process_time()
        if self.seen >= self.wanted:
            self._end = time.process_time()
            return True
        return False

    @property
    def us(self) -> float:
        """CPU microseconds per message."""
        return (self._end - self._start) / (self.seen - self._first) * 1e6


UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@attrs.define
class _Bare:
    """Cuts frames out of what a socket brings, and nothing else."""

    count: Count
    _splitter: FrameSplitter = attrs.field(factory=FrameSplitter)
    _head: bytes | None = b""

    def feed(self, data: bytes) -> bool:
        if self._head is not None:
            self._head += data
            _, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return False
            self._head = None
        found = len(self._splitter.feed(data)[0])
        return found > 0 and self.count.add(found)


def _blocking(url: str, tls: ssl.SSLContext, count: Count) -> None:
    at, bare = urlsplit(url), _Bare(count)
    with socket.create_connection((at.hostname, at.port)) as sock:
        sock.sendall(UPGRADE.format(path=at.path).encode())
        while not bare.feed(sock.recv(65_536)):
            pass


def _bare_trio(url: str, tls: ssl.SSLContext, count: Count) -> None:
    at, bare = urlsplit(url), _Bare(count)

    async def receive() -> None:
        async with await trio.open_tcp_stream(str(at.hostname), at.port or 0) as stream:
            await stream.send_all(UPGRADE.format(path=at.path).encode())
            while not bare.feed(bytes(await stream.receive_some(65_536))):
                pass

    trio.run(receive)


def _trio_websocket(url: str, tls: ssl.SSLContext, count: Count) -> None:
    from trio_websocket import open_websocket_url

    async def receive() -> None:
        async with open_websocket_url(url, ssl_context=tls if url.startswith("wss") else None) as ws:
            while True:
                await ws.get_message()
                if count.add():
                    raise Enough  # not by its own way out, which waits for the peer

    try:
        trio.run(receive)
    except* Enough:
        pass


def _ours(url: str, tls: ssl.SSLContext, count: Count) -> None:
    trio.run(_connect, url, tls, _Counting(count))


def _recorder(url: str, tls: ssl.SSLContext, count: Count) -> None:
    from recorder import recording

    with recording() as session:
        trio.run(_connect, url, tls, _Counting(count, session.on_batch))


@attrs.define
class _Counting:
    count: Count
    accept: Callable[[list[bytes], int], bool] = lambda frames, ns: True
    done: trio.Event = attrs.field(factory=trio.Event)

    def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
        assert self.accept(frames, received_ns)
        if self.count.add(len(frames)):
            self.done.set()
        return True

    async def room(self) -> None:
        raise AssertionError("nothing is refused")


async def _connect(url: str, tls: ssl.SSLContext, sink: _Counting) -> None:
    from collector_trio.clock import Clock
    from collector_trio.net.connect import connect

    async with connect(url, sink, clock=Clock().now, ssl_context=tls, proxy=None):
        await sink.done.wait()


def _run(work: Coroutine[Any, Any, None]) -> None:
    if find_spec("uvloop"):
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


def _websockets(url: str, tls: ssl.SSLContext, count: Count) -> None:
    from websockets.asyncio.client import connect

    async def receive() -> None:
        secured = tls if url.startswith("wss") else None
        async with connect(url, ssl=secured, compression=None, max_size=None) as ws:
            while not count.add():
                await ws.recv(decode=False)

    _run(receive())


def _aiohttp(url: str, tls: ssl.SSLContext, count: Count) -> None:
    from aiohttp import ClientSession

    async def receive() -> None:
        async with ClientSession() as session, session.ws_connect(url, ssl=tls, max_msg_size=0) as ws:
            while not count.add():
                await ws.receive()

    _run(receive())


def _picows(url: str, tls: ssl.SSLContext, count: Count) -> None:
    from picows import WSFrame, WSListener, WSTransport, ws_connect

    class Listener(WSListener):  # type: ignore[misc, unused-ignore]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            frame.get_payload_as_bytes()
            if count.add():
                transport.disconnect()

    async def receive() -> None:
        transport, _ = await ws_connect(Listener, url, ssl_context=tls if url.startswith("wss") else None)
        await transport.wait_disconnected()

    _run(receive())


CLIENTS: dict[str, tuple[str, Callable[[str, ssl.SSLContext, Count], None]]] = {
    "trio-websocket": ("trio_websocket", _trio_websocket),
    "websockets": ("websockets", _websockets),
    "aiohttp": ("aiohttp", _aiohttp),
    "picows": ("picows", _picows),
    "ours": ("trio", _ours),
    "recorder": ("trio", _recorder),
    "a blocking socket": ("socket", _blocking),
    "a bare Trio stream": ("trio", _bare_trio),
}
"""The module without which it cannot run, and what runs it."""


def main(name: str, url: str, authority: str, wanted: str) -> None:
    """Receive, and print what a message cost."""
    count = Count(int(wanted))
    CLIENTS[name][1](url, ssl.create_default_context(cafile=authority), count)
    print(count.us)  # noqa: T201  for the parent


if __name__ == "__main__":
    main(*sys.argv[1:])
