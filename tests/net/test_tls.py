"""Our end of TLS against Trio's, over streams in memory, where what one read brings is ours to say."""

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from collector_trio.net.tls import RECEIVE_BYTES, TlsStream

from .conftest import Certificates

Line = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


@attrs.frozen
class Ends:
    """Both ends of one connection, and what each has beneath it."""

    client: TlsStream
    server: trio.SSLStream[Line]
    client_line: Line
    server_line: Line


@asynccontextmanager
async def shaken_hands(certificates: Certificates) -> AsyncIterator[Ends]:
    client_line, server_line = memory_stream_pair()
    client = TlsStream(client_line, certificates.client, "localhost")
    server = trio.SSLStream(server_line, certificates.server, server_side=True, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    try:
        yield Ends(client, server, client_line, server_line)
    finally:
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)


async def test_records_that_come_together_are_received_together(certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        for number in range(100):
            await ends.server.send_all(b"%03d," % number)
        assert await ends.client.receive_some() == b"".join(b"%03d," % number for number in range(100))


async def test_whatever_pieces_it_is_sent_and_comes_in_it_is_the_same_text(certificates: Certificates) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    text = draw.randbytes(1_000_000)
    async with shaken_hands(certificates) as ends:

        async def send() -> None:
            left = text
            while left:
                size = draw.choice((1, 100, 16_384, 16_385, 100_000))
                await ends.server.send_all(left[:size])
                left = left[size:]
            await ends.server_line.send_stream.aclose()

        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await ends.client.receive_some(draw.choice((None, 1, 1000, 262_144))):
                assert len(piece) <= RECEIVE_BYTES
                received += piece
        assert received == text


async def test_what_is_sent_arrives_however_large_it_is(certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        text, received = random.Random(1).randbytes(300_000), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.client.send_all, text)
            while len(received) < len(text):
                received += await ends.server.receive_some()
        assert received == text


@pytest.mark.parametrize("says_so", [True, False], ids=["close_notify", "bare end"])
async def test_the_end_is_an_end_with_or_without_a_word(says_so: bool, certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        await ends.server.send_all(b"last")
        if says_so:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.server.unwrap)
                await trio.testing.wait_all_tasks_blocked()  # it waits for our answer
                nursery.cancel_scope.cancel()
        else:
            await ends.server_line.send_stream.aclose()
        assert await ends.client.receive_some() == b"last"
        assert await ends.client.receive_some() == b""
        assert await ends.client.receive_some() == b""


async def test_what_came_whole_before_garbage_is_received_and_then_the_fault(certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        await ends.server.send_all(b"whole")
        await ends.server_line.send_all(b"\x17\x03\x03\x00\x20" + b"garbage!" * 4)
        assert await ends.client.receive_some() == b"whole"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError) as broken:
                await ends.client.receive_some()
            assert isinstance(broken.value.__cause__, ssl.SSLError)


async def test_a_certificate_for_another_host_breaks_the_handshake_and_says_why(certificates: Certificates) -> None:
    client_line, server_line = memory_stream_pair()
    client = TlsStream(client_line, certificates.client, "localhost")
    server = trio.SSLStream(server_line, certificates.other_host, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        with pytest.raises(trio.BrokenResourceError) as broken:
            await client.do_handshake()
        nursery.cancel_scope.cancel()
    assert isinstance(broken.value.__cause__, ssl.SSLCertVerificationError)
    await trio.aclose_forcefully(client)
    await trio.aclose_forcefully(server)


async def test_receiving_that_is_cancelled_loses_nothing(certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        await ends.server.send_all(b"here already")
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.client.receive_some()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            assert await ends.client.receive_some(4) == b"here"
            scope.cancel()
            await ends.client.receive_some(4)
        assert await ends.client.receive_some() == b" already"


async def test_nothing_is_sent_behind_a_message_that_was_cut_short(certificates: Certificates) -> None:
    async with shaken_hands(certificates) as ends:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.client.send_all(b"half of it, perhaps")
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="cut short"):
            await ends.client.send_all(b"more")
