"""Binance spot and USD-M perpetuals: addresses, limits, instruments, subscriptions, order book snapshots.

The facts are from https://github.com/binance/binance-spot-api-docs (web-socket-streams.md, rest-api.md; July 2026) and
from https://developers.binance.com/docs/derivatives (USD-M futures; change log to August 2026). What frames mean is in
`binance_frames`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from collector_trio.config import Offers
from collector_trio.errors import BadAnswer
from collector_trio.exchanges.binance_frames import decode as decode
from collector_trio.exchanges.binance_frames import decode_together as decode_together
from collector_trio.exchanges.binance_frames import decode_trades as decode_trades
from collector_trio.exchanges.binance_frames import is_coin_m
from collector_trio.exchanges.protocol import BookRules, BookSnapshot, Ignored, Reject, Request
from collector_trio.exchanges.wire import check_book, exchange_ns, number_or_none
from collector_trio.instruments import Instrument
from collector_trio.plan import Endpoint, Limits, Rate, Subscription

NAME = "binance"

# Addresses. The data-only hosts carry the market data of stream.binance.com and api.binance.com, without user data;
# the futures have no such host.
OFFERS = Offers(
    markets={"spot": ("trades", "book"), "perp": ("trades", "book")},
    endpoints={
        "binance.spot": {
            "ws": "wss://data-stream.binance.vision/stream",
            "rest": "https://data-api.binance.vision",
        },
        "binance.perp": {
            "ws_public": "wss://fstream.binance.com/public/stream",
            "ws_market": "wss://fstream.binance.com/market/stream",
            "rest": "https://fapi.binance.com",
        },
    },
    path_reasons={
        "binance.perp": "since 2026-04-23 USD-M delivers each stream on its own path only, though every path still "
        "acknowledges all, the un-routed /stream and /ws too, which deliver only books"
    },
)

# Which path of USD-M carries which streams, by what stands behind the "@" (an "*" for its parameters).
# "Important WebSocket Change Notice" in https://developers.binance.com/docs/derivatives/usds-margined-futures.
_USD_M_PATHS = {
    "ws_public": ("bookTicker", "depth*", "rpiDepth*", "trade"),
    "ws_market": (
        "aggTrade", "markPrice*", "kline_*", "continuousKline_*", "ticker*", "miniTicker*", "forceOrder*",
        "compositeIndex", "assetIndex*", "contractInfo",
    ),
}  # fmt: skip

# The server pings every 20 s and the WebSocket library answers; nothing is to be sent from here.
PING: str | None = None
PING_EVERY_S = 20.0

# Limits. Spot: 300 dials per 5 minutes and address, 5 messages per second and connection (pongs count too), 1024
# streams per connection, 6000 weight per minute and address. USD-M: dials are not documented, 10 messages per second,
# 1024 streams, and 2400 weight, which COIN-M shares since 2026-06-30.
_LIMITS = {
    "spot": Limits(dials=Rate(240, 300.0), messages=Rate(3, 1.0), weight=Rate(4800, 60.0), pool="binance.spot"),
    "perp": Limits(dials=Rate(240, 300.0), messages=Rate(8, 1.0), weight=Rate(1920, 60.0), pool="binance.futures"),
}
_STREAMS_PER_SOCKET = 1000
_STREAMS_PER_MESSAGE = 200


def limits(market: str) -> Limits:
    """Return the documented limits, with a margin."""
    return _LIMITS[market]


def used_weight(headers: Mapping[str, str]) -> int | None:
    """Every answer says what this address has used in the current minute of the exchange's clock."""
    used = headers.get("X-MBX-USED-WEIGHT-1M", "")
    return int(used) if re.fullmatch("[0-9]{1,9}", used) else None


def maintenance_request() -> Request | None:
    """The hosts we ask tell of none; the sockets do, by `serverShutdown`."""
    return None


def parse_maintenance(body: bytes, now_ms: int) -> str:
    """Whatever it is, nobody asked for it."""
    raise BadAnswer("Binance was not asked for its maintenance")


