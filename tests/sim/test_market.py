"""The market behind the exchanges, and that what they publish of it is one story."""

from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio

from collector_trio.sim import CALM, Scenario, SimServer
from collector_trio.sim.listings import (
    binance_listing,
    binance_perp_listing,
    okx_listing,
    okx_swap_listing,
    split_symbol,
)
from collector_trio.sim.market import Listing, Market, spell

from .wire import FAST, Wire, connected, get, okx, serving, timeless

BTC = ("btcusdt@aggTrade", "btcusdt@trade", "btcusdt@depth@100ms")


@pytest.mark.parametrize(
    "listing",
    [
        binance_listing("BTC-USDT"),
        okx_swap_listing("ETH-USDT"),
        binance_perp_listing("SHIB-USDT"),
        okx_listing("X-EUR"),
    ],
)
def test_a_book_stays_deep_and_uncrossed_however_long_the_market_walks(listing: Listing) -> None:
    market = Market(listing, Random(5))
    for _ in range(3000):
        market.take()
        market.stir(4)
        assert 0 < market.best_bid < market.best_ask
        assert min(len(market.bids.prices), len(market.asks.prices)) >= market.fewest
        assert min(*market.bids.lots.values(), *market.asks.lots.values()) > 0


@pytest.mark.parametrize(
    ("value", "digits", "padded", "text"),
    [
        (612345, 1, None, "61234.5"),
        (612340, 1, None, "61234"),
        (6123450, 2, 8, "61234.50000000"),
        (1, 8, 8, "0.00000001"),
        (1, 8, None, "0.00000001"),
        (7, 0, 8, "7.00000000"),
        (7, 0, None, "7"),
        (0, 5, None, "0"),
    ],
)
def test_numbers_are_spelled_as_the_exchange_spells_them(
    value: int, digits: int, padded: int | None, text: str
) -> None:
    assert spell(value, digits, padded) == text


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("BTCUSDT", "BTC-USDT"),
        ("ETHFDUSD", "ETH-FDUSD"),
        ("BUSDTRY", "BUSD-TRY"),
        ("VETETH", "VET-ETH"),
        ("BTCUSD", "BTC-USD"),
    ],
)
def test_recorded_names_are_split_at_a_known_quote(native: str, symbol: str) -> None:
    assert split_symbol(native) == symbol


async def test_binance_ids_chain_on_a_connection_and_go_on_over_a_reconnect() -> None:
    async with serving(FAST) as server:
        async with connected(server, f"/stream?streams={'/'.join(BTC)}") as wire:
            first = [(await wire.message())["data"] for _ in range(300)]
        async with connected(server, f"/stream?streams={'/'.join(BTC)}") as wire:
            second = [(await wire.message())["data"] for _ in range(300)]

    for run in (first, second):
        diffs = [data for data in run if data["e"] == "depthUpdate"]
        trades = [data["t"] for data in run if data["e"] == "trade"]
        aggregates = [data for data in run if data["e"] == "aggTrade"]
        assert all(after["U"] == before["u"] + 1 for before, after in pairwise(diffs))
        assert trades == list(range(trades[0], trades[0] + len(trades)))
        assert all(after["a"] == before["a"] + 1 for before, after in pairwise(aggregates))
        assert all(after["f"] == before["l"] + 1 for before, after in pairwise(aggregates))
    assert min(data["t"] for data in second if "t" in data) > max(data["t"] for data in first if "t" in data)


async def test_two_connections_are_told_the_same() -> None:
    async with (
        serving(FAST) as server,
        connected(server, f"/stream?streams={'/'.join(BTC)}") as one,
        connected(server, f"/stream?streams={'/'.join(BTC)}") as other,
    ):
        ours = [await one.message() for _ in range(100)]
        while ours[0] != (first := await other.message()):
            if first in ours:
                ours = ours[ours.index(first) :]
                break
        assert [await other.message() for _ in ours[1:]] == ours[1:]


async def test_okx_matches_are_numbered_one_by_one_and_aggregates_cover_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        business, public = await there.connect("/ws/v5/business"), await there.connect("/ws/v5/public")
        await business.ask(okx("trades-all", "BTC-USDT"))
        await public.ask(okx("trades", "BTC-USDT"))
        matches = [(await business.message())["data"] for _ in range(200)]
        aggregates = [(await public.message())["data"][0] for _ in range(100)]
    assert any(len(data) > 1 for data in matches)
    ids = [int(match["tradeId"]) for data in matches for match in data]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    last = [int(data["tradeId"]) for data in aggregates]
    assert all(
        now - int(data["count"]) == before for before, now, data in zip(last, last[1:], aggregates[1:], strict=False)
    )
    assert any(data["count"] != "1" for data in aggregates)


async def test_okx_books_begin_with_400_levels_and_chain_in_steps_above_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/ws/v5/public")
        await wire.ask(okx("books", "BTC-USDT"))
        snapshot, *updates = [await wire.message() for _ in range(50)]
    (whole,) = snapshot["data"]
    assert (snapshot["action"], whole["prevSeqId"], whole["checksum"]) == ("snapshot", -1, 0)
    assert len(whole["bids"]) == len(whole["asks"]) == 400
    seq = whole["seqId"]
    for update in updates:
        (data,) = update["data"]
        assert (update["action"], data["prevSeqId"]) == ("update", seq)
        assert data["seqId"] > seq + 1
        seq = data["seqId"]


