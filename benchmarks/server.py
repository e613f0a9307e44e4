"""What all receiving is measured against: a server in a process of its own that spends next to nothing on a message.

    /receive/KIND/FORM/COUNT     WebSocket: so many messages, made and encrypted before the first is sent, as fast as
                                 they are taken. FORM is `frame`, a TLS record each, or `burst`, 100 in one write;
                                 or `lone`: 200 a second, one by one
    /feed/RATE/EVERY/stream      WebSocket: Binance spot, so many messages a second in all for as long as somebody
                                 reads; each EVERYth is a change of 40 levels, the others are trades
    /api/v3/exchangeInfo, /api/v3/depth, /api/v3/time      what a collector asks for before and beside

Prints its two ports, plain and TLS, and ends when its standard input does.
"""

import contextlib
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import attrs
import numpy as np
from made_up import KINDS, Market, framed
from numpy.typing import NDArray
from wsproto.utilities import generate_accept_token

BURST = 100
LONE_S = 0.005
SLICE_S = 0.002  # the feed writes so often: at 50 000 a second, 100 messages at a time
RING_S = 0.5  # what the feed sends again and again, with other ids and times
T = TypeVar("T")
NATIVES = {"BTCUSDT": "BTC", "ETHUSDT": "ETH"}


class Line:
    """One connection; with `tls` encrypted, by a TLS object apart from the socket, so that it can be done ahead."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls and tls.wrap_bio(self._in, self._out, server_side=True)
        if self._tls:
            self._until_done(self._tls.do_handshake)

    def sealed(self, writes: Sequence[bytes | memoryview]) -> bytes:
        """Return what goes out for these writes; each is a TLS record, or several of 16 KiB."""
        if not self._tls:
            return b"".join(writes)
        for write in writes:
            self._tls.write(write)
        return self._out.read()

    def send(self, sealed: bytes) -> None:
        """Send what `sealed` has made."""
        self._sock.sendall(sealed)

    def receive(self) -> bytes:
        """Return some of what the client sent; nothing when it has left."""
        tls = self._tls
        return self._until_done(lambda: tls.read(65_536)) if tls else self._sock.recv(65_536)

    def _until_done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                data = self._sock.recv(65_536)
                if not data:
                    raise ConnectionResetError("the client left") from None
                self._in.write(data)
            finally:
                self._sock.sendall(self._out.read())


@attrs.frozen
class Numbers:
    """Where in a ring's bytes one kind of number stands, and what it was there the first time."""

    step: int  # from one pass to the next; 0: the time
    places: NDArray[np.int64]
    first: NDArray[np.int64]


class Ring:
    """Messages of several instruments, sent again and again; ids go on from pass to pass."""

    def __init__(self, count: int, every: int) -> None:
        markets = {native: Market(native, seed=seed) for seed, native in enumerate(NATIVES)}
        self.books = {native: market.snapshot().partition(b",")[2] for native, market in markets.items()}
        frames = [market.mix(count // len(markets), every) for market in markets.values()]
        wire = framed([frame for together in zip(*frames, strict=True) for frame in together])
        self.ends = np.cumsum([len(frame) for frame in wire])
        self._text = bytearray(b"".join(wire))
        self._owners = np.arange(len(wire)) % len(markets)
        self._numbers = list(self._find(bytes(self._text), list(markets)))

    def _find(self, text: bytes, natives: list[str]) -> Iterator[Numbers]:
        found: dict[tuple[int, str, int], list[tuple[int, int]]] = {}
        for match in re.finditer(rb'"([aflTEUu])":(\d+)', text):
            owner = int(self._owners[np.searchsorted(self.ends, match.start(), side="right")])
            kind = {"T": "time", "E": "time", "U": "seq", "u": "seq"}.get(match[1].decode(), "id")
            found.setdefault((owner, kind, len(match[2])), []).append((match.start(2), int(match[2])))
        self.tips: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], int]] = {}
        for (owner, kind, width), numbers in found.items():
            places, first = (np.array(column) for column in zip(*numbers, strict=True))
            step = 0 if kind == "time" else int(first.max() - first.min()) + 1
            if kind == "seq":
                self.tips[natives[owner]] = (places, first, step)
            yield Numbers(step, places[:, None] + np.arange(width), first)

    def turned(self, turn: int) -> memoryview:
        """Return the bytes of pass `turn`, which hold until the next one is asked for."""
        view = np.frombuffer(self._text, dtype=np.uint8)
        for numbers in self._numbers:
            now = numbers.first + numbers.step * turn if numbers.step else np.full_like(numbers.first, _now_ms())
            powers = 10 ** np.arange(numbers.places.shape[1] - 1, -1, -1)
            view[numbers.places] = now[:, None] // powers % 10 + ord("0")
        return memoryview(self._text)

    def tip(self, native: str, turn: int, sent: int) -> int:
        """Return the last sequence number of a book once `sent` bytes of pass `turn` are out."""
        places, first, step = self.tips[native]
        index = int(np.searchsorted(places, sent)) - 1
        return int(first[index]) + step * turn if index >= 0 else int(first[0]) - 1 + step * turn


