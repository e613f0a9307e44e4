"""A session's life, to the exact second of virtual time: proof, liveness, silence, and how it ends."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from collector_trio.errors import ConnectionEnded
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Batch, Note, read_records
from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.net.budgets import Budget
from collector_trio.plan import Rate, StreamPlan
from collector_trio.streams.session import GRACE_S, SOCKET_SILENCE_S, Session

from .conftest import plan_of
from .wires import Network, Wire, Wishes, live, trio_clock


def depth(symbol: str = "BTCUSDT", u: int = 2) -> bytes:
    data = {"e": "depthUpdate", "E": 1795000000000, "s": symbol, "U": u, "u": u, "b": [["1.0", "2.0"]], "a": []}
    return json.dumps({"stream": f"{symbol.lower()}@depth@100ms", "data": data}).encode()


def trade(symbol: str = "BTCUSDT", a: int = 1) -> bytes:
    data = {
        "e": "aggTrade",
        "E": 1,
        "s": symbol,
        "a": a,
        "p": "1",
        "q": "1",
        "f": 1,
        "l": 1,
        "T": 1795000000000,
        "m": True,
    }
    return json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": data}).encode()


def okx(channel: str, symbol: str, **row: object) -> bytes:
    return json.dumps({"arg": {"channel": channel, "instId": symbol}, "data": [row]}, separators=(",", ":")).encode()


def okx_trade(symbol: str) -> bytes:
    return okx("trades-all", symbol, instId=symbol, tradeId="1", px="1", sz="1", side="buy", ts="1795000000000")


ACK = b'{"result":null,"id":1}'


def session_of(plan: StreamPlan, journal: Journal) -> Session:
    return Session(
        journal.next_session(), plan, EXCHANGES[plan.exchange], journal, trio_clock, structlog.get_logger(),
        Budget(plan.limits.messages), live(), Wishes(),
    )  # fmt: skip


@asynccontextmanager
async def running(session: Session, network: Network) -> AsyncIterator[list[ConnectionEnded]]:
    """Run `session` beside the block; what ended it is appended to the list that is yielded."""
    ended: list[ConnectionEnded] = []

    async def run() -> None:
        try:
            await session.run(network.connect)
        except ConnectionEnded as ending:
            ended.append(ending)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(100_000):
            yield ended
        nursery.cancel_scope.cancel()


async def wire_of(network: Network) -> Wire:
    await trio.testing.wait_all_tasks_blocked()
    return network.wires[-1]


async def keep_receiving(wire: Wire, frame: bytes, every_s: float, until: float) -> None:
    while trio.current_time() < until:
        wire.receive(frame)
        await trio.sleep(every_s)


def notes(journal: Journal) -> list[Note]:
    records = [r for s in list_segments(journal_dir(journal.data_dir)) for r in read_records(s.read())]
    assert all(isinstance(record, (Note, Batch)) for record in records)
    return [record for record in records if isinstance(record, Note)]


async def test_an_ack_alone_does_not_make_a_session_live(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network):
        wire = await wire_of(network)
        wire.receive(ACK)
        await trio.sleep(1)
        assert session.live_at is None
        wire.receive(depth())
        assert session.live_at is None  # busy trades must bring data too
        wire.receive(trade())
        assert session.live_at == trio.current_time()


async def test_a_quiet_symbol_is_proven_by_its_sibling(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("binance", ("ETH-USDT", "ZEN-USDT"), ("book",)), journal), Network()
    async with running(session, network):
        (await wire_of(network)).receive(depth("ETHUSDT"))
        assert session.live_at is not None


async def test_a_socket_of_quiet_symbols_is_live_once_they_were_asked_for_without_refusal(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("okx", ("ZEN-USDT",), ("trades",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        for _ in range(40):
            await trio.sleep(1)
            wire.receive(b"pong")
        assert session.live_at == pytest.approx(30 + GRACE_S)
        for _ in range(7200):
            await trio.sleep(1)
            wire.receive(b"pong")
        assert not ended


async def test_a_session_whose_first_data_does_not_come_ends_unproven(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network) as ended:
        (await wire_of(network)).receive(ACK)
        await trio.sleep(10 + GRACE_S + 0.001)
        assert [(e.reason, trio.current_time() // 1) for e in ended] == [("unproven", 10)]


async def test_a_wholly_silent_socket_ends_its_session_and_pongs_are_not_data(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth(), trade())
        silent_since = trio.current_time()
        while not ended:
            await trio.sleep(0.25)
            if not ended:
                wire.receive(ACK)
        assert ended[0].reason == "silent"
        assert trio.current_time() - silent_since == pytest.approx(SOCKET_SILENCE_S + GRACE_S, abs=0.5)


async def test_a_silent_symbol_is_asked_for_again_alone(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth("BTCUSDT"), depth("ETHUSDT"))
        await keep_receiving(wire, depth("ETHUSDT"), 0.1, trio.current_time() + 3)
        assert not ended
        asked = [json.loads(text) for text in wire.sent]
        assert [(message["method"], message["params"]) for message in asked[1:]] == [
            ("UNSUBSCRIBE", ["btcusdt@depth@100ms"]),
            ("SUBSCRIBE", ["btcusdt@depth@100ms"]),
        ]


async def test_a_symbol_that_stays_silent_is_asked_for_ever_more_rarely_and_does_not_end_the_session(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth("BTCUSDT"), depth("ETHUSDT"))
        await keep_receiving(wire, depth("ETHUSDT"), 0.5, trio.current_time() + 3600)
        assert not ended
        subscribed = sum('"SUBSCRIBE"' in text for text in wire.sent)
        assert 5 < subscribed < 20


async def test_a_symbol_that_never_comes_does_not_keep_the_others_from_being_live(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("okx", ("BTC-USDT", "GONE-USDT"), ("book",)), journal), Network()
    frame = okx("books", "BTC-USDT", bids=[], asks=[], ts="1795000000000", seqId=5, prevSeqId=5)
    async with running(session, network):
        wire = await wire_of(network)
        await keep_receiving(
            wire, frame.replace(b'"data"', b'"action":"update","data"'), 0.5, trio.current_time() + 120
        )
        assert session.live_at is not None


async def test_a_heartbeat_counts_as_data(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("okx", ("ZEN-USDT",), ("book",)), journal), Network()
    frame = okx("books", "ZEN-USDT", bids=[], asks=[], ts="1795000000000", seqId=5, prevSeqId=5)
    async with running(session, network) as ended:
        wire = await wire_of(network)
        heartbeat = frame.replace(b'"data"', b'"action":"update","data"')
        for second in range(700):
            wire.receive(b"pong", *([heartbeat] if second % 60 == 0 and second < 600 else []))
            await trio.sleep(1)
            if second == 600:
                assert session.live_at is not None
                assert not ended
            if ended:
                break
        assert ended[0].reason == "silent"
        assert second == pytest.approx(540 + 70, abs=1)


async def test_a_refused_subscription_does_not_end_the_others(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("okx", ("BTC-USDT", "GONE-USDT"), ("trades",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        refusal = {"id": "1", "event": "error", "code": "60018"}
        refusal["msg"] = "Wrong URL or channel:trades-all,instId:GONE-USDT doesn't exist."
        wire.receive(json.dumps(refusal).encode(), okx_trade("BTC-USDT"))
        await trio.testing.wait_all_tasks_blocked()
        assert session.live_at is not None
        assert not ended


async def test_okx_is_pinged_and_a_missing_pong_ends_the_session(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("okx", ("ZEN-USDT",), ("trades",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        await trio.sleep(15.001)
        assert wire.sent[-1] == "ping"
        wire.receive(b"pong")
        await trio.sleep(22.5)
        assert wire.sent.count("ping") == 2
        assert not ended
        await trio.sleep(8 + GRACE_S)
        assert [e.reason for e in ended] == ["silent"]


async def test_a_stopped_process_reads_what_waited_before_it_judges(
    journal: Journal, autojump_clock: MockClock
) -> None:
    """As after SIGSTOP: time has gone by, the deadline is over, and the data is there to be read."""
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth(), trade())
        await trio.sleep(SOCKET_SILENCE_S + GRACE_S / 2)  # the deadline is over, the grace turn is not
        wire.receive(depth(u=3), trade(a=2))
        await trio.sleep(1)
        assert not ended


async def test_a_process_that_is_stopped_in_the_readers_turn_gives_it_another_one(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth(), trade())
        await trio.sleep(SOCKET_SILENCE_S + GRACE_S / 2)
        autojump_clock.jump(SOCKET_SILENCE_S)
        await trio.testing.wait_all_tasks_blocked()  # who judges has its turn first
        wire.receive(depth(u=3), trade(a=2))
        await trio.sleep(1)
        assert not ended


async def test_subscriptions_are_paced_within_the_message_budget(journal: Journal, autojump_clock: MockClock) -> None:
    symbols = tuple(f"S{n}-USDT" for n in range(900))
    session, network = session_of(plan_of("binance", symbols, ("book",)), journal), Network()
    async with running(session, network):
        wire = await wire_of(network)
        assert len(wire.sent) == 3
        await trio.sleep(1.001)
        assert [len(json.loads(text)["params"]) for text in wire.sent] == [200, 200, 200, 200, 100]


async def test_what_is_sent_is_written_down_before_it_is_sent(journal: Journal, autojump_clock: MockClock) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network):
        wire = await wire_of(network)
        written = [note.value["text"] for note in notes(journal) if note.letter == "u"]
        assert written == wire.sent


@pytest.mark.parametrize("reason", ["closed", "eof", "reset", "protocol"])
async def test_the_end_of_a_connection_is_written_down_with_its_reason_and_counts(
    journal: Journal, autojump_clock: MockClock, reason: str
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth(), trade())
        wire.end(reason, "as the peer wished")
        await trio.testing.wait_all_tasks_blocked()
        assert [e.reason for e in ended] == [reason]
        (end,) = (note.value for note in notes(journal) if note.letter == "e")
        assert (end["reason"], end["detail"], end["frames"]) == (reason, "as the peer wished", 2)
        assert end["bytes"] == len(depth()) + len(trade())
        assert end["live_ns"] == session.live_ns
        assert wire.closed_at is not None


async def test_a_refused_dial_is_a_session_too(journal: Journal, autojump_clock: MockClock) -> None:
    session = session_of(plan_of("binance", ("BTC-USDT",)), journal)
    network = Network(refuse=lambda attempt: ConnectionEnded("refused", "HTTP 503"))
    async with running(session, network) as ended:
        await trio.testing.wait_all_tasks_blocked()
        assert [e.reason for e in ended] == ["refused"]
    (end,) = (note.value for note in notes(journal) if note.letter == "e")
    assert (end["reason"], end["live_ns"], end["frames"]) == ("refused", None, 0)


async def test_a_cancelled_session_closes_its_connection_and_says_stopped(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT",)), journal), Network()
    async with running(session, network):
        wire = await wire_of(network)
    assert wire.closed_at is not None
    assert [note.value["reason"] for note in notes(journal) if note.letter == "e"] == ["stopped"]


# Books that are broken


def okx_book(symbol: str, seq: int, previous: int) -> bytes:
    row = {"asks": [["2", "1", "0", "1"]], "bids": [["1", "1", "0", "1"]], "ts": "1795000000000", "checksum": 0}
    action = "snapshot" if previous == -1 else "update"
    data = [row | {"seqId": seq, "prevSeqId": previous}]
    arg = {"channel": "books", "instId": symbol}
    return json.dumps({"arg": arg, "action": action, "data": data}, separators=(",", ":")).encode()


def asked_for(wire: Wire) -> list[tuple[str, str]]:
    """What was subscribed and unsubscribed, one argument a line."""
    found = []
    for text in wire.sent:
        message = json.loads(text) if text.startswith("{") else {"op": "", "args": []}
        found += [(message["op"], argument["instId"]) for argument in message["args"]]
    return found


async def test_a_broken_book_is_subscribed_again_alone_ever_more_rarely_until_its_snapshot_comes(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("okx", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        for symbol in ("BTC-USDT", "ETH-USDT"):
            wire.receive(okx_book(symbol, 100, -1), okx_book(symbol, 110, 100))
        await trio.sleep(5)
        del wire.sent[:]
        broken_at, seq, times = trio.current_time(), 200, []
        for _ in range(400):  # a tenth of a second each; one change was lost, and the numbers go on
            before = len(asked_for(wire))
            wire.receive(okx_book("BTC-USDT", seq + 10, seq), okx_book("ETH-USDT", seq, seq - 10 if seq > 200 else 110))
            seq += 10
            await trio.sleep(0.1)
            if len(asked_for(wire)) > before:
                times.append(trio.current_time() - broken_at)
        assert {symbol for _, symbol in asked_for(wire)} == {"BTC-USDT"}
        assert asked_for(wire)[:2] == [("unsubscribe", "BTC-USDT"), ("subscribe", "BTC-USDT")]
        assert times == pytest.approx([0.1, 1.1, 3.1, 7.1, 15.1, 31.1], abs=0.2)
        wire.receive(okx_book("BTC-USDT", 9000, -1), okx_book("BTC-USDT", 9010, 9000))
        told = len(asked_for(wire))
        for seq in range(9010, 9810, 10):
            wire.receive(okx_book("BTC-USDT", seq + 10, seq), okx_trade("ETH-USDT"))
            await trio.sleep(0.1)
        assert len(asked_for(wire)) == told
        assert not ended


async def test_a_connection_whose_messages_are_used_up_ends_instead_of_waiting_for_an_hour(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("okx", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    session.messages = Budget(Rate(5, 3600.0))  # one to begin with, and two for each time a book is asked for again
    async with running(session, network) as ended:
        wire = await wire_of(network)
        for symbol in ("BTC-USDT", "ETH-USDT"):
            wire.receive(okx_book(symbol, 100, -1), okx_book(symbol, 110, 100))
        seq, began = 200, trio.current_time()
        while not ended and trio.current_time() < began + 300:
            wire.receive(okx_book("BTC-USDT", seq + 10, seq), okx_book("ETH-USDT", seq, seq - 10 if seq > 200 else 110))
            seq += 10
            await trio.sleep(0.1)
    assert [ending.reason for ending in ended] == ["spent"]
    assert "5 per 3600 s on one connection are used up" in ended[0].detail
    assert sum(text != "ping" for text in wire.sent) == 5
    assert trio.current_time() - began < 60


async def test_a_book_that_has_no_snapshots_in_band_is_wanted_by_rest_once_it_changes(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    wishes = session.snapshots
    assert isinstance(wishes, Wishes)
    async with running(session, network):
        wire = await wire_of(network)
        assert wishes.wanted == []
        wire.receive(depth("ETHUSDT"))
        assert wishes.wanted == ["ETH-USDT"]
        wire.receive(depth("BTCUSDT"))
        assert wishes.wanted == ["ETH-USDT", "BTC-USDT"]
        assert all("UNSUBSCRIBE" not in text for text in wire.sent)


async def test_asking_one_subscription_again_does_not_prolong_the_patience_with_a_wholly_silent_socket(
    journal: Journal, autojump_clock: MockClock
) -> None:
    session, network = session_of(plan_of("binance", ("BTC-USDT", "ETH-USDT"), ("book",)), journal), Network()
    async with running(session, network) as ended:
        wire = await wire_of(network)
        wire.receive(depth("BTCUSDT"), depth("ETHUSDT"))
        await trio.sleep(1.5)
        wire.receive(depth("ETHUSDT", u=3))
        silent_since = trio.current_time()
        await trio.sleep(4)
        assert sum("UNSUBSCRIBE" in text for text in wire.sent) == 1  # BTC-USDT fell silent first
        assert not ended
        await trio.sleep(5)
        assert [ending.reason for ending in ended] == ["silent"]
        assert wire.closed_at == pytest.approx(silent_since + SOCKET_SILENCE_S + GRACE_S, abs=GRACE_S)
