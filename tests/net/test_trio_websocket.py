"""What trio-websocket 0.12.2 does by itself, and why we own its stream. A test that fails here is good news."""

import functools
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from .frames import frame
from .peers import Peer

LONG_S = 1e6


async def test_a_client_socket_stays_open_when_the_server_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[trio.SocketStream] = []
    open_tcp_stream = trio.open_tcp_stream

    async def remembering(*args: Any, **options: Any) -> trio.SocketStream:
        opened.append(await open_tcp_stream(*args, **options))
        return opened[-1]

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).aclose(1001)

    monkeypatch.setattr(trio, "open_tcp_stream", remembering)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, ssl_context=None)
        )
        async with trio_websocket.open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as ws:
            with pytest.raises(trio_websocket.ConnectionClosed):
                await ws.get_message()
        nursery.cancel_scope.cancel()
    (stream,) = opened
    assert stream.socket.fileno() != -1
    await stream.aclose()


async def test_the_handshake_waits_for_ever_when_the_server_leaves_instead_of_answering(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(LONG_S) as scope:
            await trio_websocket.wrap_client_stream(nursery, ours, "x", "/")  # type: ignore[arg-type]
    assert scope.cancelled_caught


async def opened(nursery: trio.Nursery) -> tuple[trio_websocket.WebSocketConnection, Peer]:
    ours, theirs = trio.testing.memory_stream_pair()
    peer = Peer(theirs)
    nursery.start_soon(peer.accept)
    ws = await trio_websocket.wrap_client_stream(nursery, ours, "x", "/")  # type: ignore[arg-type]
    return ws, peer


async def test_closing_waits_for_ever_for_a_server_that_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ws, _ = await opened(nursery)
        with trio.move_on_after(LONG_S) as scope:
            await ws.aclose()
    assert scope.cancelled_caught


async def test_no_ping_is_answered_while_two_messages_wait_to_be_fetched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        _, peer = await opened(nursery)
        await peer.send(frame(b"one") + frame(b"two") + frame(b"", 0x89))
        with trio.move_on_after(LONG_S) as scope:
            await peer.receive(1)
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