class Exchange:
    """Answers every connection; the feed is one at a time."""

    def __init__(self) -> None:
        self._ring: Ring | None = None
        self._at = (0, 0)  # the pass, and how much of it is out

    def serve(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve one connection to its end."""
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(sock, tls)
            head = b""
            while b"\r\n\r\n" not in head:
                data = line.receive()
                if not data:
                    return
                head += data
            url = urlsplit(head.split()[1].decode())
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            if key is None:
                line.send(line.sealed([self._rest(url.path, parse_qs(url.query))]))
                return
            accept = generate_accept_token(key[1])
            upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            line.send(line.sealed([upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"]))
            _, what, *rest = url.path.split("/")
            if what == "receive":
                kind, form, count = rest
                writes = _writes(kind, form, int(count))
                if form == "lone":
                    _send_each(line, writes)
                else:
                    line.send(line.sealed(writes))
                line.receive()  # until the client leaves
            else:
                self._feed(line, int(rest[0]), int(rest[1]))

    def _rest(self, path: str, query: Mapping[str, list[str]]) -> bytes:
        if path.endswith("/exchangeInfo"):
            listed = [
                {"symbol": native, "baseAsset": base, "quoteAsset": "USDT", "status": "TRADING", "filters": []}
                for native, base in NATIVES.items()
            ]
            body = json.dumps({"symbols": listed}).encode()
        elif path.endswith("/time"):
            body = b'{"serverTime":%d}' % _now_ms()
        else:
            assert self._ring is not None
            native = query["symbol"][0]
            body = b'{"lastUpdateId":%d,%s' % (self._ring.tip(native, *self._at), self._ring.books[native])
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        return head % len(body) + body

    def _feed(self, line: Line, rate: int, every: int) -> None:
        line.receive()  # what is subscribed; there is nothing to choose
        line.send(line.sealed(framed([b'{"result":null,"id":1}'])))
        self._ring = ring = Ring(round(rate * RING_S), every)
        slices = round(RING_S / SLICE_S)
        begun, turn = time.monotonic(), 0
        while True:
            text, start = ring.turned(turn), 0
            for number in range(slices):
                end = int(ring.ends[(number + 1) * len(ring.ends) // slices - 1])
                self._at = turn, end
                line.send(line.sealed([text[start:end]]))
                start = end
                time.sleep(max(0.0, begun + (turn * slices + number + 1) * SLICE_S - time.monotonic()))
            turn += 1


def _send_each(line: Line, writes: Sequence[bytes]) -> None:
    begun = time.monotonic()
    for number, write in enumerate(writes):
        time.sleep(max(0.0, begun + number * LONE_S - time.monotonic()))
        line.send(line.sealed([write]))


@cache
def _writes(kind: str, form: str, count: int) -> list[bytes]:
    wire = framed(Market(levels=KINDS[kind]).made(kind, count))
    return wire if form in ("frame", "lone") else [b"".join(wire[n : n + BURST]) for n in range(0, count, BURST)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main(certificate: str) -> None:
    """Listen and serve until standard input ends. `certificate` is a file with the key and the chain."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    exchange = Exchange()

    def listen(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while True:
            threading.Thread(target=exchange.serve, args=(listener.accept()[0], tls), daemon=True).start()

    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for listener, context in zip(listeners, (None, tls), strict=True):
        threading.Thread(target=listen, args=(listener, context), daemon=True).start()
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)  # noqa: T201  how the parent learns it
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
