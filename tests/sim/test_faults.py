"""Each fault does on the wire what it says, and is in the truth."""

from pathlib import Path

import pytest
import trio
from trio_websocket import wrap_client_stream

from collector_trio.errors import ConfigError
from collector_trio.sim import BUMPY, CALM, Fault, Scenario, load_scenario

from .wire import (
    CLOSE,
    FAST,
    PING,
    PONG,
    TEXT,
    Frame,
    Wire,
    closed_with,
    connected,
    get,
    okx,
    serving,
    subscribe,
    timeless,
)

BTC = "/stream?streams=btcusdt@aggTrade/btcusdt@depth@100ms"


@pytest.mark.parametrize(
    ("target", "fault", "code"),
    [
        (BTC, Fault("close"), 1001),
        (BTC, Fault("close", code=1008), 1008),
        ("/ws/v5/public", Fault("close"), 4004),
    ],
)
async def test_close_sends_a_close_frame_and_fin_once_it_is_answered(target: str, fault: Fault, code: int) -> None:
    async with serving(FAST) as server, connected(server, target) as wire:
        assert server.inject(fault) == 1
        close = await wire.close_frame()
        assert close.close_code == code
        await wire.send(close.payload, CLOSE)
        with trio.fail_after(0.9):  # less than it waits for a silent peer
            assert await wire.to_the_end() == []
        assert [(struck.kind, struck.conns) for struck in server.truth.faults] == [("close", [1])]


async def test_who_does_not_answer_a_close_frame_gets_fin_after_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/stream")
        there.server.inject(Fault("close"))
        assert [frame.opcode for frame in await wire.to_the_end()] == [CLOSE]
        assert trio.current_time() == 1


async def test_drop_is_fin_without_a_close_frame_and_with_all_that_was_sent() -> None:
    async with serving(FAST) as server, connected(server, BTC) as wire:
        await wire.send(b"unread", PING)
        await wire.message()
        server.inject(Fault("drop"))
        frames = await wire.to_the_end()
        assert {frame.opcode for frame in frames} <= {TEXT, PONG}
        await wire.stream.aclose()
        (record,) = server.truth.connections
    texts = [frame for frame in frames if frame.opcode == TEXT]
    assert (record.data, record.ended) == (1 + len(texts), "drop")


async def test_abort_is_a_reset() -> None:
    async with serving(FAST) as server, connected(server, BTC) as wire:
        await wire.message()
        server.inject(Fault("abort"))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await wire.to_the_end()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_websocket_library_sees_them_as_such() -> None:
    async def end_of(kind: str) -> int:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream, trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(nursery, stream, "sim", BTC)
            await websocket.get_message()
            server.inject(Fault(kind))
            code = await closed_with(websocket)
            nursery.cancel_scope.cancel()
        return code

    async with serving(FAST) as server:
        assert [await end_of(kind) for kind in ("close", "drop", "abort")] == [1001, 1006, 1006]


async def test_a_stall_withholds_data_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream?streams=btcusdt@trade")
        before = (await wire.message())["data"]["t"]
        assert there.server.inject(Fault("stall", duration_s=30)) == 1
        struck_at = trio.current_time()
        await wire.send(b"there?", PING)
        while (frame := await wire.frame()).opcode == TEXT:
            pass  # of the same taker, sent before the stall
        assert frame == Frame(PONG, b"there?")
        assert await wire.ask(subscribe("btcusdt@depth@100ms")) == {"result": None, "id": 1}
        ping = await wire.frame()
        assert ping.opcode == PING
        await wire.send(ping.payload, PONG)
        while "t" not in (after := (await wire.message())["data"]):
            pass
    assert trio.current_time() - struck_at >= 30
    assert after["t"] > before + 200  # what happened meanwhile is never sent


async def test_a_stalled_okx_connection_is_not_closed_as_idle_and_gets_its_snapshot_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/public")
        there.server.inject(Fault("stall", target="okx", duration_s=100))
        await wire.ask(okx("books", "BTC-USDT"))
        assert (await wire.message())["action"] == "snapshot"
        assert 100 <= trio.current_time() < 101


