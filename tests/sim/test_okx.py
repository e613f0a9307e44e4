"""OKX's rules for a connection (protocols.md 4.2 and 4.3) and its REST."""

import pytest
import trio

from collector_trio.sim import CALM, Scenario, SimServer

from .wire import CLOSE, TEXT, Wire, connected, get, okx, serving, timeless

QUIET = Scenario(symbols=(), quiet_symbols=("ZEN-USDT",))


async def test_each_arg_gets_its_own_acknowledgement() -> None:
    async with serving() as server, connected(server, "/ws/v5/public") as wire:
        await wire.send(okx("books", "BTC-USDT", "ETH-USDT", number="abc1"))
        for native in ("BTC-USDT", "ETH-USDT"):
            arg = {"channel": "books", "instId": native}
            answer = await wire.message()
            assert answer == {"id": "abc1", "event": "subscribe", "arg": arg, "connId": answer["connId"]}


@pytest.mark.parametrize(
    ("endpoint", "channel", "native", "code"),
    [
        ("public", "books", "NO-SUCH", "60018"),
        ("public", "nosuch", "BTC-USDT", "60018"),
        ("business", "trades-all", "NO-SUCH", "60018"),
        ("public", "trades-all", "BTC-USDT", "64001"),
        ("business", "books", "BTC-USDT", "64002"),
        ("business", "trades", "BTC-USDT", "64002"),
        ("public", "books-l2-tbt", "BTC-USDT", "64003"),
    ],
)
async def test_what_does_not_exist_there_is_refused(endpoint: str, channel: str, native: str, code: str) -> None:
    async with serving() as server, connected(server, f"/ws/v5/{endpoint}") as wire:
        answer = await wire.ask(okx(channel, native, number="9"))
        assert (answer["event"], answer["code"], answer["id"]) == ("error", code, "9")


async def test_one_bad_arg_does_not_spoil_the_others() -> None:
    async with serving() as server, connected(server, "/ws/v5/business") as wire:
        await wire.send(okx("trades-all", "NO-SUCH", "BTC-USDT"))
        assert [(await wire.message())["event"] for _ in range(2)] == ["error", "subscribe"]
        assert (await wire.message())["data"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "60012"),
        ("[]", "60012"),
        ('{"op":"nosuch","args":[]}', "60019"),
        ('{"op":"subscribe"}', "60013"),
        ('{"id":"with space","op":"subscribe","args":[]}', "60033"),
    ],
)
async def test_a_bad_request_is_refused_and_the_connection_goes_on(text: str, code: str) -> None:
    async with serving() as server, connected(server, "/ws/v5/public") as wire:
        assert (await wire.ask(text))["code"] == code
        assert (await wire.ask(okx("trades", "BTC-USDT")))["event"] == "subscribe"


async def test_ping_in_words_is_answered_in_words() -> None:
    async with serving() as server, connected(server, "/ws/v5/public") as wire:
        await wire.send("ping")
        assert (await wire.frame()).payload == b"pong"