def endpoint(market: str, channel: str) -> Endpoint:
    """Return the combined-stream address: all channels of spot share one, USD-M has two paths.

    Raises ValueError for a stream of USD-M that no path is known to carry: asked for on the wrong one, it would be
    acknowledged and silent for ever.
    """
    if market == "spot":
        return Endpoint("binance.spot", "binance.spot", "ws", _STREAMS_PER_SOCKET)
    key = _usd_m_path(_STREAMS[channel])
    return Endpoint(f"binance.perp.{key.removeprefix('ws_')}", "binance.perp", key, _STREAMS_PER_SOCKET)


def _usd_m_path(stream: str) -> str:
    for key, carried in _USD_M_PATHS.items():
        if any(fnmatchcase(stream, pattern) for pattern in carried):
            return key
    known = "; ".join(f"{key}: {', '.join(carried)}" for key, carried in _USD_M_PATHS.items())
    raise ValueError(f"no path of USD-M is known to carry the stream {stream!r} ({known})")


# Instruments


# What a listing holds besides names is an open set: a status, contract type or filter that nobody has seen yet is no
# reason to record nothing.


class _Filter(Struct):
    filterType: Any = None
    tickSize: Any = None
    stepSize: Any = None


class _Symbol(Struct):
    symbol: str
    baseAsset: str
    quoteAsset: str
    status: Any = None
    contractStatus: Any = None  # what COIN-M calls it
    contractType: Any = None  # futures only
    contractSize: Any = None  # COIN-M only: quote units per contract
    filters: list[_Filter] = []

    def term(self, filter_type: str, name: str) -> str | None:
        """Return a number from the filters."""
        return next((_number(getattr(f, name)) for f in self.filters if f.filterType == filter_type), None)


class _ExchangeInfo(Struct):
    symbols: list[_Symbol]


_INSTRUMENTS = {
    "spot": Request("/api/v3/exchangeInfo?showPermissionSets=false", 20),
    "perp": Request("/fapi/v1/exchangeInfo", 1),
}
_PERPETUAL = ("PERPETUAL", "TRADIFI_PERPETUAL")


def instruments_request(market: str) -> Request:
    """Ask for the exchange information of all symbols of a market; spot's without their permission sets."""
    return _INSTRUMENTS[market]


