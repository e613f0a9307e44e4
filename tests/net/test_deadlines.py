"""Every wait of a connection for its peer has a deadline, asserted exactly: memory streams, virtual time."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing

from collector_trio.errors import ConnectionEnded
from collector_trio.net.connect import CLOSE_S, HANDSHAKE_S, Connection, connect
from collector_trio.net.dial import PROXY_S, TCP_S, TLS_S
from collector_trio.net.tap import SEND_S

from .frames import PING, frame
from .peers import Batches, Peer, Script, silence

TLS = ssl.create_default_context()


@attrs.define(slots=False)
class Wire(trio.abc.Stream):
    """The client's end of a simulated connection, which can be made to take no more data."""

    inner: trio.abc.Stream
    stuck: bool = False
    slow_to_close: bool = False
    closed: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.stuck:
            await trio.sleep_forever()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            if self.slow_to_close:
                await trio.sleep_forever()
        finally:
            self.closed = True
            await self.inner.aclose()


@attrs.define
class Simulated:
    """A network of one server, which runs `script` for each connection; or none that answers."""

    script: Script | None
    nursery: trio.Nursery
    wires: list[Wire] = attrs.Factory(list)

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        if self.script is None:
            await trio.sleep_forever()
            raise AssertionError
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        self.wires.append(Wire(ours))
        return self.wires[-1]

    async def _serve(self, stream: trio.abc.Stream) -> None:
        assert self.script is not None
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            await self.script(Peer(stream))


Block = Callable[[Connection, Wire], Awaitable[None]]


async def stay(connection: Connection, wire: Wire) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def network(script: Script | None) -> AsyncIterator[Simulated]:
    async with trio.open_nursery() as nursery:
        simulated = Simulated(script, nursery)
        yield simulated
        assert all(wire.closed for wire in simulated.wires)
        nursery.cancel_scope.cancel()


async def ending(
    script: Script | None, block: Block = stay, *, scheme: str = "ws", proxy: str | None = None
) -> tuple[str, float]:
    """Run `block` in a connection that ends, and return how and when."""
    async with network(script) as simulated:
        with pytest.raises(ConnectionEnded) as ended:
            async with connect(
                f"{scheme}://exchange.example/ws",
                Batches(),
                clock=lambda: 0,
                ssl_context=TLS,
                proxy=proxy,
                connector=simulated,
            ) as connection:
                await block(connection, simulated.wires[0])
        return str(ended.value), trio.current_time()


async def accepting(peer: Peer) -> None:
    await peer.accept()
    await peer.until_left()


async def test_a_connection_that_is_not_made_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    assert await ending(None) == (f"timeout: exchange.example:80: no connection within {TCP_S:g} s", TCP_S)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_does_not_answer_is_given_up(scheme: str, autojump_clock: trio.testing.MockClock) -> None:
    how, when = await ending(silence, proxy=f"{scheme}://proxy.example:1")
    assert how == f"timeout: proxy {scheme}://proxy.example:1: no connection within {PROXY_S:g} s"
    assert when == PROXY_S


async def test_a_server_that_does_not_answer_in_tls_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    how, when = await ending(silence, scheme="wss")
    assert (how, when) == (f"timeout: TLS with exchange.example: no connection within {TLS_S:g} s", TLS_S)


async def test_a_server_that_does_not_answer_the_handshake_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    how, when = await ending(silence)
    assert (how, when) == (f"timeout: no answer to the WebSocket handshake within {HANDSHAKE_S:g} s", HANDSHAKE_S)


async def test_a_message_that_the_peer_does_not_take_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def block(connection: Connection, wire: Wire) -> None:
        wire.stuck = True
        await connection.send("x")

    how, when = await ending(accepting, block)
    assert how in (f"timeout: the peer took no data for {SEND_S:g} s", f"timeout: could not send for {SEND_S:g} s")
    assert when == SEND_S  # and not CLOSE_S later: half a message was sent, so there is no point in a close frame


