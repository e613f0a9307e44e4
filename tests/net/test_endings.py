"""`connect` on real sockets: whatever the peer does, the block ends, its socket is closed and its tasks are gone."""

import pytest
import trio
import trio.testing

from collector_trio.net import tap
from collector_trio.net.connect import Connection

from .client import after_handshake, code_of, ending
from .conftest import Certificates
from .frames import BINARY, CONTINUATION, UNFINISHED, close_frame, frame
from .peers import Batches, Dialled, Peer, Script, serving


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


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize(
    ("goodbye", "reset", "how"),
    [
        (b"", False, "eof: the peer closed the connection without a close frame"),
        (close_frame(1001), False, "closed: 1001 going away"),
        (b"", True, "reset: "),
    ],
    ids=["FIN", "close frame", "RST"],
)
async def test_a_peer_that_leaves_a_reader_without_room_leaves_no_socket_behind_and_no_frame_is_lost(
    goodbye: bytes,
    reset: bool,
    how: str,
    encrypted: bool,
    sink: Batches,
    dialled: Dialled,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R2: such a reader never sees the FIN, so that its socket stays in CLOSE_WAIT for as long as it has no room."""
    monkeypatch.setattr(tap, "PEER_LOOK_S", 0.01)
    tls = (certificates.server, certificates.client) if encrypted else (None, None)
    first, rest = frame(b"first"), [b"%d" % n for n in range(1000)]
    sink.refusals = 1000

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(first)
        await peer.receive(1)  # the first one has been refused
        await peer.send(b"".join(map(frame, rest)) + goodbye)
        if reset:
            await trio.sleep(0.1)  # what is on the way arrives
            await peer.reset()

    async def block(connection: Connection) -> None:
        while not sink.offered:  # noqa: ASYNC110  it happens in sockets
            await trio.sleep(0.01)
        await connection.send("go on")
        while dialled.still_open:  # noqa: ASYNC110  the kernel closes it
            await trio.sleep(0.01)
        assert not sink.frames
        await connection.send("into nothing")  # as pings are, whoever hears them
        sink.refusals = 0
        sink.may_go_on.set()
        await trio.sleep_forever()

    async with serving(script, tls[0]) as port:
        assert (await ending(port, sink, dialled, block, tls=tls[1])).startswith(how)
    assert sink.frames == [b"first", *rest]
