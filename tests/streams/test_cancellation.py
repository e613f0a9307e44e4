"""A whole session is cancelled at each of its checkpoints in turn: dial, proxy, TLS, handshake, subscribe, receive,
send, close; and at each there are as many file descriptors as before, and its end is written down.
"""

from contextlib import AbstractAsyncContextManager

import pytest
import trio

from collector_trio.errors import ConnectionEnded
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.net.connect import Connection, connect
from collector_trio.net.tap import Sink
from tests.net.conftest import Certificates, certificates
from tests.net.frames import PING, close_frame, frame
from tests.net.peers import Dialled, Peer
from tests.net.test_cancellation import WAYS, Everywhere, reachable

from .conftest import plan_of
from .test_session import ACK, depth, notes, session_of, trade
from .wires import trio_clock

__all__ = ["certificates"]


async def exchange(peer: Peer) -> None:
    """Live for a moment: an answer, data, a ping, data, and the end."""
    await peer.accept()
    await peer.receive(1)
    await peer.send(frame(ACK) + frame(depth()))
    await peer.send(frame(trade()) + frame(b"", PING) + frame(trade(a=2)))
    await peer.receive(20)  # the pong is there
    await peer.send(close_frame(1001))
    await peer.until_left()


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_cancelled_at_any_checkpoint_leaves_no_fd_and_says_how_it_ended(
    way: str, certificates: Certificates, journal: Journal
) -> None:
    plan = plan_of("binance", ("BTC-USDT",))
    lived = 0
    async with reachable(way, exchange, certificates) as (url, proxy):

        async def life(dialled: Dialled) -> None:
            nonlocal lived
            session = session_of(plan, journal)

            def door(address: str, sink: Sink) -> AbstractAsyncContextManager[Connection]:
                return connect(
                    url, sink, clock=trio_clock, ssl_context=certificates.client, proxy=proxy, connector=dialled
                )

            try:
                await session.run(door)
            except ConnectionEnded:
                pass  # by itself; how, is asked of the journal
            finally:
                lived += session.live_at is not None

        journal.note(Letter.TICK, {})  # so that its file is open before anything is counted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(everywhere := Everywhere(life))
        assert everywhere.steps > 30
    opened = [note.value["session"] for note in notes(journal) if note.letter is Letter.OPENED]
    ended = {note.value["session"]: note.value["reason"] for note in notes(journal) if note.letter is Letter.ENDED}
    assert opened == list(ended) == list(range(1, everywhere.steps + 1))
    assert set(ended.values()) == {"stopped", "closed"}
    assert 1 < lived < everywhere.steps  # some were cancelled before, some after they were live
