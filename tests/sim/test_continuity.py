"""Faults that a continuity check must notice: each does on the wire what it says, and the truth knows what it did.

All of it over memory streams under a MockClock: FAST has 300 trades a second and a diff every 100 ms.
"""

from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio

from collector_trio.sim import Fault, Scenario, TradeFact
from collector_trio.sim.fault import KINDS

from .wire import FAST, PING, PONG, Timeless, Wire, get, okx, timeless

DEPTH = "/stream?streams=btcusdt@depth@100ms"
PERP_DEPTH = "/public/stream?streams=btcusdt@depth@100ms"
TRADES = "/stream?streams=btcusdt@aggTrade"
# No takers to speak of and many makers, so that every tenth of a second has its diff.
BOOKS = attrs.evolve(FAST, trades_per_s=0.001)


async def diffs(wire: Wire, count: int) -> list[dict[str, Any]]:
    return [(await wire.message())["data"] for _ in range(count)]


async def books(there: Timeless, *native: str) -> Wire:
    wire = await there.connect("/ws/v5/public")
    await wire.ask(okx("books", *(native or ("BTC-USDT",))))
    return wire


async def updates(wire: Wire, count: int) -> list[dict[str, Any]]:
    return [{**message["data"][0], "action": message["action"]} for message in await messages(wire, count)]


