"""`connect` on real sockets: what it is for, and how we may leave it."""

import contextlib
import functools
import time

import pytest
import trio
import trio.testing
import trio_websocket

from collector_trio.errors import ConnectionEnded
from collector_trio.net.connect import Connection, connect

from .client import NO_TLS, after_handshake, code_of, connected, ending
from .conftest import Certificates
from .frames import CONTINUATION, PING, TEXT, UNFINISHED, close_frame, frame
from .peers import Batches, Dialled, Peer, serving


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
async def test_messages_come_in_batches_and_go_out(
    encrypted: bool, sink: Batches, dialled: Dialled, certificates: Certificates
) -> None:
    got: list[object] = []

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message("hello")
        got.append(await ws.get_message())
        await ws.send_message(b"binary")
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await ws.get_message()
        got.append(closed.value.reason)

    tls = certificates.server if encrypted else None
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, tls, handler_nursery=nursery)
        )
        before = time.time_ns()
        async with connected(server.port, sink, dialled, tls=certificates.client if encrypted else None) as connection:
            await connection.send("from us")
            await sink.wait_for(2)
            assert connection.peer == f"127.0.0.1:{server.port}"
            assert connection.bytes_received > 100
            assert connection.fd is not None
        while len(got) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert got[0] == "from us"
    assert isinstance(got[1], trio_websocket.CloseReason)
    assert got[1].code == 1000
    assert sink.frames == [b"hello", b"binary"]
    assert all(before <= received_ns <= time.time_ns() for _, received_ns in sink.batches)


async def test_the_handshake_asks_for_the_path_and_says_who_we_are_and_offers_nothing(
    sink: Batches, dialled: Dialled
) -> None:
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        requests.append(peer.request)
        await peer.until_left()

    path = "/stream?streams=btcusdt@trade/ethusdt@trade"
    async with serving(script) as port, connected(port, sink, dialled, path=path):
        pass
    (request,) = requests
    assert request.startswith(b"GET /stream?streams=btcusdt@trade/ethusdt@trade HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in request
    assert b"User-Agent: collector-trio/" in request
    assert b"Origin" not in request
    assert b"Sec-WebSocket-Extensions" not in request


async def test_what_comes_in_one_segment_with_the_handshake_is_not_lost(sink: Batches, dialled: Dialled) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(behind=frame(b"first") + frame(b"second") + close_frame(1000))

    async with serving(script) as port:
        assert await ending(port, sink, dialled) == "closed: 1000 normal"
    assert [frames for frames, _ in sink.batches] == [[b"first", b"second"]]


async def test_pings_are_answered_while_data_flows_and_between_fragments(sink: Batches, dialled: Dialled) -> None:
    pongs: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        for i in range(50):
            await peer.send(frame(b"x" * 1000) * 50 + frame(b"a", TEXT & UNFINISHED) + frame(b"%d" % i, PING))
            await peer.send(frame(b"b", 0) + frame(b"between", PING) + frame(b"c", CONTINUATION))
        pongs.append(await peer.receive(sum(6 + len(b"%d" % i) + 6 + len(b"between") for i in range(50))))
        await peer.until_left()

    async with serving(script) as port, connected(port, sink, dialled):
        await sink.wait_for(50 * 51)
        while not pongs:
            await trio.lowlevel.checkpoint()
    assert sink.frames == ([b"x" * 1000] * 50 + [b"abc"]) * 50
    assert pongs[0].count(b"\x8a\x87") == 50  # masked pongs of 7 bytes


async def test_the_sink_is_called_only_while_the_block_runs(sink: Batches, dialled: Dialled) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(behind=frame(b"early"))
        await peer.receive(1)
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.send(frame(b"late"))

    async with serving(script) as port:
        async with connected(port, sink, dialled) as connection:
            assert sink.offered == []
            await sink.wait_for(1)
            await connection.send("go on")
            await sink.wait_for(2)
        count = len(sink.offered)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(sink.offered) == count


async def test_a_sink_without_room_gets_the_same_batch_again_and_nothing_is_read_meanwhile(
    sink: Batches, dialled: Dialled
) -> None:
    sent = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(b"refused"))
        await sink_was_asked.wait()
        await peer.send(frame(b"next"))
        sent.set()
        await peer.until_left()

    sink_was_asked = trio.Event()
    sink.refusals = 1
    async with serving(script) as port, connected(port, sink, dialled) as connection:
        while not sink.offered:
            await trio.lowlevel.checkpoint()
        received = connection.bytes_received
        sink_was_asked.set()
        await sent.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert connection.bytes_received == received
        sink.may_go_on.set()
        await sink.wait_for(2)
    assert sink.frames == [b"refused", b"next"]
    assert sink.offered[0] == sink.offered[1]


