"""What took the predecessor down, reproduced against our streams on real sockets: none of it can happen.

R2 (a reader without room whose peer closes) is in tests/net/test_endings.py, since it is about bytes; the exact virtual
times of backoff, pings and silence are in tests/streams/.
"""

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from collector_trio.errors import HttpFailed
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.records import Batch, Letter, Note, read_records
from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.net import http
from collector_trio.net.connect import Connection
from collector_trio.net.tap import Sink
from collector_trio.ops.state import stream_state
from collector_trio.sim import Fault, Scenario
from collector_trio.streams import supervisor
from collector_trio.streams.listing import obtain_listing
from collector_trio.streams.session import Connect
from tests.net.frames import close_frame, frame
from tests.net.peers import Peer, serving, silence

from .reconnecting import keeping, planned, stay, talking, trades_at
from .recorder import recording, rows, store_what_is_left


def url_of(port: int) -> str:
    return f"ws://127.0.0.1:{port}/stream"


async def leave(peer: Peer, code: int = 1001) -> None:
    await peer.send(close_frame(code))
    await peer.until_left()


async def cut(peer: Peer) -> None:
    pass


async def test_five_reconnects_leave_one_socket_established(tmp_path: Path) -> None:
    """R1: the handler connected again without closing what was there: five reconnects, six sockets."""
    ends = [leave, cut, Peer.reset, leave, cut, stay]
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        served += 1
        await talking(ends[served - 1])(peer)

    async with serving(script) as port, keeping(tmp_path, [planned(url_of(port))], ports=[port]) as kept:
        stream = kept.streams[0]
        await kept.until(lambda: stream.sessions == 6 and stream.is_live, "live for the sixth time")
        [found] = kept.sockets()
        assert (found.state, found.peer) == ("ESTABLISHED", f"127.0.0.1:{port}")
        assert not kept.unowned()
        kernel = Path("/proc/net/tcp").read_text().splitlines()
        to_peer = [line.split()[3] for line in kernel[1:] if line.split()[2].endswith(f":{port:04X}")]
        assert to_peer.count("01") == 1  # by the kernel's table of all connections, too
    assert stream.ended == {"closed": 2, "eof": 2, "reset": 1}


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1012, 4004])
async def test_a_clean_close_is_followed_by_a_new_session(code: int, tmp_path: Path) -> None:
    """R3: after a clean close the book's client never came back."""

    async def script(peer: Peer) -> None:
        await talking(stay if stream.sessions == 2 else partial(leave, code=code))(peer)

    async with serving(script) as port, keeping(tmp_path, [planned(url_of(port))], ports=[port]) as kept:
        stream = kept.streams[0]
        await kept.until(lambda: stream.sessions == 2 and stream.is_live, "live again")
    assert sum(stream.ended.values()) == 1