async def messages(wire: Wire, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = await wire.message()
        if "data" in message:
            found.append(message)
    return found


def did(there: Timeless, kind: str) -> list[int]:
    """List the ids that faults of a kind touched."""
    faults = [fault for fault in there.server.truth.faults if fault.kind == kind]
    return [number for fault in faults for struck in fault.did for number in struck.ids]


# Truth


async def test_the_truth_keeps_what_was_sent_to_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect(TRADES)
        first = (await diffs(wire, 1))[0]["a"]
        await wire.stream.aclose()
        await trio.sleep(5)
        wire = await there.connect(TRADES)
        last = (await diffs(wire, 1))[0]["a"]
        ids = there.server.truth.trade_ids("binance", "spot", "aggTrade", "BTCUSDT")
    assert last > first + 1000
    assert ids[:1] <= [first]
    assert ids[: ids.index(last) + 1] == list(range(ids[0], last + 1))


async def test_the_true_book_can_be_had_at_any_instant(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        wire = await books(there)
        whole, *changes = await updates(wire, 30)
        truth = there.server.truth
        book = {side: {level[0]: level[1] for level in whole[side]} for side in ("bids", "asks")}
        seen = []
        for data in changes:
            for side in ("bids", "asks"):
                book[side].update({level[0]: level[1] for level in data[side]})
                book[side] = {price: size for price, size in book[side].items() if size != "0"}
            seen.append((int(data["ts"]) * 1000, data["seqId"], dict(book["bids"]), dict(book["asks"])))
        for ts_us, *expected in [*seen, seen[3]]:  # backwards in time, too
            assert truth.book_at("okx", "spot", "BTC-USDT", ts_us) == tuple(expected)
            assert truth.book_at("okx", "spot", "BTC-USDT", ts_us + 50_000) == tuple(expected)
        with pytest.raises(KeyError):
            truth.book_at("okx", "spot", "BTC-USDT", 0)


async def test_a_truth_that_keeps_nothing_still_counts(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST, keep_truth=False) as there:
        await diffs(await there.connect(DEPTH), 3)
        truth = there.server.truth
    assert (truth.facts, truth.sent) == ({}, [])
    assert truth.published["binance", "spot", "depth@100ms", "BTCUSDT"] >= 3


async def test_whatever_goes_wrong_by_chance_or_by_the_clock_the_truth_stays_one_story(
    autojump_clock: trio.testing.MockClock,
) -> None:
    by_chance = [kind for kind, about in KINDS.items() if "chance" in about.keys]
    faults = [Fault(kind, chance=0.05, count=2) for kind in by_chance]
    timed = (Fault("lose", "okx", at_s=2, every_s=3, symbol="BTC-USDT", channel="book", count=2),)
    async with timeless(attrs.evolve(FAST, trades_per_s=30, faults=(*faults, *timed))) as there:
        for path in (f"{DEPTH}/btcusdt@aggTrade", PERP_DEPTH, "/market/stream?streams=btcusdt@aggTrade"):
            there.nursery.start_soon(read_for_ever, await there.connect(path), None)
        business = await there.connect("/ws/v5/business")
        there.nursery.start_soon(read_for_ever, business, okx("trades-all", "BTC-USDT", "BTC-USDT-SWAP"))
        public = await there.connect("/ws/v5/public")
        there.nursery.start_soon(read_for_ever, public, None)
        for _ in range(60):
            await public.send(okx("books", "BTC-USDT", "BTC-USDT-SWAP"))
            await trio.sleep(0.25)
            await public.send(okx("books", "BTC-USDT", "BTC-USDT-SWAP", op="unsubscribe"))
            await get(there.server, "/api/v3/depth?symbol=BTCUSDT")
            await get(there.server, "/fapi/v1/depth?symbol=BTCUSDT")
        truth, end_us = there.server.truth, 1 << 62
        for exchange, market, native in (("okx", "spot", "BTC-USDT"), ("okx", "perp", "BTC-USDT-SWAP")):
            seq, bids, asks = there.server.book(exchange, market, native)
            assert truth.book_at(exchange, market, native, end_us) == (seq, dict(bids), dict(asks))
    assert {fault.kind for fault in truth.faults if fault.did} == set(by_chance)
    for key, facts in truth.facts.items():
        if isinstance(facts[0], TradeFact):
            ids = sorted([fact.number for fact in facts] + truth.burned.get(key, []))
            assert key[2] == "trades" or ids == list(range(ids[0], ids[-1] + 1))


async def read_for_ever(wire: Wire, request: Any) -> None:
    if request is not None:
        await wire.send(request)
    while True:
        frame = await wire.frame()
        if frame.opcode == PING:
            await wire.send(frame.payload, opcode=PONG)


# Frames


async def test_lose_publishes_and_does_not_send(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        struck, spared = await there.connect(DEPTH), await there.connect(DEPTH)
        before = (await diffs(struck, 1))[0]["u"]
        assert there.server.inject(Fault("lose", "binance.spot", count=3, channel="book"), conn=1) == 1
        after = (await diffs(struck, 1))[0]
        assert [data["u"] for data in (await diffs(spared, 5))[1:4]] == did(there, "lose")
        assert len(did(there, "lose")) == 3
        assert after["U"] == did(there, "lose")[-1] + 1 > before + 1
        assert there.server.truth.faults[0].conns == [1]


@pytest.mark.parametrize(
    ("scope", "struck"),
    [
        ({"symbol": "ETH-USDT"}, {("book", "ETH-USDT"), ("trades", "ETH-USDT")}),
        ({"market": "perp", "channel": "book"}, {("book", "BTC-USDT-SWAP")}),
        ({"channel": "trades"}, {("trades", "BTC-USDT"), ("trades", "ETH-USDT")}),
        ({"target": "binance"}, set()),
        (
            {"target": "okx.public", "channel": "book", "symbol": "BTC-USDT"},
            {("book", "BTC-USDT"), ("book", "BTC-USDT-SWAP")},
        ),
    ],
)
async def test_a_fault_keeps_to_its_scope(
    scope: dict[str, Any], struck: set[tuple[str, str]], autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless(attrs.evolve(FAST, symbols=("BTC-USDT", "ETH-USDT"))) as there:
        wire = await books(there, "BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP")
        await wire.send(okx("trades", "BTC-USDT", "ETH-USDT"))
        await messages(wire, 10)
        assert there.server.inject(Fault("lose", count=10**6, **scope)) == bool(struck)
        await trio.sleep(1)
        found = {
            ("book" if one.stream == "books" else "trades", one.native_symbol)
            for fault in there.server.truth.faults
            for one in fault.did
        }
    assert found == struck


async def test_by_chance_each_frame_is_drawn_for_and_the_seed_decides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def ids_lost(seed: int) -> list[int]:
        scenario = attrs.evolve(FAST, faults=(Fault("lose", chance=0.1, count=2, channel="trades"),))
        async with timeless(scenario, seed=seed) as there:
            seen = [data["a"] for data in await diffs(await there.connect(TRADES), 300)]
            lost = did(there, "lose")
            start = there.server.truth.trade_ids("binance", "spot", "aggTrade", "BTCUSDT")[0]
        assert sorted([*seen, *(number for number in lost if number < seen[-1])]) == list(range(start, seen[-1] + 1))
        return [number - start for number in lost if number < seen[-1]]

    once = await ids_lost(3)
    assert 30 < len(once) < 130
    assert await ids_lost(3) == once
    assert await ids_lost(4) != once


@pytest.mark.parametrize("delay_s", [None, 0.35])
async def test_double_sends_a_frame_twice_at_once_or_later(
    delay_s: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(DEPTH)
        await diffs(wire, 2)
        there.server.inject(Fault("double", delay_s=delay_s))
        seen = [data["u"] for data in await diffs(wire, 8)]
    again = 1 if delay_s is None else 4
    assert seen[again] == seen[0] == did(there, "double")[0]
    del seen[again]
    assert sorted(set(seen)) == seen


async def test_reorder_sends_a_frame_after_the_next_ones(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(PERP_DEPTH)
        await diffs(wire, 2)
        there.server.inject(Fault("reorder", by=3))
        seen = [data["u"] for data in await diffs(wire, 6)]
    assert did(there, "reorder") == [seen[3]]
    assert sorted(seen) == [seen[3], *seen[:3], *seen[4:]]


async def test_delay_holds_a_streams_frames_and_then_sends_them_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(DEPTH)
        seen = await diffs(wire, 2)
        struck_at = trio.current_time()
        there.server.inject(Fault("delay", delay_s=0.95))
        seen += await diffs(wire, 6)
        assert 0.95 < trio.current_time() - struck_at < 1.25
    assert all(after["U"] == before["u"] + 1 for before, after in pairwise(seen))
    assert did(there, "delay") == [seen[2]["u"]]


async def test_frames_held_for_a_subscription_that_is_over_are_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(BOOKS) as there:
        wire = await books(there)
        await updates(wire, 2)
        there.server.inject(Fault("delay", delay_s=0.5))
        await trio.sleep(0.3)
        await wire.ask(okx("books", "BTC-USDT", op="unsubscribe"))
        await wire.ask(okx("books", "BTC-USDT"))
        seen = await updates(wire, 10)
    assert [data["action"] for data in seen] == ["snapshot"] + 9 * ["update"]
    assert all(after["prevSeqId"] == before["seqId"] for before, after in pairwise(seen))


# What an exchange publishes


@pytest.mark.parametrize(
    ("target", "path", "market"),
    [("binance.spot", TRADES, "spot"), ("binance.perp.market", "/market/stream?streams=btcusdt@aggTrade", "perp")],
)
async def test_skip_burns_ids_of_trades(
    target: str, path: str, market: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless(FAST) as there:
        wire = await there.connect(path)
        seen = [data["a"] for data in await diffs(wire, 5)]
        assert there.server.inject(Fault("skip", target, symbol="BTC-USDT", count=7)) == 1
        seen += [data["a"] for data in await diffs(wire, 60)]
        truth = there.server.truth
        _, page, _ = await get(
            there.server, f"/{'api/v3' if market == 'spot' else 'fapi/v1'}/aggTrades?symbol=BTCUSDT&fromId={seen[0]}"
        )
    burned = truth.burned["binance", market, "aggTrade", "BTCUSDT"]
    assert len(burned) == 7
    assert sorted(seen + burned) == list(range(seen[0], seen[-1] + 1))
    assert {row["a"] for row in page}.isdisjoint(burned)
    assert set(truth.trade_ids("binance", market, "aggTrade", "BTCUSDT")).isdisjoint(burned)


async def test_skip_burns_ids_of_okx_matches_and_leaves_the_chain_of_books_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(FAST) as there:
        wire, public = await there.connect("/ws/v5/business"), await books(there)
        await wire.ask(okx("trades-all", "BTC-USDT"))
        chain = await updates(public, 2)
        there.server.inject(Fault("skip", "okx", market="spot", count=4))
        there.server.inject(Fault("skip", "okx", market="spot", count=10**6, channel="book"))
        seen = [int(match["tradeId"]) for message in await messages(wire, 250) for match in message["data"]]
        chain += await updates(public, 6)
    burned = there.server.truth.burned["okx", "spot", "trades-all", "BTC-USDT"]
    assert sorted(seen + burned) == list(range(seen[0], seen[-1] + 1))
    assert len(burned) == 4
    assert all(after["prevSeqId"] == before["seqId"] for before, after in pairwise(chain))
    assert max(after["seqId"] - before["seqId"] for before, after in pairwise(chain)) > 10**6


async def test_overlap_begins_a_diff_before_the_last_one_ended_with_sizes_as_they_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(DEPTH)
        seen = await diffs(wire, 3)
        there.server.inject(Fault("overlap", count=2))
        seen += await diffs(wire, 6)
        last = seen[-1]
        seq, bids, asks = there.server.truth.book_at("binance", "spot", "BTCUSDT", last["E"] * 1000 + 999)
        shown = there.server.book("binance", "spot", "BTCUSDT")
    steps = [after["U"] - before["u"] for before, after in pairwise(seen)]
    assert [step == 1 for step in steps].count(False) == len(did(there, "overlap")) == 2
    assert all(step <= 1 for step in steps)
    for before, after in pairwise(seen):
        if after["U"] <= before["u"]:
            for side in ("b", "a"):
                assert {price for price, _ in before[side]} <= {price for price, _ in after[side]}
    assert (seq, bids, asks) == (last["u"], dict(shown[1]), dict(shown[2]))


# Binance's snapshots


async def depth(there: Timeless, path: str = "/api/v3/depth") -> dict[str, Any]:
    _, body, _ = await get(there.server, f"{path}?symbol=BTCUSDT&limit=1000")
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(("path", "stream"), [("/api/v3/depth", DEPTH), ("/fapi/v1/depth", PERP_DEPTH)])
async def test_an_old_snapshot_is_the_book_of_some_diffs_ago(
    path: str, stream: str, autojump_clock: trio.testing.MockClock
) -> None:
    market = "spot" if path.startswith("/api") else "perp"
    async with timeless(FAST) as there:
        wire = await there.connect(stream)
        seen = await diffs(wire, 12)
        there.server.inject(Fault("snapshot_old", "binance", symbol="BTC-USDT", by=5))
        old, fresh = await depth(there, path), await depth(there, path)
        ts_us = seen[-6]["E"] * 1000 + 999
        expected = there.server.truth.book_at("binance", market, "BTCUSDT", ts_us)
    assert (old["lastUpdateId"], dict(old["bids"]), dict(old["asks"])) == expected
    assert old["lastUpdateId"] == seen[-6]["u"]
    assert fresh["lastUpdateId"] >= seen[-1]["u"]


@pytest.mark.parametrize(("path", "stream"), [("/api/v3/depth", DEPTH), ("/fapi/v1/depth", PERP_DEPTH)])
async def test_a_new_snapshot_is_ahead_of_every_diff_that_was_sent(
    path: str, stream: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(stream)
        await diffs(wire, 3)
        there.server.inject(Fault("snapshot_new", delay_s=0.5))
        snapshot = await depth(there, path)
        sent = [sent.fact.number for sent in there.server.truth.sent]  # type: ignore[attr-defined]
        seen = await diffs(wire, 10)
    last = snapshot["lastUpdateId"]
    assert sent[-1] < last
    assert sum(data["u"] <= last for data in seen) >= 4
    chained = [data["pu"] if "pu" in data else data["U"] - 1 for data in seen]
    assert chained[1:] == [data["u"] for data in seen[:-1]]
    assert chained[0] == sent[-1]


async def test_an_edge_snapshot_ends_where_a_diff_ends_or_before_the_next_begins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(BOOKS) as there:
        wire = await there.connect(PERP_DEPTH)
        there.server.inject(Fault("snapshot_edge", "binance.perp", count=40))
        for _ in range(20):
            (data,) = await diffs(wire, 1)
            at_end, before_next = await depth(there, "/fapi/v1/depth"), await depth(there, "/fapi/v1/depth")
            assert at_end["lastUpdateId"] == data["u"]
            assert before_next["bids"] == at_end["bids"]
            (following,) = await diffs(wire, 1)
            assert before_next["lastUpdateId"] == following["U"] - 1
            assert following["pu"] <= before_next["lastUpdateId"] < following["u"]


async def test_a_snapshot_can_be_empty_crossed_or_refused_so_many_times(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timeless(BOOKS) as there:
        await diffs(await there.connect(DEPTH), 2)
        there.server.inject(Fault("snapshot_empty", symbol="BTC-USDT", count=2))
        there.server.inject(Fault("snapshot_crossed", symbol="BTC-USDT"))
        there.server.inject(Fault("snapshot_fail", "binance.spot"))
        _, ether, _ = await get(there.server, "/fapi/v1/depth?symbol=BTCUSDT&limit=5")
        assert ether == {**ether, "lastUpdateId": -1, "bids": [], "asks": []}
        assert await depth(there) == {"lastUpdateId": 0, "bids": [], "asks": []}
        crossed = await depth(there)
        assert float(crossed["bids"][0][0]) > float(crossed["asks"][0][0])
        assert [(await get(there.server, "/api/v3/depth?symbol=BTCUSDT"))[0] for _ in range(2)] == [503, 200]


# OKX's books


async def test_a_heartbeat_comes_at_once_and_chains(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(Scenario(symbols=(), quiet_symbols=("ZEN-USDT",))) as there:
        wire = await books(there, "ZEN-USDT")
        (whole,) = await updates(wire, 1)
        there.server.inject(Fault("heartbeat", market="spot"))
        (empty,) = await updates(wire, 1)
        assert trio.current_time() < 0.5
    assert (empty["prevSeqId"], empty["seqId"]) == (whole["seqId"], whole["seqId"])
    assert (empty["action"], empty["bids"], empty["asks"]) == ("update", [], [])


async def test_a_reset_chains_to_a_smaller_number(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        wire = await books(there)
        seen = await updates(wire, 2)
        there.server.inject(Fault("reset"))
        seen += await updates(wire, 6)
    assert all(after["prevSeqId"] == before["seqId"] for before, after in pairwise(seen))
    assert sum(data["seqId"] < data["prevSeqId"] for data in seen) == 1
    assert did(there, "reset")[0] in [data["seqId"] for data in seen]


@pytest.mark.parametrize("snapshot", [False, True])
async def test_an_unchained_reset_loses_a_change_and_only_a_snapshot_heals_it(
    snapshot: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with timeless(BOOKS) as there:
        wire = await books(there)
        seen = await updates(wire, 3)
        assert there.server.inject(Fault("reset_unchained", market="spot", snapshot=snapshot)) == 1
        seen += await updates(wire, 8)
        await wire.ask(okx("books", "BTC-USDT", op="unsubscribe"))
        await wire.ask(okx("books", "BTC-USDT"))
        whole, *rest = await updates(wire, 3)
        ts_us = int(rest[-1]["ts"]) * 1000
        seq, *_ = there.server.truth.book_at("okx", "spot", "BTC-USDT", ts_us)
        shown = there.server.truth.book_at("okx", "spot", "BTC-USDT", int(whole["ts"]) * 1000)
    breaks = [after for before, after in pairwise(seen) if after["prevSeqId"] != before["seqId"]]
    assert [data["action"] for data in breaks] == (["update", "snapshot"] if snapshot else ["update"])
    assert breaks[0]["prevSeqId"] == did(there, "reset_unchained")[0] < seen[0]["seqId"]
    assert (whole["action"], seq) == ("snapshot", rest[-1]["seqId"])
    assert shown[1] == {level[0]: level[1] for level in whole["bids"]}


async def test_an_unsolicited_snapshot_comes_in_place_of_an_update(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        wire = await books(there)
        await updates(wire, 2)
        there.server.inject(Fault("snapshot_unsolicited"))
        seen = await updates(wire, 6)
        (snapshot,) = [data for data in seen if data["action"] == "snapshot"]
        truth = there.server.truth.book_at("okx", "spot", "BTC-USDT", int(snapshot["ts"]) * 1000)
    assert (snapshot["prevSeqId"], len(snapshot["bids"])) == (-1, 400)
    assert snapshot["seqId"] == truth[0] == did(there, "snapshot_unsolicited")[0]
    assert {level[0]: level[1] for level in snapshot["asks"]} == truth[2]
    chained = [data for data in seen if data is not snapshot]
    assert snapshot["seqId"] in [data["prevSeqId"] for data in chained]


async def test_a_withheld_snapshot_comes_when_it_is_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(BOOKS) as there:
        there.server.inject(Fault("snapshot_withheld"))
        wire = await books(there)
        assert [data["action"] for data in await updates(wire, 5)] == 5 * ["update"]
        await wire.ask(okx("books", "BTC-USDT", op="unsubscribe"))
        await wire.ask(okx("books", "BTC-USDT"))
        assert [data["action"] for data in await updates(wire, 2)] == ["snapshot", "update"]


async def test_ten_trades_share_a_millisecond_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    async with timeless(FAST) as there:
        await there.connect(TRADES)
        await (await there.connect("/ws/v5/business")).send(okx("trades-all", "BTC-USDT-SWAP"))
        await trio.sleep(5)
        facts = there.server.truth.facts
    for key in (("binance", "spot", "aggTrade", "BTCUSDT"), ("okx", "perp", "trades-all", "BTC-USDT-SWAP")):
        times = [fact.ts_us // 1000 for fact in facts[key]]
        assert any(one == tenth for one, tenth in zip(times, times[9:], strict=False))
