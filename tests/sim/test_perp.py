"""Perpetuals: Binance USD-M (protocols.md 2) and OKX swaps (4.4, 4.8)."""

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import trio

from collector_trio.sim import CALM, Scenario, SimServer

from .wire import FAST, PING, PONG, get, okx, subscribe, timeless

PUBLIC = "/public/stream?streams=btcusdt@depth@100ms"
MARKET = "/market/stream?streams=btcusdt@aggTrade"


@pytest.mark.parametrize(
    ("path", "carried", "silent"),
    [
        ("/public/stream", "btcusdt@depth@100ms", "btcusdt@aggTrade"),
        ("/market/stream", "btcusdt@aggTrade", "btcusdt@depth@100ms"),
    ],
)
async def test_a_stream_asked_for_on_the_wrong_path_is_acknowledged_and_silent(
    path: str, carried: str, silent: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless() as there:
        wire = await there.connect(path)
        assert await wire.ask(subscribe(silent)) == {"result": None, "id": 1}
        ping = await wire.frame()
        assert (ping.opcode, trio.current_time()) == (PING, 180)
        await wire.send(ping.payload, PONG)
        assert (await wire.ask({"method": "LIST_SUBSCRIPTIONS", "id": 2}))["result"] == [silent]
        await wire.send(subscribe(carried, number=3))
        assert {"result": None, "id": 3} in [await wire.message() for _ in range(2)]
        assert (await wire.message())["stream"] == carried


async def test_ten_messages_in_a_second_are_fine_and_eleven_are_not(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless() as there:
        wire = await there.connect("/market/stream")
        for _ in range(10):
            await wire.ask({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        await wire.send({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert (await wire.close_frame()).close_code == 1008


async def test_a_ping_without_its_pong_ends_the_connection_after_ten_minutes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless() as there:
        wire = await there.connect("/public/stream")
        assert (await wire.close_frame()).close_code == 1008
        assert trio.current_time() == 780


async def test_diffs_chain_by_pu_and_their_ids_jump(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect(PUBLIC)
        diffs = [(await wire.message())["data"] for _ in range(50)]
    assert list(diffs[0]) == ["e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st"]
    assert all(after["pu"] == before["u"] for before, after in pairwise(diffs))
    assert all(data["pu"] < data["U"] <= data["u"] for data in diffs)
    assert sum(data["U"] != data["pu"] + 1 for data in diffs) > 20
    assert all(data["T"] < data["E"] and data["st"] == 1 and data["ps"] == "BTCUSDT" for data in diffs)


async def test_aggregates_are_numbered_one_by_one_though_matches_are_missing_between_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect(MARKET)
        seen = [(await wire.message())["data"] for _ in range(300)]
        _, page, headers = await get(there.server, f"/fapi/v1/aggTrades?symbol=BTCUSDT&fromId={seen[20]['a']}&limit=50")
    assert list(seen[0]) == ["e", "E", "s", "a", "p", "q", "nq", "f", "l", "T", "m", "st"]
    assert [data["a"] for data in seen] == list(range(seen[0]["a"], seen[0]["a"] + 300))
    assert any(after["f"] > before["l"] + 1 for before, after in pairwise(seen))
    assert page == [{key: data[key] for key in ("a", "p", "q", "nq", "f", "l", "T", "m")} for data in seen[20:70]]
    assert headers["x-mbx-used-weight-1m"] == "20"


async def test_raw_trades_are_on_public_and_say_which_are_the_insurance_funds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/public/stream?streams=btcusdt@trade")
        seen = [(await wire.message())["data"] for _ in range(300)]
    assert [data["t"] for data in seen] == list(range(seen[0]["t"], seen[0]["t"] + 300))
    assert {data["X"] for data in seen} == {"MARKET", "INSURANCE_FUND"}


async def test_a_futures_book_from_rest_and_diffs_is_the_true_book(autojump_clock: trio.testing.MockClock) -> None:
    """As protocols.md 2.5 says to: the first diff that counts has pu <= lastUpdateId <= u."""
    async with timeless(FAST) as there:
        wire = await there.connect(PUBLIC)
        diffs = [(await wire.message())["data"] for _ in range(3)]
        _, snapshot, _ = await get(there.server, "/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
        book: dict[str, dict[str, str]] = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
        diffs += [(await wire.message())["data"] for _ in range(50)]
        first, *rest = [data for data in diffs if data["u"] >= snapshot["lastUpdateId"]]
        assert first["pu"] <= snapshot["lastUpdateId"] <= first["u"]
        for data in (first, *rest):
            for side in ("b", "a"):
                book[side].update(data[side])
        truth = there.server.truth.book_at("binance", "perp", "BTCUSDT", data["E"] * 1000 + 999)
    found = [{price: size for price, size in book[side].items() if Decimal(size)} for side in ("b", "a")]
    assert (data["u"], *found) == truth
    assert snapshot["T"] < snapshot["E"]


async def test_futures_list_perpetuals_and_one_contract_with_a_delivery_date() -> None:
    server = SimServer(CALM)
    _, body, headers = await get(server, "/fapi/v1/exchangeInfo")
    kinds = {one["symbol"]: one["contractType"] for one in body["symbols"]}
    assert kinds.pop("BTCUSDT_261225") == "CURRENT_QUARTER"
    assert kinds == dict.fromkeys(("BTCUSDT", "ETHUSDT", "SOLUSDT", "ZENUSDT"), "PERPETUAL")
    one = body["symbols"][0]
    assert [one[key] for key in ("pair", "marginAsset", "deliveryDate")] == ["BTCUSDT", "USDT", 4133404800000]
    assert [one["filters"][0]["tickSize"], one["filters"][1]["stepSize"]] == ["0.10", "0.001"]
    assert (body["futuresType"], headers["x-mbx-used-weight-1m"]) == ("U_MARGINED", "1")
    assert (await get(server, "/fapi/v1/ping"))[1] == {}
    assert list((await get(server, "/fapi/v1/time", "X-MBX-TIME-UNIT: MICROSECOND\r\n"))[1]) == ["serverTime"]


@pytest.mark.parametrize(
    ("limit", "weight", "levels"),
    [("", 1, 500), ("&limit=5", 2, 5), ("&limit=100", 5, 100), ("&limit=500", 10, 500), ("&limit=1000", 20, 560)],
)
async def test_a_futures_book_costs_by_its_depth(limit: str, weight: int, levels: int) -> None:
    status, body, headers = await get(SimServer(CALM), f"/fapi/v1/depth?symbol=BTCUSDT{limit}")
    assert (status, headers["x-mbx-used-weight-1m"]) == (200, str(weight))
    assert len(body["bids"]) == len(body["asks"]) == levels


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("depth", 400, -1102),
        ("depth?symbol=NOSUCH", 400, -1121),
        ("depth?symbol=BTCUSDT&limit=5000", 400, -4021),
        ("depth?symbol=BTCUSDT&limit=7", 400, -4021),
        ("nosuch", 404, -1000),
    ],
)
async def test_a_bad_futures_request_gets_binances_error(target: str, status: int, code: int) -> None:
    answered, body, _ = await get(SimServer(CALM), f"/fapi/v1/{target}")
    assert (answered, body["code"]) == (status, code)


async def test_a_book_can_be_deeper_than_rest_shows() -> None:
    server = SimServer(Scenario(book_levels=1300))
    _, body, _ = await get(server, "/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
    assert len(body["bids"]) == len(body["asks"]) == 1000
    assert len(server.book("binance", "perp", "BTCUSDT")[1]) == 1300
    assert server.book("binance", "spot", "BTCUSDT") != server.book("binance", "perp", "BTCUSDT")


async def test_swaps_have_their_own_numbers_and_sizes_in_contracts(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/ws/v5/public")
        await wire.send(okx("books", "BTC-USDT", "BTC-USDT-SWAP"))
        seen: dict[str, list[dict[str, Any]]] = {"BTC-USDT": [], "BTC-USDT-SWAP": []}
        while min(map(len, seen.values())) < 10:
            message = await wire.message()
            if "data" in message:
                seen[message["arg"]["instId"]] += message["data"]
        rows = list(there.server.truth.rows(market="perp"))
    for run in seen.values():
        assert len(run[0]["bids"]) == 400
        assert all(after["prevSeqId"] == before["seqId"] for before, after in pairwise(run))
    assert {data["seqId"] for data in seen["BTC-USDT"]}.isdisjoint(data["seqId"] for data in seen["BTC-USDT-SWAP"])
    assert {(row["native_symbol"], row["contract_size"]) for row in rows} == {("BTC-USDT-SWAP", "0.01")}
    assert all(Decimal(size) % Decimal("0.01") == 0 for _, size, *_ in seen["BTC-USDT-SWAP"][0]["bids"])
