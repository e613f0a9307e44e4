"""Binance's rules for a connection (protocols.md 1.2 and 1.3) and its REST."""

import pytest
import trio

from collector_trio.sim import CALM, SimServer

from .wire import PING, PONG, TEXT, Wire, connected, get, serving, subscribe, timeless


async def test_requests_are_acknowledged_and_listed() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        assert await wire.ask(subscribe("btcusdt@trade", "ethusdt@depth@100ms")) == {"result": None, "id": 1}
        assert await wire.ask(subscribe("btcusdt@trade", method="UNSUBSCRIBE", number=2)) == {"result": None, "id": 2}
        listed = await wire.ask({"method": "LIST_SUBSCRIPTIONS", "id": "three"})
        assert listed == {"result": ["ethusdt@depth@100ms"], "id": "three"}


@pytest.mark.parametrize("name", ["BTCUSDT@aggTrade", "nosuch@aggTrade", "btcusdt@nosuch", "!miniTicker@arr"])
async def test_a_well_formed_stream_that_is_none_is_acknowledged_and_silent(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream")
        assert await wire.ask(subscribe(name)) == {"result": None, "id": 1}
        assert (await wire.frame()).opcode == PING
        assert trio.current_time() >= 20


async def test_a_malformed_stream_costs_the_connection() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        answer = await wire.ask(subscribe("@@@x###"))
        assert answer == {"error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": 1}
        assert (await wire.close_frame()).close_code == 1008


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", 3), ("[]", 2), ('{"method":"NONE","id":1}', 2), ('{"method":"SUBSCRIBE","id":1}', 2), ('{"id":[]}', 2)],
)
async def test_a_bad_request_is_refused_and_the_connection_goes_on(text: str, code: int) -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        assert (await wire.ask(text))["error"]["code"] == code
        assert await wire.ask(subscribe("btcusdt@trade")) == {"result": None, "id": 1}


