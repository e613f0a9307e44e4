"""Leaving real sockets: a peer that takes nothing, sends for ever, or has gone holds nobody up."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from collector_trio.errors import ConnectionEnded
from collector_trio.net.connect import CLOSE_S, Connection, connect

from .client import NO_TLS
from .conftest import Certificates
from .frames import PING, frame
from .peers import Batches, Dialled, Peer, serving

SLACK_S = 3.0  # of a machine that has other things to do


async def fill(connection: Connection) -> None:
    """Send until the kernel takes no more: the peer's window is zero, and our buffer full."""
    with trio.move_on_after(0.5):
        while True:
            await connection.send("x" * 100_000)


async def wait(connection: Connection) -> None:
    await trio.sleep(0.1)


async def deaf(peer: Peer) -> None:
    await peer.accept()
    await trio.sleep_forever()


async def endless(peer: Peer) -> None:
    await peer.accept()
    while True:
        await peer.send(frame(b"data" * 100) * 100 + frame(b"", PING))


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize(
    ("script", "before"),
    [(deaf, wait), (deaf, fill), (endless, wait), (endless, fill)],
    ids=["never answers", "window zero", "endless frames", "endless frames, window zero"],
)
@pytest.mark.parametrize("cancelled", [False, True], ids=["left", "cancelled"])
async def test_leaving_a_socket_takes_no_longer_than_its_deadline(
    script: Callable[[Peer], Awaitable[None]],
    before: Callable[[Connection], Awaitable[None]],
    cancelled: bool,
    encrypted: bool,
    dialled: Dialled,
    certificates: Certificates,
) -> None:
    tls = (certificates.server, certificates.client) if encrypted else (None, NO_TLS)
    left_at = 0.0
    async with serving(script, tls[0]) as port:
        url = f"{'wss' if encrypted else 'ws'}://127.0.0.1:{port}/"
        with trio.CancelScope() as scope:
            try:
                async with connect(
                    url, Batches(), clock=lambda: 0, ssl_context=tls[1] or NO_TLS, proxy=None, connector=dialled
                ) as connection:
                    await before(connection)
                    left_at = trio.current_time()
                    if cancelled:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            except ConnectionEnded:
                pass
        assert left_at
        assert trio.current_time() - left_at < CLOSE_S + SLACK_S
        assert not dialled.still_open
