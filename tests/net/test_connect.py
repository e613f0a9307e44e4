"""`connect` on real sockets: whatever the peer does, the block ends, its socket is closed and its tasks are gone."""

import contextlib
import functools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket

from collector_trio.errors import ConnectionEnded
from collector_trio.net.connect import CLOSE_S, Connection, connect

from .conftest import Certificates
from .frames import BINARY, CONTINUATION, PING, TEXT, UNFINISHED, close_frame, frame
from .peers import Batches, Dialled, Peer, Script, serving

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


# What it is for


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
        got.append(closed.value.reason.code)

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
    assert got == ["from us", 1000]
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


# How the peer may end it


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


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize(
    ("script", "how"),
    [
        (after_handshake(), "eof: the peer closed the connection without a close frame"),
        (after_handshake(close_frame(1001)), "closed: 1001 going away"),
        (after_handshake(close_frame(1012, "maintenance")), "closed: 1012 maintenance"),
        (after_handshake(close_frame(4001)), "closed: 4001"),
        (after_handshake(frame(b"", 0x88)), "closed: 1005 no code given"),
        (after_handshake(close_frame(999)), "protocol: 1002 CLOSE with invalid code"),
        (after_handshake(frame(b"x", 0xC1)), "protocol: 1002 Reserved bit set unexpectedly"),
        (after_handshake(frame(b"x", masked=True)), "protocol: 1002 client received unexpected masked frame"),
        (after_handshake(frame(b"x" * 101)), "protocol: a frame of 101 bytes; at most 100 are accepted"),
        (
            after_handshake(frame(b"x" * 60, BINARY & UNFINISHED) + frame(b"x" * 60, CONTINUATION)),
            "protocol: 1009 Exceeded maximum message size: 100 bytes",
        ),
    ],
)
async def test_a_peer_that_ends_it_ends_the_block_with_a_reason_and_loses_no_frame_before(
    script: Script, how: str, encrypted: bool, sink: Batches, dialled: Dialled, certificates: Certificates
) -> None:
    tls = (certificates.server, certificates.client) if encrypted else (None, None)
    async with serving(script, tls[0]) as port:
        assert await ending(port, sink, dialled, tls=tls[1], max_message_bytes=100) == how
    assert sink.frames == [b"data"]


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
async def test_a_reset_is_told_from_an_end(
    encrypted: bool, sink: Batches, dialled: Dialled, certificates: Certificates
) -> None:
    tls = (certificates.server, certificates.client) if encrypted else (None, None)

    async def block(connection: Connection) -> None:
        await sink.wait_for(1)
        await connection.send("now")
        await trio.sleep_forever()

    async with serving(after_handshake(reset=True), tls[0]) as port:
        how = await ending(port, sink, dialled, block, tls=tls[1])
    assert how.startswith("reset: ")
    assert "Connection reset by peer" in how


async def test_a_close_frame_is_answered_before_the_socket_is_closed(sink: Batches, dialled: Dialled) -> None:
    answers: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(close_frame(1001))
        answers.append(await peer.until_left())

    async with serving(script) as port:
        assert await ending(port, sink, dialled) == "closed: 1001 going away"
        while not answers:
            await trio.lowlevel.checkpoint()
    assert answers[0][:2] == b"\x88\x82"
    assert len(answers[0]) == 8  # one frame: it is not sent twice


async def test_a_violation_is_answered_with_code_1002(sink: Batches, dialled: Dialled) -> None:
    answers: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(b"x" * 101))
        answers.append(await peer.until_left())

    async with serving(script) as port:
        await ending(port, sink, dialled, max_message_bytes=100)
        while not answers:
            await trio.lowlevel.checkpoint()
    assert code_of(answers[0]) == 1002


def answering(answer: bytes, *, reset: bool = False, stay: bool = False) -> Script:
    async def script(peer: Peer) -> None:
        await peer.read_head()
        if answer:
            await peer.send(answer)
        if reset:
            await peer.reset()
        if stay:
            await peer.until_left()

    return script


def accepting(spoil: tuple[bytes, bytes]) -> Script:
    async def script(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(peer.upgrade().replace(*spoil) + frame(b"never seen"))
        await peer.until_left()

    return script


TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 99\r\n\r\nslow\ndown"


@pytest.mark.parametrize(
    ("script", "how"),
    [
        (answering(b""), "eof: during the handshake"),
        (answering(b"HTTP/1.1 101 Switching Pro"), "eof: during the handshake"),
        (answering(b"", reset=True), "reset: [Errno 104] Connection reset by peer"),
        (answering(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "refused: HTTP 403 Forbidden"),
        (answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", reset=True), "refused: HTTP 503 Service Unavailable"),
        (answering(TOO_MANY, stay=True), "refused: HTTP 429 Too Many Requests (retry after 7): slow down"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", stay=True), "refused: HTTP 200 OK"),
        (answering(b"HTTP/1.1 100 Continue\r\n\r\n", stay=True), "refused: HTTP 100 Continue"),
        (
            answering(b"HTTP/1.1 101 Switching\r\n" + b"X-Filler: 1\r\n" * 2000, stay=True),
            "protocol: no end of the handshake's answer within 16384 bytes",
        ),
        (
            answering(b"SSH-2.0-OpenSSH_9.9\r\n", stay=True),
            "protocol: the handshake was answered with b'SSH-2.0-OpenSSH_9.9",
        ),
        (answering(b"HTTP/1.1 1O1 Switching Protocols\r\n\r\n", stay=True), "protocol: Bad HTTP message"),
        (accepting((b"Accept: ", b"Accept: 0")), "protocol: Bad accept token"),
        (accepting((b"Upgrade: websocket\r\n", b"")), "protocol: Missing header"),
        (
            accepting((b"Connection:", b"Sec-WebSocket-Extensions: permessage-deflate\r\nConnection:")),
            "protocol: unrecognized extension",
        ),
    ],
)
async def test_a_handshake_that_fails_leaves_nothing_behind_and_says_why(
    script: Script, how: str, sink: Batches, dialled: Dialled
) -> None:
    async with serving(script) as port:
        assert (await ending(port, sink, dialled)).startswith(how)
    assert sink.offered == []


# How we may end it


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


def code_of(answer: bytes) -> int:
    """Return the code of a client's close frame, which must be all there is."""
    assert answer[:2] == b"\x88\x82"
    assert len(answer) == 8
    return int.from_bytes(bytes(answer[6 + i] ^ answer[2 + i] for i in range(2)), "big")