async def test_an_okx_book_from_its_snapshot_and_updates_is_the_true_book(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/ws/v5/public")
        await wire.ask(okx("books", "BTC-USDT"))
        book: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
        for _ in range(100):
            (data,) = (await wire.message())["data"]
            apply(book, data["bids"], data["asks"])
        seq, bids, asks = there.server.book("okx", "spot", "BTC-USDT")
    assert data["seqId"] == seq
    assert book == {"bids": dict(bids), "asks": dict(asks)}


async def test_a_binance_book_from_rest_and_diffs_is_the_true_book(autojump_clock: trio.testing.MockClock) -> None:
    """As the documentation says to: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams"""
    async with timeless(FAST) as there:
        wire = await there.connect("/stream?streams=btcusdt@depth@100ms")
        diffs = [(await wire.message())["data"] for _ in range(3)]
        _, snapshot, _ = await get(there.server, "/api/v3/depth?symbol=BTCUSDT&limit=5000")
        book = {"bids": dict(snapshot["bids"]), "asks": dict(snapshot["asks"])}
        last = snapshot["lastUpdateId"]
        diffs += [(await wire.message())["data"] for _ in range(60)]
        for data in diffs:
            if data["u"] > last:
                assert data["U"] <= last + 1
                apply(book, data["b"], data["a"])
                last = data["u"]
        # What happened since the last flush is in the true book already; wait until nothing has.
        while there.server.book("binance", "spot", "BTCUSDT")[0] != last:
            data = (await wire.message())["data"]
            apply(book, data["b"], data["a"])
            last = data["u"]
        _, bids, asks = there.server.book("binance", "spot", "BTCUSDT")
    assert book == {"bids": dict(bids), "asks": dict(asks)}


def apply(book: dict[str, dict[str, str]], bids: list[list[str]], asks: list[list[str]]) -> None:
    for name, levels in (("bids", bids), ("asks", asks)):
        for price, size, *_ in levels:
            if float(size):
                book[name][price] = size
            else:
                book[name].pop(price, None)  # what came and went between two flushes


async def test_a_seed_reproduces_every_frame(autojump_clock: trio.testing.MockClock) -> None:
    async def record(seed: int) -> list[Any]:
        async with timeless(FAST, seed=seed) as there:
            wire = await there.connect(f"/stream?streams={'/'.join(BTC)}")
            return [{**(await wire.message())["data"], "E": 0, "T": 0} for _ in range(200)]

    once = await record(7)
    assert await record(7) == once
    assert await record(8) != once


async def test_time_passes_for_a_market_while_nobody_is_connected(autojump_clock: trio.testing.MockClock) -> None:
    scenario = Scenario(symbols=("BTC-USDT",), quiet_symbols=(), trades_per_s=10)
    async with timeless(scenario) as there:
        wire = await there.connect("/stream?streams=btcusdt@trade")
        before = (await wire.message())["data"]["t"]
        await wire.stream.aclose()
        await trio.sleep(100)
        wire = await there.connect("/stream?streams=btcusdt@trade")
        assert (await wire.message())["data"]["t"] > before + 500
        assert there.server.truth.published["binance", "spot", "trade", "BTCUSDT"] > 500


async def test_a_quiet_symbol_trades_about_once_an_hour(autojump_clock: trio.testing.MockClock) -> None:
    quiet = Scenario(symbols=(), quiet_symbols=("ZEN-USDT",))
    async with timeless(quiet) as there:
        wire = await there.connect("/stream?streams=zenusdt@aggTrade")
        there.nursery.start_soon(pong_for_ever, wire)
        await trio.sleep(10 * 3600)
    assert 3 <= there.server.truth.published["binance", "spot", "aggTrade", "ZENUSDT"] <= 25


async def pong_for_ever(wire: Wire) -> None:
    while True:
        frame = await wire.frame()
        if frame.opcode == 9:
            await wire.send(frame.payload, opcode=10)


async def test_the_truth_has_each_frame_in_order_with_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect("/stream?streams=btcusdt@aggTrade&timeUnit=MICROSECOND")
        frames = [(await wire.message())["data"] for _ in range(50)]
        rows = list(there.server.truth.rows(channel="trades", conn=1))[:50]
    assert [
        (str(data["a"]), data["p"], data["q"], "sell" if data["m"] else "buy", data["T"], data["f"], data["l"])
        for data in frames
    ] == [
        (str(row["id"]), row["price"], row["size"], row["side"], row["ts_us"], row["first_id"], row["last_id"])
        for row in rows
    ]


async def test_memory_servers_need_no_run_for_rest() -> None:
    server = SimServer(CALM)
    status, body, _ = await get(server, "/api/v3/exchangeInfo")
    assert status == 200
    assert [one["symbol"] for one in body["symbols"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "ZENUSDT"]