async def test_the_1025th_stream_costs_the_connection() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        await wire.ask(subscribe(*(f"x{number}@trade" for number in range(1024))))
        assert (await wire.ask(subscribe("btcusdt@trade", number=2)))["error"]["code"] == 4
        assert (await wire.close_frame()).close_code == 1008


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
async def test_six_messages_in_a_second_cost_the_connection_and_pings_count(
    opcode: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream")
        for _ in range(10):  # five in any second are fine
            await wire.send('{"method":"LIST_SUBSCRIPTIONS","id":1}' if opcode == TEXT else "", opcode)
            await trio.sleep(0.2)
        for _ in range(6):
            await wire.send('{"method":"LIST_SUBSCRIPTIONS","id":1}' if opcode == TEXT else "", opcode)
        close = await wire.close_frame()
    assert (close.close_code, close.payload[2:]) == (1008, b"Too many requests")


async def test_the_server_pings_every_20_s_and_leaves_who_answers_in_peace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream")
        for number in range(1, 11):
            frame = await wire.frame()
            assert (frame.opcode, trio.current_time()) == (PING, 20 * number)
            assert frame.payload
            await wire.send(frame.payload, PONG)


@pytest.mark.parametrize("payload", [None, b"", b"wrong"])
async def test_a_ping_without_its_own_pong_ends_the_connection_after_60_s(
    payload: bytes | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream")
        while (frame := await wire.frame()).opcode == PING:
            if payload is not None:
                await wire.send(payload, PONG)
        assert frame.close_code == 1008
        assert trio.current_time() == 80


async def test_a_pong_answers_for_the_pings_before_it(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream")
        for _ in range(4):
            for _ in range(2):
                frame = await wire.frame()
                assert frame.opcode == PING
            await wire.send(frame.payload, PONG)


async def test_the_query_subscribes_and_chooses_the_unit_of_time(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        milli = await there.connect("/stream?streams=btcusdt@depth@100ms/ethusdt%40trade")
        micro = await there.connect("/stream?streams=btcusdt@depth@100ms&timeUnit=MICROSECOND")
        assert len(str((await milli.message())["data"]["E"])) == 13
        assert len(str((await micro.message())["data"]["E"])) == 16
        assert await milli.ask({"method": "LIST_SUBSCRIPTIONS", "id": None}) == {
            "result": ["btcusdt@depth@100ms", "ethusdt@trade"],
            "id": None,
        }


async def test_nothing_comes_any_more_after_unsubscribing(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream?streams=btcusdt@trade")
        await wire.message()
        await wire.ask(subscribe("btcusdt@trade", method="UNSUBSCRIBE"))
        assert (await wire.frame()).opcode == PING


async def test_exchange_info_lists_terms_and_knows_what_it_does_not_list() -> None:
    server = SimServer(CALM)
    status, body, headers = await get(server, "/api/v3/exchangeInfo?symbol=BTCUSDT")
    (one,) = body["symbols"]
    assert (status, one["baseAsset"], one["quoteAsset"], one["status"]) == (200, "BTC", "USDT", "TRADING")
    assert one["filters"][0]["tickSize"] == "0.01000000"
    assert headers["x-mbx-used-weight-1m"] == "20"
    status, body, headers = await get(server, "/api/v3/exchangeInfo?symbol=NOSUCH")
    assert (status, body) == (400, {"code": -1121, "msg": "Invalid symbol."})
    assert headers["x-mbx-used-weight-1m"] == "40"  # refused calls cost, too


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth?symbol=BTCUSDT&limit=x", 400, -1100),
        ("/api/v3/aggTrades?symbol=BTCUSDT&fromId=-1", 400, -1100),
        ("/api/v3/nosuch", 404, -1000),
        ("/nosuch", 404, -1000),
    ],
)
async def test_a_bad_rest_request_gets_binances_error(target: str, status: int, code: int) -> None:
    answered, body, _ = await get(SimServer(CALM), target)
    assert (answered, body["code"]) == (status, code)


async def test_time_is_told_in_the_unit_asked_for() -> None:
    server = SimServer(CALM, now_ns=lambda: 1_700_000_000_123_456_789)
    assert (await get(server, "/api/v3/time"))[1] == {"serverTime": 1_700_000_000_123}
    in_micro = await get(server, "/api/v3/time", "X-MBX-TIME-UNIT: MICROSECOND\r\n")
    assert in_micro[1] == {"serverTime": 1_700_000_000_123_456}
    assert (await get(server, "/api/v3/ping"))[1] == {}


async def test_missed_aggregates_can_be_asked_for_by_id(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/stream?streams=btcusdt@aggTrade")
        seen = [(await wire.message())["data"] for _ in range(100)]
        _, page, _ = await get(there.server, f"/api/v3/aggTrades?symbol=BTCUSDT&fromId={seen[20]['a']}&limit=50")
        assert page == [{key: data[key] for key in "apqflTmM"} for data in seen[20:70]]
        _, newest, _ = await get(there.server, "/api/v3/aggTrades?symbol=BTCUSDT&limit=1")
        assert newest[0]["a"] >= seen[-1]["a"]
        _, since, _ = await get(
            there.server, f"/api/v3/aggTrades?symbol=BTCUSDT&startTime={seen[50]['T']}&endTime={seen[60]['T']}"
        )
        assert [row["a"] for row in since] == [
            data["a"] for data in seen if seen[50]["T"] <= data["T"] <= seen[60]["T"]
        ]


async def test_a_ping_of_the_clients_is_answered_with_its_payload() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        await wire.send(b"abc", PING)
        frame = await wire.frame()
        assert (frame.opcode, frame.payload) == (PONG, b"abc")


async def test_a_fragmented_request_is_put_together() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        text = b'{"method":"LIST_SUBSCRIPTIONS","id":5}'
        await wire.stream.send_all(b"\x01\x85\0\0\0\0" + text[:5])
        await wire.stream.send_all(bytes([0x80, 0x80 | len(text) - 5]) + b"\0\0\0\0" + text[5:])
        assert await wire.message() == {"result": [], "id": 5}


async def test_bytes_that_are_no_websocket_end_the_connection() -> None:
    async with serving() as server, connected(server, "/stream") as wire:
        await wire.stream.send_all(b"\x81\x03abc")  # unmasked
        assert (await wire.close_frame()).close_code == 1002


async def test_a_handshake_without_a_key_is_refused() -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(
                b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 400")


async def test_what_is_no_http_is_hung_up_on() -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(b"\0\1\2\3\r\n\r\n")
            assert await stream.receive_some() == b""


async def test_who_sends_no_request_is_hung_up_on_after_10_s(autojump_clock: trio.testing.MockClock) -> None:
    server = SimServer(CALM)
    ours, theirs = trio.testing.memory_stream_pair()
    await server.serve_connection(theirs)
    assert trio.current_time() == 10
    assert await Wire(ours).to_the_end() == []