def parse_instruments(market: str, body: bytes) -> list[Instrument]:
    """Read `exchangeInfo`. The symbol's assets name it: the native symbol is never split. Delivery contracts, which the
    futures list too, are left out.
    """
    try:
        info = msgspec.json.decode(body, type=_ExchangeInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(f"exchangeInfo: {error}: {body[:200]!r}") from None
    return [
        _instrument(market, symbol) for symbol in info.symbols if market != "perp" or symbol.contractType in _PERPETUAL
    ]


def _instrument(market: str, symbol: _Symbol) -> Instrument:
    status = symbol.status or symbol.contractStatus or ""
    return Instrument(
        exchange=NAME,
        market=market,
        symbol=f"{symbol.baseAsset}-{symbol.quoteAsset}",
        native_symbol=symbol.symbol,
        base=symbol.baseAsset,
        quote=symbol.quoteAsset,
        status=str(status),
        tradable=status == "TRADING",
        tick_size=symbol.term("PRICE_FILTER", "tickSize"),
        lot_size=symbol.term("LOT_SIZE", "stepSize"),
        contract_size=_number(symbol.contractSize),
        inverse=symbol.contractSize is not None,
    )


def _number(value: Any) -> str | None:
    return None if value is None else number_or_none(str(value))


# Time

_TIME = {"spot": Request("/api/v3/time", 1), "perp": Request("/fapi/v1/time", 1)}


class _Time(Struct):
    serverTime: int


def time_request(market: str) -> Request:
    """Ask for the time of a market's servers."""
    return _TIME[market]


def parse_time(body: bytes) -> int:
    """Read `time`, which is in milliseconds."""
    try:
        return exchange_ns(msgspec.json.decode(body, type=_Time).serverTime)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadAnswer(f"time: {error}: {body[:200]!r}") from None


# Subscriptions

# The busiest symbols: their silence means something. All others may rest for minutes: nothing is sent without a change.
_BOOK_SILENCE_S = {"BTC-USDT": 2.0, "ETH-USDT": 5.0}
_STREAMS = {"trades": "aggTrade", "book": "depth@100ms"}


def subscription(instrument: Instrument, channel: str) -> Subscription:
    """Name the stream. The ack proves only syntax, so busy streams must bring data."""
    busy = instrument.symbol in _BOOK_SILENCE_S
    silence_s = _BOOK_SILENCE_S.get(instrument.symbol) if channel == "book" else (60.0 if busy else None)
    return Subscription(
        channel=channel,
        native_symbol=instrument.native_symbol,
        argument=f"{instrument.native_symbol.lower()}@{_STREAMS[channel]}",
        prompt=busy,
        first_data_s=10.0 if channel == "book" else 30.0,
        silence_s=silence_s,
    )


def batches(subscriptions: Sequence[Subscription]) -> Iterator[Sequence[Subscription]]:
    """Two hundred stream names in one message are taken without complaint."""
    for start in range(0, len(subscriptions), _STREAMS_PER_MESSAGE):
        yield subscriptions[start : start + _STREAMS_PER_MESSAGE]


def subscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one SUBSCRIBE message."""
    return _method("SUBSCRIBE", subscriptions, request)


def unsubscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one UNSUBSCRIBE message."""
    return _method("UNSUBSCRIBE", subscriptions, request)


def _method(method: str, subscriptions: Sequence[Subscription], request: int) -> str:
    arguments = [s.argument for s in subscriptions]
    return json.dumps({"method": method, "params": arguments, "id": request}, ensure_ascii=False)


# Order books

# The deepest book that REST gives, and its weight.
_DEPTHS = {"spot": ("/api/v3/depth", 5000, 250), "perp": ("/fapi/v1/depth", 1000, 20)}
# Spot's changes may overlap (applied whole); the futures' only chain, by `pu`. A REST book may be any age.
_BOOK_RULES = {
    "spot": BookRules(in_band=False, overlap=True, resets=False),
    "perp": BookRules(in_band=False, overlap=False, resets=False),
}


def book_rules(market: str) -> BookRules:
    """Return how the books are kept.

    "How to manage a local order book correctly" is a chapter of web-socket-streams.md and a page of the futures'
    documentation; the two differ.
    """
    return _BOOK_RULES[market]


def snapshot_request(instrument: Instrument) -> Request:
    """Ask for the deepest book there is; symbols need not be ASCII."""
    path, depth, weight = _DEPTHS[instrument.market]
    return Request(f"{path}?symbol={quote(instrument.native_symbol, safe='')}&limit={depth}", weight)


class _WholeBook(Struct):
    """`{"lastUpdateId":600859605926,"E":1626992741264,"T":1626992741261,"bids":[["7.6110","6"],…],"asks":[…]}`

    Spot's has no times.
    """

    lastUpdateId: int
    bids: Raw
    asks: Raw
    E: int | None = None


class _Refusal(Struct):
    code: int
    msg: str


_read_book = msgspec.json.Decoder(_WholeBook, strict=False).decode
_read_refusal = msgspec.json.Decoder(_Refusal, strict=False).decode


def decode_snapshot(market: str, native_symbol: str, body: bytes) -> BookSnapshot | Ignored | Reject:
    """Read the answer to `snapshot_request`. Symbols that are not traded yet, or no more, have books without levels or
    number.
    """
    try:
        book = _read_book(body)
        bids, asks = check_book(bytes(book.bids), bytes(book.asks))
        time = None if book.E is None else exchange_ns(book.E)
    except (msgspec.MsgspecError, ValueError, RecursionError) as reason:
        return Reject(_refused(body) or f"order book of {native_symbol}: {reason}")
    if book.lastUpdateId <= 0 or not (bids or asks):
        return Ignored("empty snapshot", "book", native_symbol)
    depth = _DEPTHS[market][1]
    return BookSnapshot(
        native_symbol, time, book.lastUpdateId, book.bids, book.asks, 2, depth, is_coin_m(native_symbol)
    )  # fmt: skip


def _refused(body: bytes) -> str | None:
    """Return what the exchange says instead of an answer."""
    try:
        refusal = _read_refusal(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return f"code {refusal.code}: {refusal.msg}"