async def test_a_connection_that_is_told_nothing_is_closed_after_30_s(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/public")
        assert (await wire.frame()).close_code == 4004
        assert trio.current_time() == 30


async def test_pings_in_words_keep_a_connection_but_protocol_pings_do_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/public")
        for _ in range(10):
            await trio.sleep(25)
            await wire.send("ping")
            assert (await wire.frame()).payload == b"pong"
        await trio.sleep(25)
        await wire.send(b"", opcode=9)
        assert (await wire.close_frame()).close_code == 4004
        assert trio.current_time() == 280


async def test_the_481st_request_of_an_hour_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(QUIET) as there:
        wire = await there.connect("/ws/v5/public")
        for _ in range(240):
            assert (await wire.ask(okx("tickers", "ZEN-USDT")))["event"] == "subscribe"
            assert (await wire.ask(okx("tickers", "ZEN-USDT", op="unsubscribe")))["event"] == "unsubscribe"
        assert (await wire.ask(okx("tickers", "ZEN-USDT")))["code"] == "60014"
        for _ in range(144):
            await trio.sleep(25)
            await wire.send("ping")
            await wire.frame()
        assert (await wire.ask(okx("tickers", "ZEN-USDT")))["event"] == "subscribe"


async def test_a_request_above_64_kb_costs_the_connection() -> None:
    async with serving() as server, connected(server, "/ws/v5/public") as wire:
        await wire.send("x" * (64 * 1024 + 1))
        assert (await wire.close_frame()).close_code == 1009


async def test_a_book_without_change_has_a_heartbeat_after_60_s(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(QUIET) as there:
        wire = await there.connect("/ws/v5/public")
        there.nursery.start_soon(keep_awake, wire)
        await wire.ask(okx("books", "ZEN-USDT"))
        seq = (await wire.message())["data"][0]["seqId"]
        heartbeats = 0
        while not heartbeats:
            frame = await wire.frame()
            assert frame.opcode == TEXT
            if frame.payload == b"pong":
                continue
            *_, row = there.server.truth.rows(channel="book")
            assert row["prev_seq"] == seq
            heartbeats += row["last_seq"] == seq and not row["bids"] and not row["asks"]
            seq = row["last_seq"]


async def keep_awake(wire: Wire) -> None:
    while True:
        await trio.sleep(20)
        await wire.send("ping")


async def test_subscribing_again_brings_a_new_snapshot(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/public")
        await wire.ask(okx("books", "BTC-USDT"))
        assert (await wire.message())["action"] == "snapshot"
        assert (await wire.message())["action"] == "update"
        await wire.ask(okx("books", "BTC-USDT", op="unsubscribe"))
        await wire.ask(okx("books", "BTC-USDT"))
        again = await wire.message()
        assert (again["action"], len(again["data"][0]["bids"])) == ("snapshot", 400)


async def test_instruments_are_listed_by_type() -> None:
    server = SimServer(CALM)
    _, spot, _ = await get(server, "/api/v5/public/instruments?instType=SPOT")
    assert [one["instId"] for one in spot["data"]] == ["BTC-USDT", "ETH-USDT", "SOL-USDT", "ZEN-USDT"]
    assert [spot["data"][0][key] for key in ("tickSz", "state", "ctVal")] == ["0.1", "live", ""]
    _, swaps, _ = await get(server, "/api/v5/public/instruments?instType=SWAP")
    names = [f"{symbol}-USDT-SWAP" for symbol in ("BTC", "ETH", "SOL", "ZEN")]
    assert [one["instId"] for one in swaps["data"]] == names
    keys = ("ctVal", "ctMult", "ctValCcy", "ctType", "settleCcy", "instFamily", "uly", "lotSz")
    wanted = ["0.01", "1", "BTC", "linear", "USDT", "BTC-USDT", "BTC-USDT", "0.01"]
    assert [swaps["data"][0][key] for key in keys] == wanted
    assert (await get(server, "/api/v5/public/instruments?instType=FUTURES"))[1]["data"] == []


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/v5/public/instruments", 200, "50014"),
        ("/api/v5/public/instruments?instType=X", 200, "51000"),
        ("/api/v5/public/instruments?instType=SPOT&instId=NO-SUCH", 200, "51001"),
        ("/api/v5/market/books?instId=NO-SUCH", 200, "51001"),
        ("/api/v5/market/books?instId=BTC-USDT&sz=401", 200, "51000"),
        ("/api/v5/market/history-trades?instId=BTC-USDT&after=x", 200, "51000"),
        ("/api/v5/nosuch", 404, "404"),
    ],
)
async def test_a_bad_rest_request_gets_okxs_error(target: str, status: int, code: str) -> None:
    answered, body, _ = await get(SimServer(CALM), target)
    assert (answered, body["code"]) == (status, code)


async def test_missed_matches_can_be_paged_backwards(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/business")
        await wire.ask(okx("trades-all", "BTC-USDT"))
        seen = [match for _ in range(100) for match in (await wire.message())["data"]]
        target = f"/api/v5/market/history-trades?instId=BTC-USDT&type=1&limit=30&after={seen[50]['tradeId']}"
        _, page, _ = await get(there.server, target)
        assert page["data"] == seen[49:19:-1]
        _, newest, _ = await get(there.server, "/api/v5/market/history-trades?instId=BTC-USDT")
        assert int(newest["data"][0]["tradeId"]) >= int(seen[-1]["tradeId"])


async def test_rest_books_share_the_numbers_of_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/ws/v5/public")
        await wire.ask(okx("books", "BTC-USDT"))
        (snapshot,) = (await wire.message())["data"]
        _, body, _ = await get(there.server, "/api/v5/market/books?instId=BTC-USDT&sz=400")
    (rest,) = body["data"]
    assert (rest["seqId"], rest["bids"], rest["asks"]) == (snapshot["seqId"], snapshot["bids"], snapshot["asks"])


async def test_the_time_is_told_in_milliseconds() -> None:
    server = SimServer(CALM, now_ns=lambda: 1_700_000_000_123_456_789)
    assert (await get(server, "/api/v5/public/time"))[1]["data"] == [{"ts": "1700000000123"}]


async def test_a_polite_client_is_answered_and_counted() -> None:
    async with serving() as server:
        async with connected(server, "/ws/v5/business") as wire:
            await wire.ask(okx("trades-all", "BTC-USDT", "ETH-USDT"))
            await wire.send((1000).to_bytes(2, "big"), CLOSE)
            frames = await wire.to_the_end()
        (record,) = server.truth.connections
    assert frames[-1].close_code == 1000
    texts = [frame for frame in frames if frame.opcode == TEXT]
    assert 1 + len(texts) == record.data + record.control  # `ask` took the first
    assert (record.control, record.uncertain) == (2, 0)
