"""The tap by itself, on memory streams."""

import attrs
import pytest
import trio
import trio.testing

from collector_trio.errors import ConnectionEnded
from collector_trio.net.tap import Tap

from .frames import PING, close_frame, frame
from .peers import Batches

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@attrs.define
class Clock:
    now: int = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


@attrs.define
class Bench:
    """A tap between a peer that the test plays and the reader that it plays as well."""

    sink: Batches
    tap: Tap
    ours: trio.testing.MemoryReceiveStream
    theirs: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]

    async def send(self, data: bytes) -> None:
        await self.theirs.send_all(data)


@pytest.fixture
def bench(sink: Batches) -> Bench:
    ours, theirs = trio.testing.memory_stream_pair()
    return Bench(sink, Tap(ours, sink, Clock()), ours.receive_stream, theirs)


@pytest.fixture
async def upgraded(bench: Bench) -> Bench:
    await bench.send(HEAD)
    assert await bench.tap.receive_some() == HEAD
    bench.tap.open()
    return bench


async def test_the_head_passes_in_the_pieces_it_came_in(bench: Bench) -> None:
    for i, byte in enumerate(HEAD):
        await bench.send(bytes([byte]))
        assert await bench.tap.receive_some() == HEAD[i : i + 1]
    assert bench.tap.bytes_received == len(HEAD)
    bench.tap.open()
    await bench.send(frame(b"data") + frame(b"", PING))
    assert await bench.tap.receive_some() == frame(b"", PING)


@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"\r\n", b"\n")])
async def test_what_comes_behind_the_head_waits_until_the_tap_is_opened(head: bytes, bench: Bench) -> None:
    await bench.send(head + frame(b"early") + frame(b"", PING))
    assert await bench.tap.receive_some() == head
    with trio.move_on_after(0.01) as scope:
        await bench.tap.receive_some()
    assert scope.cancelled_caught
    assert bench.sink.offered == []
    bench.tap.open()
    assert await bench.tap.receive_some() == frame(b"", PING)
    assert bench.sink.batches == [([b"early"], 1)]  # received with the head


async def test_what_is_for_trio_websocket_is_handed_out_in_pieces_of_the_size_it_wants(upgraded: Bench) -> None:
    pings = frame(b"abc", PING) + frame(b"", PING)
    await upgraded.send(frame(b"data") + pings)
    assert await upgraded.tap.receive_some(3) == pings[:3]
    assert await upgraded.tap.receive_some(3) == pings[3:6]
    assert await upgraded.tap.receive_some(3) == pings[6:]


async def test_each_read_is_a_batch_with_the_time_of_the_read(upgraded: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upgraded.tap.receive_some)
        for data in (frame(b"one") + frame(b"two"), frame(b"three"), frame(b"four")[:3], frame(b"four")[3:]):
            await trio.testing.wait_all_tasks_blocked()
            await upgraded.send(data)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert upgraded.sink.batches == [([b"one", b"two"], 2), ([b"three"], 3), ([b"four"], 5)]
    assert upgraded.tap.frames_received == 4


async def test_a_refused_batch_is_offered_again_with_its_own_time_before_anything_is_read(upgraded: Bench) -> None:
    upgraded.sink.refusals = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upgraded.tap.receive_some)
        await upgraded.send(frame(b"refused"))
        await trio.testing.wait_all_tasks_blocked()
        await upgraded.send(frame(b"next"))
        await trio.testing.wait_all_tasks_blocked()
        assert upgraded.sink.offered == [([b"refused"], 2)]
        upgraded.sink.may_go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert upgraded.sink.batches == [([b"refused"], 2), ([b"next"], 3)]


async def test_a_close_frame_is_passed_on_first_and_ends_the_connection_when_the_reader_comes_back(
    upgraded: Bench,
) -> None:
    closing = close_frame(1001)
    await upgraded.send(frame(b"last") + closing)
    assert await upgraded.tap.receive_some() == closing
    with pytest.raises(ConnectionEnded, match="closed: 1001 going away"):
        await upgraded.tap.receive_some()
    assert upgraded.sink.frames == [b"last"]


async def test_the_first_ending_is_the_verdict(upgraded: Bench) -> None:
    await upgraded.theirs.aclose()
    for _ in range(2):
        with pytest.raises(ConnectionEnded, match="eof"):
            await upgraded.tap.receive_some()
    with pytest.raises(ConnectionEnded, match="eof"):
        await upgraded.tap.send_all(b"x")
    assert upgraded.tap.verdict
    assert not upgraded.tap.may_say_goodbye


async def test_when_we_are_leaving_an_ending_is_no_news_and_nothing_reaches_the_sink(upgraded: Bench) -> None:
    upgraded.tap.leaving()
    await upgraded.send(frame(b"late"))
    await upgraded.theirs.aclose()
    assert await upgraded.tap.receive_some() == b""
    await upgraded.ours.aclose()
    assert await upgraded.tap.receive_some() == b""
    await upgraded.tap.aclose()
    assert upgraded.sink.offered == []
    assert upgraded.tap.may_say_goodbye


async def test_closing_before_we_are_leaving_is_refused(upgraded: Bench) -> None:
    with pytest.raises(ConnectionEnded, match="protocol: the answer to the handshake is not a WebSocket server's"):
        await upgraded.tap.aclose()


async def test_the_tap_waits_for_room_to_send_as_the_stream_beneath_does(upgraded: Bench) -> None:
    await upgraded.tap.wait_send_all_might_not_block()
