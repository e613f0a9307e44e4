"""Binance spot: addresses, limits, instruments, subscriptions, decoding.

The facts are from https://github.com/binance/binance-spot-api-docs (web-socket-streams.md, rest-api.md; July 2026).
Decoding also takes the futures' shape of the same events (https://developers.binance.com/docs/derivatives).
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from collector_trio.config import Offers
from collector_trio.errors import BadAnswer
from collector_trio.exchanges.protocol import (
    BookDelta,
    Control,
    ControlKind,
    Decoded,
    Ignored,
    Reject,
    Request,
    Row,
    Trade,
)
from collector_trio.exchanges.wire import MAX_INT, all_text, exchange_ns, is_number, number_or_none
from collector_trio.instruments import Instrument
from collector_trio.plan import Endpoint, Limits, Rate, Subscription

NAME = "binance"

# Addresses. The data-only hosts carry the market data of stream.binance.com and api.binance.com, without user data.
OFFERS = Offers(
    markets={"spot": ("trades", "book")},
    endpoints={
        "binance.spot": {
            "ws": "wss://data-stream.binance.vision/stream",
            "rest": "https://data-api.binance.vision",
        }
    },
)

# The server pings every 20 s and the WebSocket library answers; nothing is to be sent from here.
PING: str | None = None
PING_EVERY_S = 20.0

# Limits: 300 dials per 5 minutes and address, 5 messages per second and connection (pongs count too), 1024 streams per
# connection, 6000 weight per minute and address.
_LIMITS = Limits(dials=Rate(240, 300.0), messages=Rate(3, 1.0), weight=Rate(4800, 60.0))
_STREAMS_PER_SOCKET = 1000
_STREAMS_PER_MESSAGE = 200


def limits(market: str) -> Limits:
    """Return the documented limits, with a margin."""
    return _LIMITS


def endpoint(market: str, channel: str) -> Endpoint:
    """Return the combined-stream address: all spot channels share it."""
    return Endpoint("binance.spot", "binance.spot", "ws", _STREAMS_PER_SOCKET)


# Instruments


class _Filter(Struct):
    filterType: str
    tickSize: str | None = None
    stepSize: str | None = None


class _Symbol(Struct):
    symbol: str
    baseAsset: str
    quoteAsset: str
    status: str = ""
    contractStatus: str = ""  # what COIN-M calls it
    contractSize: int | None = None  # COIN-M only: quote units per contract
    filters: list[_Filter] = []

    def term(self, filter_type: str, name: str) -> str | None:
        """Return a number from the filters."""
        return next((number_or_none(getattr(f, name)) for f in self.filters if f.filterType == filter_type), None)


class _ExchangeInfo(Struct):
    symbols: list[_Symbol]


def instruments_request(market: str) -> Request:
    """Ask for the exchange information of all spot symbols, without their permission sets (weight 20)."""
    return Request("/api/v3/exchangeInfo?showPermissionSets=false", 20)


def parse_instruments(market: str, body: bytes) -> list[Instrument]:
    """Read `exchangeInfo`. The symbol's assets name it: the native symbol is never split."""
    try:
        info = msgspec.json.decode(body, type=_ExchangeInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(f"exchangeInfo: {error}: {body[:200]!r}") from None
    return [
        Instrument(
            exchange=NAME,
            market=market,
            symbol=f"{symbol.baseAsset}-{symbol.quoteAsset}",
            native_symbol=symbol.symbol,
            base=symbol.baseAsset,
            quote=symbol.quoteAsset,
            status=symbol.status or symbol.contractStatus,
            tradable=(symbol.status or symbol.contractStatus) == "TRADING",
            tick_size=symbol.term("PRICE_FILTER", "tickSize"),
            lot_size=symbol.term("LOT_SIZE", "stepSize"),
            contract_size=None if symbol.contractSize is None else str(symbol.contractSize),
            inverse=symbol.contractSize is not None,
        )
        for symbol in info.symbols
    ]


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


# Decoding

_Name = Annotated[str, Meta(min_length=1)]
_Id = Annotated[int, Meta(ge=0, le=MAX_INT)]


class _AggTrade(Struct, gc=False, tag_field="e", tag="aggTrade"):
    """`{"e":"aggTrade","E":1616176861895,"s":"BTCUSDT","a":640283266,"p":"58942.01000000","q":"0.00035600",…,"m":false}`"""

    native_symbol: _Name = field(name="s")
    id: _Id = field(name="a")
    price: str = field(name="p")
    size: str = field(name="q")
    first_id: _Id = field(name="f")
    last_id: _Id = field(name="l")
    time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    product: int = field(name="st", default=1)

    def row(self) -> Row:
        side = "sell" if self.buyer_is_maker else "buy"
        return Trade(
            self.native_symbol, self.id, self.price, self.size, side, exchange_ns(self.time),
            self.first_id, self.last_id, _counts_contracts(self.native_symbol, self.product),
        )  # fmt: skip


class _SingleTrade(Struct, gc=False, tag_field="e", tag="trade"):
    """`{"e":"trade","E":1554076800945,"s":"BNBBTC","t":40756030,"p":"0.00426990","q":"33.82000000",…,"T":…,"m":false}`"""

    native_symbol: _Name = field(name="s")
    id: _Id = field(name="t")
    price: str = field(name="p")
    size: str = field(name="q")
    time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    product: int = field(name="st", default=1)
    nature: str = field(name="X", default="MARKET")

    def row(self) -> Row | Ignored:
        if self.nature != "MARKET":  # USD-M: insurance fund and ADL fills, whose price may be 0
            return Ignored(f"not a market trade: {self.nature}", Trade.channel, self.native_symbol)
        side = "sell" if self.buyer_is_maker else "buy"
        return Trade(
            self.native_symbol, self.id, self.price, self.size, side, exchange_ns(self.time), None, None,
            _counts_contracts(self.native_symbol, self.product),
        )  # fmt: skip


class _Depth(Struct, gc=False, tag_field="e", tag="depthUpdate"):
    """`{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[["0.0024","10"]],"a":[["0.0026","100"]]}`

    Futures add `pu`, the `u` before; spot ids are contiguous, so there it is `U - 1`. They also add `T`, when the
    matching engine made the change; our time is `E` in every market: spot has no other, and other programs read it too.
    """

    native_symbol: _Name = field(name="s")
    time: int = field(name="E")
    first_seq: _Id = field(name="U")
    last_seq: _Id = field(name="u")
    bids: Raw = field(name="b")
    asks: Raw = field(name="a")
    previous: Annotated[int, Meta(ge=-1, le=MAX_INT)] | UnsetType = field(name="pu", default=UNSET)
    product: int = field(name="st", default=1)

    def row(self) -> Row:
        previous = self.first_seq - 1 if self.previous is UNSET else self.previous
        return BookDelta(
            self.native_symbol, exchange_ns(self.time), self.first_seq, self.last_seq, previous, False,
            self.bids, self.asks, 2, _counts_contracts(self.native_symbol, self.product),
        )  # fmt: skip


_Event = _AggTrade | _SingleTrade | _Depth


class _Combined(Struct, gc=False):
    data: _Event
    stream: str = ""


_combined = msgspec.json.Decoder(_Combined)
_combined_relaxed = msgspec.json.Decoder(_Combined, strict=False)
_bare = msgspec.json.Decoder(_Event)
_bare_relaxed = msgspec.json.Decoder(_Event, strict=False)
_anything = msgspec.json.Decoder()

_RECORDED = {"aggTrade", "trade", "depthUpdate"}
# Event types of streams that exist and that nobody here asked for (web-socket-streams.md; the futures' pages).
_NOT_RECORDED = {
    "kline", "continuous_kline", "24hrTicker", "24hrMiniTicker", "1hTicker", "4hTicker", "1dTicker", "bookTicker",
    "avgPrice", "referencePrice", "blockTrade", "markPriceUpdate", "indexPriceUpdate", "forceOrder", "compositeIndex",
    "contractInfo", "assetIndexUpdate", "EquityUpdate", "CommodityUpdate", "tradingSession",
}  # fmt: skip


def decode(frame: bytes) -> Decoded:
    """Say what a frame of `/stream` or `/ws` means. Never raises, whatever the bytes."""
    try:
        combined = _combined.decode(frame)
        return _row(combined.data, combined.stream)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # not ours, or not plainly so
    try:
        return _decode_other(frame)
    except RecursionError:
        return Reject("nested too deeply")


def _row(event: _Event, stream: str) -> Decoded:
    if type(event) is _Depth and "@depth@" not in stream and stream:
        kind = stream.partition("@")[2]
        if kind != "depth":  # partial books and RPI books look like diffs and must not be taken for them
            return Ignored(f"channel not recorded: {kind}")
    row = event.row()
    if isinstance(row, Ignored):
        return row
    if isinstance(row, Trade) and not (is_number(row.price) and is_number(row.size)):
        return Reject(f"price {row.price!r:.80} or size {row.size!r:.80} is not a number")
    return (row,)


def _decode_other(frame: bytes) -> Decoded:
    """Classify what is not a well-formed combined frame of a recorded channel."""
    try:
        value = _anything.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Reject(f"not JSON: {error}")
    if not isinstance(value, dict):
        return Reject("not a JSON object")
    stream, data = value.get("stream"), value.get("data")
    if data is None:
        return _decode_bare(frame, value)
    head = data[0] if isinstance(data, list) and data else data
    event = _event_type(head)
    if event in _RECORDED:
        return _decode_again(frame, _combined_relaxed)
    if event == "serverShutdown":
        return Control(ControlKind.NOTICE, "serverShutdown")
    if event in _NOT_RECORDED:
        return Ignored(f"channel not recorded: {event}")
    if event is not None:
        return Reject(f"unknown event type {event!r:.80}")
    kind = str(stream).partition("@")[2] or str(stream)
    if kind.startswith(("bookTicker", "!bookTicker", "depth")):  # these do not name their type
        return Ignored(f"channel not recorded: {kind.removeprefix('!')}")
    return Reject(f"no event type, in stream {stream!r:.80}")


def _event_type(payload: Any) -> str | None:
    """Return what a payload calls itself; None if it does not."""
    event = payload.get("e") if isinstance(payload, dict) else None
    return None if event is None else str(event)


def _decode_bare(frame: bytes, value: dict[str, Any]) -> Decoded:
    """A payload without its envelope (`/ws`), an answer to one of our requests, or a REST answer in a recording."""
    event = _event_type(value)
    if event in _RECORDED:
        return _decode_again(frame, _bare_relaxed)
    if event == "serverShutdown":
        return Control(ControlKind.NOTICE, "serverShutdown")
    if event in _NOT_RECORDED:
        return Ignored(f"channel not recorded: {event}")
    request = value.get("id")
    named = None if request is None else str(request)
    error = value.get("error", value)  # nested on the wire, flat in the documentation
    if isinstance(error, dict) and "code" in error and "msg" in error:
        return Control(ControlKind.ERROR, str(error["msg"]), str(error["code"]), named)
    if "result" in value:
        return Control(ControlKind.ACK, "" if value["result"] is None else str(value["result"]), None, named)
    if "lastUpdateId" in value and "bids" in value and "asks" in value:
        return Ignored("a whole book, not a change of one")
    if {"u", "s", "b", "B", "a", "A"} <= value.keys() and event is None:
        return Ignored("channel not recorded: bookTicker")
    return Reject(f"unknown event type {event!r:.80}" if event is not None else "neither an event nor an answer")


def _decode_again(frame: bytes, decoder: "msgspec.json.Decoder[_Combined] | msgspec.json.Decoder[_Event]") -> Decoded:
    """Read a recorded channel's frame once more, numbers as text; what fails now is rejected with the reason."""
    strict = _bare if decoder is _bare_relaxed else _combined
    try:
        decoded: Any = strict.decode(frame)
    except (msgspec.MsgspecError, ValueError) as reason:
        try:
            decoded = decoder.decode(all_text(frame))
        except (msgspec.MsgspecError, ValueError):
            return Reject(str(reason))
    event, stream = (decoded.data, decoded.stream) if isinstance(decoded, _Combined) else (decoded, "")
    try:
        return _row(event, stream)
    except ValueError as reason:
        return Reject(str(reason))


# BTCUSD_PERP, BTCUSD_261225, BNBUSD_220624; but BTCBUSD_210129 was a USD-M contract that was margined in BUSD.
_COIN_M = re.compile(r"USD_PERP$|(?<!B)USD_\d{6}$|^BNBUSD_\d{6}$")


def _counts_contracts(native_symbol: str, product: int) -> bool:
    """COIN-M sizes count contracts; `st` = 2 says so since June 2026, before that only the symbol does."""
    return product == 2 or ("USD_" in native_symbol and _COIN_M.search(native_symbol) is not None)