async def test_a_failed_retry_is_retried_and_nothing_says_live_meanwhile(tmp_path: Path) -> None:
    """R4: one failed retry and the stream was dead, while `running` and `is_connected` said yes."""
    states = []

    async def script(peer: Peer) -> None:
        states.append((stream.is_live, stream_state(stream)))
        if stream.sessions == 1:
            await talking(cut)(peer)
        elif stream.sessions < 5:
            await peer.read_head()
            await peer.send(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        else:
            await talking(stay)(peer)

    async with serving(script) as port, keeping(tmp_path, [planned(url_of(port))], ports=[port]) as kept:
        stream = kept.streams[0]
        await kept.until(lambda: stream.sessions == 5 and stream.is_live, "live after three failures")
    assert states == [(False, "dialling")] * 5
    assert stream.ended == {"eof": 1, "refused": 3}


async def test_every_stream_of_every_market_comes_back(tmp_path: Path) -> None:
    """R5: the futures books had no reconnect at all."""
    async with recording(
        tmp_path, serve_with={"scenario": Scenario()}, symbols=("BTC-USDT",), markets=("spot", "perp"), segment="60s"
    ) as running:
        await running.until(lambda: len(running.streams) == 5 and running.all_live(), "live")
        assert {m for s in running.streams for m in s.plan.markets} == {"spot", "perp"}
        before = [stream.sessions for stream in running.streams]
        running.server.inject(Fault("drop"))
        await running.until(
            lambda: all(s.sessions > n for s, n in zip(running.streams, before, strict=True)) and running.all_live(),
            "live again",
        )
    assert all(stream.ended == {"eof": 1} for stream in running.streams)


async def test_a_server_that_accepts_and_closes_is_dialled_ten_times_a_minute_at_most(tmp_path: Path) -> None:
    """R6: with no delay between them, 3 000 to 5 300 dials in 5 s. Here the backoff draws no delay, ever."""
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        served += 1

    async with serving(script) as port, keeping(tmp_path, [planned(url_of(port))], ports=[port]) as kept:
        stream = kept.streams[0]
        await kept.until(lambda: served == supervisor.STREAM_DIALS.limit, "ten dials")
        await trio.sleep(1.0)
        assert (served, stream.sessions, kept.sockets()) == (10, 10, [])
    assert supervisor.STREAM_DIALS.period_s == 60


async def test_a_peer_that_answers_no_ping_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: the pinger logged its timeout and closed nothing: 7 pings, 0 closes."""
    monkeypatch.setattr(EXCHANGES["okx"], "PING_EVERY_S", 0.1)
    heard = []

    async def deaf(peer: Peer) -> None:
        await peer.accept()
        heard.append(await peer.until_left())

    async with (
        serving(deaf) as port,
        keeping(tmp_path, [planned(url_of(port), "okx")], ports=[port]) as kept,
    ):
        stream = kept.streams[0]
        await kept.until(lambda: stream.ended["silent"] >= 2 and len(heard) >= 2, "left twice")
        assert len(kept.sockets()) <= 1
        assert not kept.unowned()
    assert heard[0]  # it was subscribed to and pinged


async def test_a_refused_connect_is_retried_until_somebody_listens(tmp_path: Path) -> None:
    """R8: one refused connect, and the client waited for itself for ever."""
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def serve() -> None:
            listener = trio.SocketListener(taken)
            async with await listener.accept() as client:
                await talking(stay)(Peer(client))

        async with trio.open_nursery() as nursery:

            def counting(connect: Connect) -> Connect:
                def dial(url: str, sink: Sink) -> AbstractAsyncContextManager[Connection]:
                    if kept.streams[0].sessions == 4:
                        taken.listen()
                        nursery.start_soon(serve)
                    return connect(url, sink)

                return dial

            async with keeping(tmp_path, [planned(url_of(port))], ports=[port], connect=counting) as kept:
                await kept.until(lambda: kept.streams[0].is_live, "live once there is a server")
                assert kept.streams[0].ended == {"dial": 3}
            nursery.cancel_scope.cancel()


async def test_a_request_that_is_not_answered_is_a_failure_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: timeouts were counted as successes, so that no alert on the rate of success could fire."""
    monkeypatch.setattr(http, "REQUEST_S", 0.1)
    asked = 0

    async def hang(peer: Peer) -> None:
        nonlocal asked
        asked += 1
        await silence(peer)

    async with serving(hang) as port, keeping(tmp_path, [], ports=[port]) as kept:
        async with kept.around.open_client(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(HttpFailed, match=r"no whole answer within 0\.1 s"):
                await client.get("/")
        with trio.move_on_after(1.0):
            await obtain_listing(EXCHANGES["binance"], "spot", f"http://127.0.0.1:{port}", kept.around)
        assert not kept.owners.sockets() or all(found.owner == "peers" for found in kept.owners.sockets())
    assert asked >= 3
    records = [r for segment in list_segments(journal_dir(tmp_path)) for r in read_records(segment.read())]
    assert not [record for record in records if isinstance(record, Batch)]
    letters = [record.letter for record in records if isinstance(record, Note)]
    assert letters.count(Letter.FAILED) >= 2
    assert letters.count(Letter.REQUEST) - letters.count(Letter.FAILED) <= 1  # the one that was cancelled


async def test_ten_trades_in_one_millisecond_are_ten_rows(tmp_path: Path) -> None:
    """R10: told apart by their time, nine of ten were dropped."""
    trades = trades_at(1_795_000_000_123, *range(2, 12))

    async def ten(peer: Peer) -> None:
        await peer.send(b"".join(map(frame, trades)))
        await peer.until_left()

    async with serving(talking(ten)) as port, keeping(tmp_path, [planned(url_of(port))], ports=[port]) as kept:
        await kept.until(lambda: kept.streams[0].frames == 2 + len(trades), "all of them accepted")
    store_what_is_left(tmp_path)
    found = rows(tmp_path, "trades", "id, epoch_ms(ts)", "id")
    assert [row[0] for row in found] == list(range(1, 12))
    assert len({row[1] for row in found[1:]}) == 1


async def test_a_process_stops_with_its_peers_hanging_and_leaves_nothing(tmp_path: Path) -> None:
    """All of them at once, and a stop in the midst of it: no socket, no task, no second session of any stream."""
    ends = [leave, cut, Peer.reset, silence, stay]
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        served += 1
        await talking(ends[served % len(ends)])(peer)

    async with serving(script) as port:
        plans = [planned(url_of(port), number=n) for n in range(1, 6)]
        async with keeping(tmp_path, plans, ports=[port]) as kept:
            await kept.until(lambda: served > 12, "many sessions")
            assert len(kept.sockets()) <= len(plans)
            started = trio.current_time()
        assert trio.current_time() - started < 2.0
        assert {found.owner for found in kept.owners.sockets()} == {"peers"}
