"""Scripted servers on the loopback interface, and what the tests look for after a connection is over."""

import functools
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import trio
from wsproto.utilities import generate_accept_token

from collector_trio.net.dial import tcp, transport_socket


@attrs.define
class Peer:
    """The server's end of one connection."""

    stream: trio.abc.Stream
    request: bytes = b""
    received: bytearray = attrs.Factory(bytearray)  # behind the request

    async def read_head(self) -> bytes:
        """Read a request, up to its empty line."""
        while b"\r\n\r\n" not in self.request:
            data = await self.stream.receive_some()
            if not data:
                raise trio.EndOfChannel
            self.request += data
        return self.request

    def upgrade(self) -> bytes:
        """Return the right answer to the handshake that was read."""
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", self.request)
        assert key
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + generate_accept_token(key[1])
            + b"\r\n\r\n"
        )

    async def accept(self, behind: bytes = b"") -> None:
        """Do the handshake; `behind` comes in the same segment."""
        await self.read_head()
        await self.send(self.upgrade() + behind)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, count: int) -> bytes:
        """Return all that was received behind the request, once it is `count` bytes or the client has left."""
        while len(self.received) < count:
            data = await self.stream.receive_some()
            if not data:
                break
            self.received += data
        return bytes(self.received)

    async def until_left(self) -> bytes:
        """Read until the client has left, by FIN or RST, and return what came."""
        with suppress(trio.BrokenResourceError):
            await self.receive(1 << 40)
        return bytes(self.received)

    async def reset(self) -> None:
        """Close with RST."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        sock = transport_socket(stream)
        assert sock is not None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await trio.lowlevel.checkpoint()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run `script` for each connection, and close it when it returns; gives the port. All is over with the block."""

    async def serve(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            await script(Peer(stream))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def silence(peer: Peer) -> None:
    """Say nothing, and notice nothing."""
    await trio.sleep_forever()


@attrs.define
class Batches:
    """A sink that keeps what it is given, and refuses as often as it is told to."""

    batches: list[tuple[list[bytes], int]] = attrs.Factory(list)
    refusals: int = 0
    may_go_on: trio.Event = attrs.Factory(trio.Event)
    offered: list[tuple[list[bytes], int]] = attrs.Factory(list)
    came: trio.Event = attrs.Factory(trio.Event)

    @property
    def frames(self) -> list[bytes]:
        return [frame for frames, _ in self.batches for frame in frames]

    def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
        self.offered.append((frames, received_ns))
        if self.refusals:
            self.refusals -= 1
            return False
        self.batches.append((frames, received_ns))
        self.came.set()
        return True

    async def room(self) -> None:
        await self.may_go_on.wait()

    async def wait_for(self, count: int) -> None:
        """Wait until so many frames came."""
        while len(self.frames) < count:
            self.came = trio.Event()
            await self.came.wait()


@attrs.define
class Dialled:
    """A connector that remembers the sockets it has opened, by inode: numbers of file descriptors are used again."""

    inodes: set[str] = attrs.Factory(set)

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        stream = await tcp(host, port)
        sock = transport_socket(stream)
        assert sock is not None
        self.inodes.add(os.readlink(f"/proc/self/fd/{sock.fileno()}"))
        return stream

    @property
    def still_open(self) -> set[str]:
        return self.inodes & open_sockets()


def open_sockets() -> set[str]:
    """Return the inodes of this process's sockets, as `socket:[123]`."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {link for link in found if link.startswith("socket:")}