@pytest.mark.parametrize("status", [503, 429, 418, 451])
async def test_refuse_answers_the_next_handshakes_and_no_more(status: int) -> None:
    async with serving() as server:
        server.inject(Fault("refuse", "okx.public", count=2, status=status, retry_after_s=7))

        async def shake_hands(target: str) -> tuple[int, bytes]:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                wire = Wire(stream)
                return await wire.shake_hands(target), bytes(wire._bytes)

        assert [(await shake_hands("/ws/v5/public"))[0] for _ in range(2)] == [status, status]
        assert (await shake_hands("/stream"))[0] == 101
        assert (await shake_hands("/ws/v5/public"))[0] == 101
        assert server.truth.refused == 2


async def test_a_refusal_may_say_when_to_come_again(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        there.server.inject(Fault("refuse", status=429, retry_after_s=7))
        _, _, headers = await get(
            there.server, "/stream", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        )
        assert headers["retry-after"] == "7"


async def test_deny_answers_the_next_rest_requests_of_its_target_and_no_more() -> None:
    async with serving() as server:
        server.inject(Fault("deny", "binance.spot", count=2, status=403, retry_after_s=7))
        paths = ["/api/v3/time", "/fapi/v1/time", "/api/v5/public/time", "/api/v3/exchangeInfo", "/api/v3/time"]
        answers = [await get(server, path) for path in paths]
    assert [status for status, _, _ in answers] == [403, 200, 200, 403, 200]
    assert answers[0][2]["retry-after"] == "7"
    assert [one.what for one in server.truth.asked] == ["rest"] * 5


@pytest.mark.parametrize("told", [True, False])
async def test_a_ban_refuses_requests_and_handshakes_and_may_say_for_how_long(
    told: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless() as there:
        server = there.server
        server.inject(Fault("ban", "binance", duration_s=30, status=418, told=told))
        await trio.sleep(10)
        status, body, headers = await get(server, "/fapi/v1/time")
        assert status == 418
        assert ("banned until" in str(body), headers.get("retry-after")) == ((True, "20") if told else (False, None))
        assert await there.connect_or_refused("/stream") is None
        assert await there.connect_or_refused("/ws/v5/public") is not None
        await trio.sleep(20)
        assert (await get(server, "/fapi/v1/time"))[0] == 200
        assert await there.connect_or_refused("/stream") is not None


async def test_a_shutdown_is_announced_in_the_exchanges_words_and_then_nobody_gets_in_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless() as there:
        wires = [await there.connect(target) for target in ("/stream", "/ws/v5/public")]
        assert there.server.inject(Fault("shutdown", delay_s=3, duration_s=20)) == 2
        said = [await wire.message() for wire in wires]
        assert said[0]["stream"] == "!serverShutdown"
        assert said[0]["data"]["e"] == "serverShutdown"
        assert (said[1]["event"], said[1]["code"]) == ("notice", "64008")
        for wire in wires:
            assert (await wire.close_frame()).close_code == 1001
        assert trio.current_time() == 3
        assert await there.connect_or_refused("/stream") is None
        assert (await get(there.server, "/api/v3/time"))[0] == 200
        await trio.sleep(20)
        assert await there.connect_or_refused("/stream") is not None


async def test_who_asks_too_much_is_told_to_wait_and_banned_if_he_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(Scenario(enforce_limits=True)) as there:
        server = there.server
        server.inject(Fault("spend", "binance.spot", count=5990))
        answers = [await get(server, "/api/v3/depth?symbol=BTCUSDT&limit=5") for _ in range(6)]
        assert [status for status, _, _ in answers] == [200, 200, 429, 429, 429, 429]
        assert answers[1][2]["x-mbx-used-weight-1m"] == "6000"
        assert 0 < int(answers[2][2]["retry-after"]) <= 61
        assert (await get(server, "/api/v3/time"))[0] == 418
        assert (await get(server, "/fapi/v1/time"))[0] == 200
        await trio.sleep(121)
        assert (await get(server, "/api/v3/time"))[0] == 200


async def test_who_dials_too_often_is_refused_until_the_first_dial_is_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(Scenario(enforce_limits=True)) as there:
        opened = [await there.connect_or_refused("/ws/v5/public") for _ in range(4)]
        assert [wire is not None for wire in opened] == [True, True, True, False]
        await trio.sleep(1)
        assert await there.connect_or_refused("/ws/v5/business") is not None


async def test_a_fault_strikes_only_its_target() -> None:
    async with serving() as server, connected(server, "/stream"), connected(server, "/ws/v5/public"):
        assert server.inject(Fault("stall", "okx.business")) == 0
        assert server.inject(Fault("stall", "okx")) == 1
        assert server.inject(Fault("stall", "binance.spot")) == 1
        assert server.inject(Fault("stall")) == 2


async def test_a_schedule_is_kept_and_repeats(autojump_clock: trio.testing.MockClock) -> None:
    scenario = Scenario(faults=(Fault("close", "binance.spot", at_s=5, every_s=10),))
    ends = []
    async with timeless(scenario) as there:
        for _ in range(3):
            wire = await there.connect(BTC)
            await wire.close_frame()
            ends.append(trio.current_time())
            await wire.stream.aclose()
    assert ends == [5, 15, 25]


async def test_a_scheduled_fault_waits_for_somebody_who_was_sent_data(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(Scenario(faults=(Fault("close", at_s=5),))) as there:
        await trio.sleep(100)
        wire = await there.connect("/stream")
        await trio.sleep(10)
        await wire.ask(subscribe("btcusdt@trade"))
        await wire.close_frame()
        assert trio.current_time() < 112


async def test_bumpy_has_every_kind_and_strikes_every_endpoint_within_30_s(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def come_back(target: str, request: object) -> None:
        while True:
            wire = await there.connect_or_refused(target)
            if wire is not None:
                try:
                    await wire.send(request)
                    while (await wire.frame()).opcode != CLOSE:
                        pass
                except (trio.EndOfChannel, trio.BrokenResourceError):
                    pass
                await wire.stream.aclose()
            await trio.sleep(1)

    async with timeless(BUMPY) as there:
        there.nursery.start_soon(come_back, "/stream", subscribe("btcusdt@trade"))
        there.nursery.start_soon(come_back, "/public/stream", subscribe("btcusdt@depth@100ms"))
        there.nursery.start_soon(come_back, "/market/stream", subscribe("btcusdt@aggTrade"))
        there.nursery.start_soon(come_back, "/ws/v5/public", okx("trades", "BTC-USDT"))
        there.nursery.start_soon(come_back, "/ws/v5/business", okx("trades-all", "BTC-USDT"))
        await trio.sleep(30)
        truth = there.server.truth
    struck = {fault.kind for fault in truth.faults if fault.conns}
    ended = {one.endpoint for one in truth.connections for fault in truth.faults if one.conn in fault.conns}
    assert ended == {"binance.spot", "binance.perp.public", "binance.perp.market", "okx.public", "okx.business"}
    assert struck == {"close", "drop", "abort", "stall"}
    assert truth.refused == 1


async def test_who_does_not_read_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("collector_trio.sim.connection.MAX_OUTBOX_BYTES", 50_000)
    async with timeless(FAST) as there:
        ours, theirs = trio.testing.lockstep_stream_pair()  # nothing is sent that nobody reads
        there.nursery.start_soon(there.server.serve_connection, theirs)
        assert await Wire(ours).shake_hands(BTC) == 101
        await trio.sleep(10)
        (record,) = there.server.truth.connections
    assert record.ended == "abort"
    assert record.uncertain > 0


def test_a_scenario_can_be_named_or_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'symbols = ["BTC-USDT"]\nquiet_symbols = []\ntrades_per_s = 2\n'
        '[[faults]]\nkind = "stall"\nevery_s = 60\nduration_s = 5\n'
        '[[faults]]\nkind = "lose"\nchance = 0.01\nsymbol = "BTC-USDT"\nmarket = "perp"\nchannel = "book"\ncount = 3\n'
    )
    assert load_scenario(None) is CALM
    assert load_scenario("bumpy") is BUMPY
    lose = Fault("lose", chance=0.01, symbol="BTC-USDT", market="perp", channel="book", count=3)
    stall = Fault("stall", every_s=60, duration_s=5)
    assert load_scenario(file) == Scenario(("BTC-USDT",), (), 2, 10, (stall, lose))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("trades_pers = 1", 'trades_pers is unknown; did you mean "trades_per_s"? '),
        ("trades_per_s = 0", "trades_per_s is 0; wanted a number above 0"),
        ("trades_per_s = true", "trades_per_s is True; wanted a number above 0"),
        ("trades_per_s = nan", "trades_per_s is nan; wanted a number above 0"),
        ("trades_per_s = inf", "trades_per_s is inf; wanted a number above 0"),
        ('symbols = "BTC-USDT"', 'symbols is "BTC-USDT"; wanted a list of names such as "BTC-USDT"'),
        ('symbols = ["BTCUSDT"]', "symbols is ['BTCUSDT']; wanted a list of names such as \"BTC-USDT\""),
        ("faults = 3", "faults is 3; wanted tables [[faults]]"),
        (
            '[[faults]]\nkind = "closed"\nat_s = 1',
            'faults[0].kind is "closed"; did you mean "close"? (close, drop, abort, stall, shutdown, refuse, deny, ',
        ),
        ("[[faults]]\nat_s = 1", "faults[0].kind is missing (close, drop, abort, stall, shutdown, refuse, deny, "),
        ('[[faults]]\nkind = "drop"', "faults[0] has no time; wanted at_s or every_s (seconds)"),
        ('[[faults]]\nkind = "drop"\nevery_s = 0', "faults[0].every_s is 0; wanted a number above 0"),
        ('[[faults]]\nkind = "drop"\nat_s = -1', "faults[0].at_s is -1; wanted a number from 0"),
        (
            '[[faults]]\nkind = "drop"\nat_s = 1\ntarget = "okx.publik"',
            'faults[0].target is "okx.publik"; did you mean "okx.public"? (any',
        ),
        (
            '[[faults]]\nkind = "refuse"\nat_s = 1\nstatus = 500',
            'faults[0].status is 500; did you mean "503"? (503, 429, 418, 451, 403)',
        ),
        (
            '[[faults]]\nkind = "refuse"\nat_s = 1\ncount = 0',
            "faults[0].count is 0; wanted a whole number from 1 to 1000000000",
        ),
        (
            '[[faults]]\nkind = "close"\nat_s = 1\ncode = 7',
            "faults[0].code is 7; wanted a whole number from 1000 to 4999",
        ),
        ('markets = ["spot", "prep"]', 'markets[1] is "prep"; did you mean "perp"? (spot, perp)'),
        ("enforce_limits = 1", "enforce_limits is 1; wanted true or false"),
        ('[[faults]]\nkind = "ban"\nat_s = 1\ntold = 1', "faults[0].told is 1; wanted true or false"),
        ("markets = []", "markets is []; wanted a list of spot, perp"),
        ("book_levels = 3", "book_levels is 3; wanted a whole number from 20 to 20000"),
        (
            '[[faults]]\nkind = "lose"',
            "faults[0] has no time; wanted at_s or every_s (seconds), or chance (a probability)",
        ),
        (
            '[[faults]]\nkind = "lose"\nchance = 2',
            "faults[0].chance is 2; wanted a number above 0 up to 1",
        ),
        (
            '[[faults]]\nkind = "lose"\nchance = 0.5\nevery_s = 3',
            "faults[0] has both chance and every_s; wanted one of them",
        ),
        (
            '[[faults]]\nkind = "lose"\nat_s = 1\nchannel = "books"',
            'faults[0].channel is "books"; did you mean "book"? (trades, book)',
        ),
        (
            '[[faults]]\nkind = "lose"\nat_s = 1\nsymbol = "BTCUSDT"',
            'faults[0].symbol is "BTCUSDT"; wanted a name such as "BTC-USDT"',
        ),
        (
            '[[faults]]\nkind = "drop"\nat_s = 1\nchance = 0.5',
            'faults[0].chance means nothing to "drop" (at_s, every_s, kind, target)',
        ),
        (
            '[[faults]]\nkind = "overlap"\nat_s = 1\ntarget = "binance.perp"',
            'faults[0].target is "binance.perp"; "overlap" strikes binance.spot only',
        ),
        (
            '[[faults]]\nkind = "reset_unchained"\nat_s = 1\nsnapshot = 1',
            "faults[0].snapshot is 1; wanted true or false",
        ),
        (
            '[[faults]]\nkind = "snapshot_old"\nat_s = 1\nby = 301',
            "faults[0].by is 301; wanted a whole number from 1 to 300",
        ),
        ("=", "not TOML"),
    ],
)
def test_a_bad_scenario_says_what_was_found_and_what_is_allowed(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_scenario(file)
    (said,) = caught.value.problems
    assert said.startswith(f"{file}: {problem}")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('a = 1\ntrades_per_s = -1\n[[faults]]\nkind = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_scenario(file)
    assert len(caught.value.problems) == 4


def test_a_scenario_that_is_nowhere_names_the_built_in_ones() -> None:
    with pytest.raises(
        ConfigError, match=r'scenario "bumpi" is none of calm, bumpy, and no readable file \(No such file'
    ):
        load_scenario("bumpi")
