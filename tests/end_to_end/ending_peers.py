"""A process of peers that end connections in every way there is: the path of the URL says how.

    python -m tests.end_to_end.ending_peers CERTIFICATE

prints its ports as JSON (plain, TLS, one that closes before TLS, one on which nobody listens) and runs until its
standard input ends.
"""

import json
import ssl
import sys
from functools import partial

import trio

from tests.net.frames import CLOSE, PING, close_frame, frame
from tests.net.peers import Peer, serving, silence

from .reconnecting import stay, talk, talking

HOLD_S = 20.0  # so long is a peer silent that the recorder should leave before


async def play(peer: Peer) -> None:
    """Do what the path asks for."""
    await peer.read_head()
    way = peer.request.split()[1].decode().strip("/")
    if way in HANDSHAKES:
        await HANDSHAKES[way](peer)
    else:
        await talking(ENDINGS[way])(peer)


async def answer(peer: Peer, data: bytes = b"", *, reset: bool = False) -> None:
    await peer.send(data)
    if reset:
        await peer.reset()


async def say(peer: Peer, data: bytes) -> None:
    """Send, and wait until the other side leaves."""
    await peer.send(data)
    await peer.until_left()


async def cut(peer: Peer, behind: bytes = b"") -> None:
    await peer.send(behind)


async def hang(peer: Peer) -> None:
    with trio.move_on_after(HOLD_S):
        await silence(peer)


async def deaf_and_endless(peer: Peer) -> None:
    """Send for ever and read nothing; the end is a close frame behind what nobody may have read yet."""
    data = talk() * 50
    for _ in range(20):
        await peer.send(data)
    await peer.send(close_frame(1012))
    await peer.until_left()


# Not those answers for which the whole venue is left alone for a while: they are in truth/test_venues.py.
HANDSHAKES = {
    "503": partial(answer, data=b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
    "404": partial(answer, data=b"HTTP/1.1 404 Not Found\r\n\r\n"),
    "no-http": partial(answer, data=b"SSH-2.0-OpenSSH_9.9\r\n"),
    "half-an-answer": partial(answer, data=b"HTTP/1.1 101 Switching Pro"),
    "eof-for-answer": answer,
    "reset-for-answer": partial(answer, reset=True),
    "no-answer": hang,
}
ENDINGS = {
    "close-1000": partial(say, data=close_frame(1000)),
    "close-1001": partial(say, data=close_frame(1001)),
    "close-1001-and-fin": partial(cut, behind=close_frame(1001)),
    "close-without-code": partial(say, data=frame(b"", CLOSE)),
    "eof": cut,
    "eof-in-a-frame": partial(cut, behind=b"\x81\x7e\x10\x00half of it"),
    "reset": Peer.reset,
    "reserved-bit": partial(say, data=frame(b"x", 0xC1)),
    "masked": partial(say, data=frame(b"x", masked=True)),
    "long-ping": partial(say, data=frame(b"x" * 126, PING)),
    "endless": deaf_and_endless,
    "silence": hang,
    "stay": stay,
}


async def main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def leave(peer: Peer) -> None:
        await peer.stream.receive_some()

    with trio.socket.socket() as dead:
        await dead.bind(("127.0.0.1", 0))
        async with serving(play) as plain, serving(play, context) as secure, serving(leave) as leaving:
            print(json.dumps([plain, secure, leaving, dead.getsockname()[1]]), flush=True)
            while await trio.to_thread.run_sync(sys.stdin.read):
                pass


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
