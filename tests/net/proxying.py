"""Proxies as tests play them: they tell what they heard, and join the client to a port of this machine."""

import contextlib
from collections.abc import Callable

import attrs
import trio

from .peers import Peer, Script


@attrs.define
class Heard:
    """What a scripted proxy was told."""

    data: list[bytes] = attrs.Factory(list)


async def relay(peer: Peer, port: int) -> None:
    """Join `peer` to a port of this machine, both ways, until one side is over."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as target, trio.open_nursery() as nursery:

        async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in source:
                    await sink.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, peer.stream, target)
        nursery.start_soon(copy, target, peer.stream)


def http_proxy(heard: Heard, port: int, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Script:
    async def script(peer: Peer) -> None:
        heard.data.append(await peer.read_head())
        for byte in answer:  # in as many pieces as there can be
            await peer.send(bytes([byte]))
        if b" 200 " in answer:
            await relay(peer, port)

    return script


def socks_proxy(heard: Heard, port: int, *answers: bytes) -> Script:
    async def exactly(peer: Peer, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await peer.stream.receive_some(count - len(data))
            if not more:
                raise trio.EndOfChannel
            data += more
        return data

    async def script(peer: Peer) -> None:
        head = await exactly(peer, 2)
        told = [head + await exactly(peer, head[1])]
        heard.data = told
        await pieces(peer, answers[0])
        if answers[0] == b"\x05\x02":
            user = await exactly(peer, 2)
            name = await exactly(peer, user[1] + 1)
            told.append(user + name + await exactly(peer, name[-1]))
            await pieces(peer, answers[1])
        head = await exactly(peer, 5)
        told.append(head + await exactly(peer, head[4] + 2 if head[3] == 3 else 5))
        await pieces(peer, answers[-1])
        if answers[-1][:2] == b"\x05\x00":
            await relay(peer, port)

    async def pieces(peer: Peer, data: bytes) -> None:
        for byte in data:
            await peer.send(bytes([byte]))

    return script


OK4 = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
OK6 = b"\x05\x00\x00\x04" + bytes(16) + b"\x00\x50"
OK_NAME = b"\x05\x00\x00\x03\x05proxy\x00\x50"
Way = Callable[[Heard, int], Script]
