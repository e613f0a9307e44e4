"""Whole books from REST: what is asked for, and what an answer means."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookRules, BookSnapshot, Exchange, Ignored, Reject
from collector_trio.exchanges.wire import parse_levels
from collector_trio.instruments import Instrument

from .readings import SHARED, needs_shared, recorded

BINANCE = EXCHANGES["binance"]
EVERY_MARKET = [(exchange, market) for exchange in EXCHANGES.values() for market in exchange.OFFERS.markets]
every_market = pytest.mark.parametrize(("exchange", "market"), EVERY_MARKET)
RECORDINGS = {
    "BINANCE_2021-04.jsonl.gz": "spot",
    "BINANCE_2021-10.jsonl.gz": "spot",
    "BINANCE_FUTURES_2021-07.jsonl.gz": "perp",
}


def instrument(exchange: Exchange, market: str, native_symbol: str = "BTCUSDT") -> Instrument:
    return Instrument(exchange.NAME, market, "BTC-USDT", native_symbol, "BTC", "USDT", "live", True)


def answer(**changes: Any) -> bytes:
    book = {"lastUpdateId": 160, "bids": [["0.0024", "10"], ["0.0023", "5"]], "asks": [["0.0026", "100"]]}
    return json.dumps({name: value for name, value in (book | changes).items() if value is not ...}).encode()


def read(body: bytes, market: str = "spot") -> BookSnapshot | Ignored | Reject:
    return BINANCE.decode_snapshot(market, "BNBBTC", body)


@every_market
def test_a_book_is_asked_for_where_none_comes_in_band(exchange: Exchange, market: str) -> None:
    request = exchange.snapshot_request(instrument(exchange, market))
    assert (request is None) == exchange.book_rules(market).in_band
    if request is not None:
        assert request.path.startswith("/")
        assert request.weight <= exchange.limits(market).weight.limit / 10  # ten books begin at once


def test_binance_books_are_asked_for_as_deep_as_they_go_at_the_documented_weight() -> None:
    spot = BINANCE.snapshot_request(instrument(BINANCE, "spot"))
    perp = BINANCE.snapshot_request(instrument(BINANCE, "perp", "币安人生USDT"))
    assert spot is not None
    assert perp is not None
    assert (spot.path, spot.weight) == ("/api/v3/depth?symbol=BTCUSDT&limit=5000", 250)
    encoded = "%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"
    assert (perp.path, perp.weight) == (f"/fapi/v1/depth?symbol={encoded}&limit=1000", 20)


def test_the_rules_of_books_are_those_of_the_documentation() -> None:
    rules = {(exchange.NAME, market): exchange.book_rules(market) for exchange, market in EVERY_MARKET}
    okx = BookRules(in_band=True, overlap=False, resets=True, depth=400)
    assert rules == {
        ("binance", "spot"): BookRules(in_band=False, overlap=True, resets=False),
        ("binance", "perp"): BookRules(in_band=False, overlap=False, resets=False),
        ("okx", "spot"): okx,
        ("okx", "perp"): okx,
    }


@needs_shared
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_answer_is_the_book_that_plain_json_reads(name: str) -> None:
    market, books = RECORDINGS[name], 0
    for line in recorded(SHARED / "cryptofeed" / name):
        if line.url is None or "/depth?" not in line.url:
            continue
        plain = json.loads(line.frame)
        symbol = line.url.partition("symbol=")[2].partition("&")[0]
        book = BINANCE.decode_snapshot(market, symbol, line.frame)
        assert isinstance(book, BookSnapshot)
        assert (book.native_symbol, book.last_seq) == (symbol, plain["lastUpdateId"])
        assert book.exchange_ns == (plain["E"] * 1_000_000 if market == "perp" else None)
        assert (book.stride, book.depth, book.derivative) == (2, {"spot": 5000, "perp": 1000}[market], False)
        for ours, side in ((book.bids, "bids"), (book.asks, "asks")):
            assert parse_levels(bytes(ours)) == [tuple(level[:2]) for level in plain[side]]
        books += 1
    assert books >= 2


@pytest.mark.parametrize(
    "body",
    [answer(lastUpdateId=0), answer(lastUpdateId=-1, bids=[], asks=[]), answer(bids=[], asks=[])],
)
def test_a_book_without_levels_or_number_is_asked_for_again_later(body: bytes) -> None:
    assert read(body) == Ignored("empty snapshot", "book", "BNBBTC")


def test_a_book_may_have_one_side_only() -> None:
    assert isinstance(read(answer(asks=[])), BookSnapshot)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer(asks=[["0.00240", "1"]]), "crossed: best bid 0.0024, best ask 0.0024"),
        (answer(asks=[["0.002", "1"]]), "crossed"),
        (answer(bids=[["0.0023", "5"], ["0.0024", "10"]]), "bids are not in order"),
        (answer(bids=[["0.0024", "5"], ["0.0024", "10"]]), "bids are not in order"),
        (answer(bids=[["0.0024", "1.2.3"]]), "is not a price and a size"),
        (answer(bids=[["NaN", "1"]]), "is not a price and a size"),
        (answer(bids=[["-1", "1"]]), "is not a price and a size"),
        (answer(bids=[["1"]]), "has no price and size"),
        (answer(bids={}), "is not a list of levels"),
        (answer(bids=...), "missing required field `bids`"),
        (answer(lastUpdateId=...), "missing required field `lastUpdateId`"),
        (answer(E=5), "time 5 is neither milliseconds nor microseconds"),
        (b'{"code":-1121,"msg":"Invalid symbol."}', "code -1121: Invalid symbol."),
        (b"<html>403 Forbidden</html>", "malformed"),
        (b"\xff", "malformed"),
        (answer(bids=[]).replace(b'"bids": []', b'"bids": ' + b"[" * 5000 + b"]" * 5000), "nested|recursion"),
    ],
)
def test_what_is_no_book_is_rejected_with_its_reason(body: bytes, reason: str) -> None:
    decoded = read(body, "perp")
    assert isinstance(decoded, Reject)
    assert any(part in decoded.reason for part in reason.split("|")), decoded.reason


def test_numbers_without_quotes_and_new_elements_are_survived() -> None:
    book = read(answer(bids=[["0.0024", "10", "new"]], asks=[[0.0026, 100]], new={"field": 1}))
    assert isinstance(book, BookSnapshot)
    assert parse_levels(bytes(book.asks)) == [("0.0026", "100")]


def test_okx_answers_are_not_asked_for() -> None:
    assert EXCHANGES["okx"].decode_snapshot("perp", "BTC-USDT-SWAP", answer()) == Reject("snapshots are in-band")


PRICES = st.lists(st.integers(1, 10**9), unique=True, max_size=20).map(sorted)


@given(PRICES, st.integers(0, 20))
def test_a_book_is_taken_exactly_when_its_sides_do_not_cross(prices: list[int], split: int) -> None:
    spelled = [[f"{price / 100:.2f}", "1"] for price in prices]
    whole = read(answer(bids=spelled[:split][::-1], asks=spelled[split:]))
    assert isinstance(whole, BookSnapshot if prices else Ignored)
    if 0 < split < len(prices):
        crossed = read(answer(bids=spelled[: split + 1][::-1], asks=spelled[split:]))
        assert isinstance(crossed, Reject)


@given(st.binary(max_size=100) | st.integers(0, 200).map(lambda length: answer(E=1626992741264)[:length]))
@pytest.mark.parametrize("market", ["spot", "perp"])
def test_no_bytes_raise_anything(market: str, body: bytes) -> None:
    read(body, market)
