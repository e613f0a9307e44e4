"""The client's side of the tests on real sockets."""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from collector_trio.errors import ConnectionEnded
from collector_trio.net.connect import CLOSE_S, Connection, connect

from .frames import frame
from .peers import Batches, Dialled, Peer, Script

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@asynccontextmanager
async def connected(
    port: int,
    sink: Batches,
    dialled: Dialled,
    *,
    tls: ssl.SSLContext | None = None,
    path: str = "/ws",
    max_message_bytes: int = 1 << 20,
) -> AsyncIterator[Connection]:
    """`connect` to this machine, which must leave no socket and no task behind, in the time it has promised."""
    url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}{path}"
    task = trio.lowlevel.current_task()
    nurseries = len(task.child_nurseries)
    left_at = None
    try:
        with trio.fail_after(5):
            async with connect(
                url,
                sink,
                clock=time.time_ns,
                ssl_context=tls or NO_TLS,
                proxy=None,
                connector=dialled,
                max_message_bytes=max_message_bytes,
            ) as connection:
                try:
                    yield connection
                finally:
                    left_at = trio.current_time()
    finally:
        assert dialled.inodes
        assert not dialled.still_open
        assert len(task.child_nurseries) == nurseries
        assert left_at is None or trio.current_time() - left_at < CLOSE_S + 0.2


Block = Callable[[Connection], Awaitable[None]]


async def stay(connection: Connection) -> None:
    await trio.sleep_forever()


async def ending(
    port: int,
    sink: Batches,
    dialled: Dialled,
    block: Block = stay,
    *,
    tls: ssl.SSLContext | None = None,
    max_message_bytes: int = 1 << 20,
) -> str:
    """Run `block` in a connection that ends, and return how."""
    with pytest.raises(ConnectionEnded) as ended:
        async with connected(port, sink, dialled, tls=tls, max_message_bytes=max_message_bytes) as connection:
            await block(connection)
    return str(ended.value)


def after_handshake(data: bytes = b"", *, reset: bool = False) -> Script:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(b"data"))
        if data:
            await peer.send(data)
            await peer.until_left()
        if reset:
            await peer.receive(1)
            await peer.reset()

    return script


def code_of(answer: bytes) -> int:
    """Return the code of a client's close frame, which must be all there is."""
    assert answer[:2] == b"\x88\x82"
    assert len(answer) == 8
    return int.from_bytes(bytes(answer[6 + i] ^ answer[2 + i] for i in range(2)), "big")