async def test_a_pong_that_the_peer_does_not_take_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await trio.sleep(1)
        await peer.send(frame(b"", PING))
        await trio.sleep_forever()

    async def block(connection: Connection, wire: Wire) -> None:
        wire.stuck = True
        await trio.sleep_forever()

    assert await ending(script, block) == (f"timeout: the peer took no data for {SEND_S:g} s", 1 + SEND_S)


async def test_a_message_behind_one_that_the_peer_does_not_take_waits_no_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def block(connection: Connection, wire: Wire) -> None:
        wire.stuck = True
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connection.send, "x")

    assert (await ending(accepting, block))[1] == SEND_S


async def test_a_close_frame_that_the_peer_does_not_take_delays_closing_by_the_bound_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with network(accepting) as simulated:
        async with connect(
            "ws://exchange.example/", Batches(), clock=lambda: 0, ssl_context=TLS, proxy=None, connector=simulated
        ):
            simulated.wires[0].stuck = True
        assert trio.current_time() == CLOSE_S


async def test_a_stream_that_would_close_slowly_is_closed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with network(accepting) as simulated:
        async with connect(
            "ws://exchange.example/", Batches(), clock=lambda: 0, ssl_context=TLS, proxy=None, connector=simulated
        ):
            simulated.wires[0].slow_to_close = True
        assert trio.current_time() == 0


async def test_leaving_a_peer_that_answers_nothing_takes_no_time(autojump_clock: trio.testing.MockClock) -> None:
    async with network(accepting) as simulated:
        async with connect(
            "ws://exchange.example/", Batches(), clock=lambda: 0, ssl_context=TLS, proxy=None, connector=simulated
        ) as connection:
            assert (connection.peer, connection.fd) == ("exchange.example:80", None)
        assert trio.current_time() == 0


# Leaving: whatever the peer does, and however the block is left


async def answers_nothing(peer: Peer) -> None:
    await peer.accept()
    await trio.sleep_forever()


async def sends_frames_for_ever(peer: Peer) -> None:
    await peer.accept()
    while True:
        await peer.send(frame(b"data") * 10)
        await trio.sleep(0.001)  # or virtual time would stand still


async def pings_for_ever(peer: Peer) -> None:
    await peer.accept()
    while True:
        await peer.send(frame(b"are you there", PING) * 10)
        await trio.sleep(0.001)


async def begins_a_frame(peer: Peer) -> None:
    await peer.accept()
    await peer.send(frame(b"x" * 1000)[:500])
    await trio.sleep_forever()


async def closes_its_half(peer: Peer) -> None:
    await peer.accept()
    await trio.sleep(1)
    assert isinstance(peer.stream, trio.StapledStream)
    await peer.stream.send_stream.aclose()
    await trio.sleep_forever()


PEERS = [answers_nothing, sends_frames_for_ever, pings_for_ever, begins_a_frame, closes_its_half, accepting]


@pytest.mark.parametrize("takes_data", [True, False], ids=["reads", "window zero"])
@pytest.mark.parametrize("leaving", ["left", "cancelled", "crashed"])
@pytest.mark.parametrize("script", PEERS, ids=lambda script: script.__name__.replace("_", " "))
async def test_leaving_takes_no_longer_than_its_deadline_whatever_the_peer_does(
    script: Script, leaving: str, takes_data: bool, autojump_clock: trio.testing.MockClock
) -> None:
    left_at = float("inf")
    async with network(script) as simulated:
        with suppress(ZeroDivisionError, ConnectionEnded), trio.CancelScope() as scope:
            async with connect(
                "ws://exchange.example/", Batches(), clock=lambda: 0, ssl_context=TLS, proxy=None, connector=simulated
            ):
                simulated.wires[0].stuck = not takes_data
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                left_at = trio.current_time()
                if leaving == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                elif leaving == "crashed":
                    raise ZeroDivisionError
        assert trio.current_time() - left_at <= CLOSE_S
    assert left_at < float("inf")