async def test_a_batch_that_is_waiting_for_room_is_not_offered_once_the_block_is_left(
    sink: Batches, dialled: Dialled
) -> None:
    sink.refusals = 1
    async with serving(after_handshake(frame(b"more"))) as port, connected(port, sink, dialled):
        while not sink.offered:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        sink.may_go_on.set()
    assert len(sink.offered) == 1


async def test_leaving_sends_a_close_frame_and_does_not_wait_for_the_answer(sink: Batches, dialled: Dialled) -> None:
    answers: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        answers.append(await peer.until_left())

    async with serving(script) as port:
        async with connected(port, sink, dialled):
            left_at = trio.current_time()
        assert trio.current_time() - left_at < 0.1
        while not answers:
            await trio.lowlevel.checkpoint()
    assert code_of(answers[0]) == 1000


async def test_what_the_block_raises_comes_out_as_itself(sink: Batches, dialled: Dialled) -> None:
    async with serving(after_handshake(frame(b"more"))) as port:
        for error in (ValueError("ours"), KeyboardInterrupt()):
            with pytest.raises(type(error)) as raised:
                async with connected(port, sink, dialled):
                    raise error
            assert raised.value is error
        with pytest.raises(ExceptionGroup, match=r"^ours") as group:
            async with connected(port, sink, dialled):
                raise ExceptionGroup("ours", [error := ValueError()])
        assert group.value.exceptions == (error,)


async def test_a_bug_in_the_sink_comes_out_as_itself(dialled: Dialled) -> None:
    class Faulty(Batches):
        def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
            raise ZeroDivisionError

    async with serving(after_handshake(frame(b"more"))) as port:
        with pytest.raises(ZeroDivisionError):
            async with connected(port, Faulty(), dialled):
                await trio.sleep_forever()


async def test_two_errors_at_once_come_out_in_a_group(sink: Batches, dialled: Dialled) -> None:
    async def block(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("a bug in cleaning up")

    async with serving(after_handshake()) as port:
        with pytest.raises(ExceptionGroup) as raised:
            await ending(port, sink, dialled, block)
    assert raised.group_contains(KeyError)
    assert raised.group_contains(ConnectionEnded, match="eof")


async def test_a_peer_ending_comes_out_bare_from_a_block_with_a_nursery_that_is_sending(
    sink: Batches, dialled: Dialled
) -> None:
    async def block(connection: Connection) -> None:
        async def send_for_ever() -> None:
            while True:
                await connection.send("x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever)
            nursery.start_soon(send_for_ever)

    async with serving(after_handshake()) as port:
        assert (await ending(port, sink, dialled, block)).split(":")[0] in ("eof", "reset")


async def test_a_cancelled_block_is_over_at_once(sink: Batches, dialled: Dialled) -> None:
    answers: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        answers.append(await peer.until_left())

    async with serving(script) as port:
        with trio.CancelScope() as scope:
            async with connected(port, sink, dialled):
                scope.cancel()
                cancelled_at = trio.current_time()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() - cancelled_at < 0.1
        while not answers:
            await trio.lowlevel.checkpoint()
    assert code_of(answers[0]) == 1000


async def test_a_cancellation_that_meets_the_peers_ending_comes_out_alone(sink: Batches, dialled: Dialled) -> None:
    async with serving(after_handshake()) as port:
        with trio.CancelScope() as scope:
            async with connected(port, sink, dialled):
                try:
                    await trio.sleep_forever()
                finally:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught


async def test_after_a_message_was_cut_short_nothing_more_is_sent(sink: Batches, dialled: Dialled) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await trio.sleep_forever()

    async def block(connection: Connection) -> None:
        with trio.move_on_after(0.05):
            await connection.send("x" * (16 << 20))
        await connection.send("y")

    async with serving(script) as port:
        assert await ending(port, sink, dialled, block) == "timeout: an earlier message was cut short"


async def test_a_url_that_is_no_websocket_url_is_a_bug(sink: Batches) -> None:
    for url in ("https://example.com/", "ws:///path", "example.com"):
        with pytest.raises(ValueError, match="is not a WebSocket URL"):
            async with connect(url, sink, clock=time.time_ns, ssl_context=NO_TLS, proxy=None):
                pass
