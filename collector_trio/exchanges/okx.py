"""OKX v5 spot and swaps: addresses, limits, instruments, subscriptions, decoding.

The facts are from https://www.okx.com/docs-v5/en/ (August 2026) and its change log. Decoding takes every instrument
type's frames.
"""

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from collector_trio.config import Offers
from collector_trio.errors import BadAnswer
from collector_trio.exchanges.protocol import (
    BookDelta,
    BookRules,
    BookSnapshot,
    Control,
    ControlKind,
    Decoded,
    Ignored,
    Reject,
    Request,
    Trade,
)
from collector_trio.exchanges.wire import (
    FIRST_MS,
    LAST_MS,
    MAX_INT,
    all_text,
    are_numbers,
    exchange_ns,
    is_number,
    number_or_none,
)
from collector_trio.instruments import Instrument
from collector_trio.plan import Endpoint, Limits, Rate, Subscription

NAME = "okx"

# Addresses. Port 443: the older 8443 was announced to close on 2026-10-31.
OFFERS = Offers(
    markets={"spot": ("trades", "book"), "perp": ("trades", "book")},
    endpoints={
        "okx": {
            "ws_public": "wss://ws.okx.com/ws/v5/public",
            "ws_business": "wss://ws.okx.com/ws/v5/business",
            "rest": "https://www.okx.com",
        }
    },
)

# A connection without a push for 30 s is closed; only a message of ours resets that: the text "ping", answered "pong".
PING: str | None = "ping"
PING_EVERY_S = 15.0

# Limits: 3 dials per second and address, 480 subscribe and unsubscribe requests per hour and connection, 20 requests
# for instruments per 2 s. Fewer than 30 of the deep books are advised per connection.
_LIMITS = Limits(dials=Rate(2, 1.0), messages=Rate(400, 3600.0), weight=Rate(10, 2.0), pool="okx")
_PER_SOCKET = {"book": 25, "trades": 100}
_ARGUMENTS_PER_MESSAGE = 200  # about 70 bytes each, of 64 KB allowed


def limits(market: str) -> Limits:
    """Return the documented limits, with a margin."""
    return _LIMITS


def endpoint(market: str, channel: str) -> Endpoint:
    """`trades-all` is served on /business only, `books` on /public only; all markets share both."""
    if channel == "trades":
        return Endpoint("okx.business", "okx", "ws_business", _PER_SOCKET[channel])
    return Endpoint("okx.public", "okx", "ws_public", _PER_SOCKET[channel])


# Instruments

_INSTRUMENT_TYPES = {"spot": "SPOT", "perp": "SWAP"}
# Which side of BASE-QUOTE the worth of one contract is in, by contract type.
_WORTH_IN = {"linear": 0, "inverse": 1}


class _Instrument(Struct):
    instId: str
    instType: str
    state: str
    baseCcy: str = ""
    quoteCcy: str = ""
    instFamily: str = ""
    uly: str = ""
    tickSz: str = ""
    lotSz: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    ctType: str = ""


class _Instruments(Struct):
    code: str
    msg: str = ""
    data: list[_Instrument] = []


def instruments_request(market: str) -> Request:
    """Ask for all instruments of one type."""
    return Request(f"/api/v5/public/instruments?instType={_INSTRUMENT_TYPES[market]}", 1)


def parse_instruments(market: str, body: bytes) -> list[Instrument]:
    """Read `public/instruments`; an HTTP 200 whose code is not "0" is an error."""
    try:
        answer = msgspec.json.decode(body, type=_Instruments)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(f"instruments: {error}: {body[:200]!r}") from None
    if answer.code != "0":
        raise BadAnswer(f"instruments: code {answer.code}: {answer.msg}")
    return [_instrument(market, terms) for terms in answer.data if market != "perp" or _is_perpetual(terms)]


def _is_perpetual(terms: _Instrument) -> bool:
    """Take the swaps whose contracts we can turn into base units: all that exist, of the types that exist today."""
    worth_in = _WORTH_IN.get(terms.ctType)
    if terms.instType != "SWAP" or worth_in is None:
        return False
    if not is_number(terms.ctVal) or not is_number(terms.ctMult or "1"):
        return False
    return terms.ctValCcy in ("", _assets(terms)[worth_in])


def _assets(terms: _Instrument) -> tuple[str, str]:
    """Return base and quote; derivatives name their family, such as BTC-USDT."""
    if terms.baseCcy:
        return terms.baseCcy, terms.quoteCcy
    base, _, quote = (terms.instFamily or terms.uly).partition("-")
    return base, quote


def _instrument(market: str, terms: _Instrument) -> Instrument:
    base, quote = _assets(terms)
    return Instrument(
        exchange=NAME,
        market=market,
        symbol=f"{base}-{quote}",
        native_symbol=terms.instId,
        base=base,
        quote=quote,
        status=terms.state,
        tradable=terms.state == "live",
        tick_size=number_or_none(terms.tickSz),
        lot_size=number_or_none(terms.lotSz),
        contract_size=_times(terms.ctVal, terms.ctMult or "1") if terms.ctVal else None,
        inverse=terms.ctType == "inverse",
    )


def _times(value: str, multiplier: str) -> str:
    if not is_number(value) or not is_number(multiplier):
        raise BadAnswer(f"instruments: ctVal {value!r} or ctMult {multiplier!r} is not a number")
    return format((Decimal(value) * Decimal(multiplier)).normalize(), "f")


# Subscriptions

_CHANNELS = {"trades": "trades-all", "book": "books"}
_BUSY = {"BTC-USDT", "ETH-USDT"}


def subscription(instrument: Instrument, channel: str) -> Subscription:
    """Name the channel. Books begin with a snapshot and say something at least once a minute: never silent for 70 s."""
    busy = instrument.symbol in _BUSY
    silence_s: float | None
    if channel == "book":
        prompt, first_data_s, silence_s = True, 10.0, 15.0 if busy else 70.0
    else:
        prompt, first_data_s, silence_s = busy, 30.0, 60.0 if busy else None
    return Subscription(
        channel=channel,
        native_symbol=instrument.native_symbol,
        argument=_CHANNELS[channel],
        prompt=prompt,
        first_data_s=first_data_s,
        silence_s=silence_s,
    )


def batches(subscriptions: Sequence[Subscription]) -> Iterator[Sequence[Subscription]]:
    """Many arguments in one request: requests are what the hourly limit counts."""
    for start in range(0, len(subscriptions), _ARGUMENTS_PER_MESSAGE):
        yield subscriptions[start : start + _ARGUMENTS_PER_MESSAGE]


def subscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one subscribe request."""
    return _operation("subscribe", subscriptions, request)


def unsubscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one unsubscribe request."""
    return _operation("unsubscribe", subscriptions, request)


def _operation(operation: str, subscriptions: Sequence[Subscription], request: int) -> str:
    arguments = [{"channel": s.argument, "instId": s.native_symbol} for s in subscriptions]
    return json.dumps({"id": str(request), "op": operation, "args": arguments}, ensure_ascii=False)


# Decoding

_Name = Annotated[str, Meta(min_length=1)]
_Id = Annotated[int, Meta(ge=0, le=MAX_INT)]
_Seq = Annotated[int, Meta(ge=-1, le=MAX_INT)]


class _Argument(Struct, gc=False):
    channel: str
    instId: str = ""


class _Trade(Struct, gc=False):
    """`{"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897"}`"""

    instId: _Name  # with two dashes, as in BTC-USDT-SWAP or BTC-USD-220325, sizes count contracts
    tradeId: _Id
    px: str
    sz: str
    side: str
    ts: int
    count: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None


class _Book(Struct, gc=False):
    """`{"asks":[["1012.6","0.07818","0","1"]],"bids":[…],"ts":"1788613464301","checksum":0,"prevSeqId":-1,"seqId":4429784547}`"""

    asks: Raw
    bids: Raw
    ts: int
    seqId: _Seq | None = None
    prevSeqId: _Seq | None = None


class _Trades(Struct, gc=False):
    arg: _Argument
    data: list[_Trade]


class _Books(Struct, gc=False):
    arg: _Argument
    data: list[_Book]
    action: str = ""


# The numbers OKX quotes are read leniently (strict=False): ids and times come as strings, sequence numbers as numbers.
_read_trades = msgspec.json.Decoder(_Trades, strict=False).decode
_read_books = msgspec.json.Decoder(_Books, strict=False).decode
_anything = msgspec.json.Decoder()

_TRADE_CHANNELS = {"trades", "trades-all"}
_BOOK_CHANNELS = {"books", "books-l2-tbt", "books50-l2-tbt"}
_NOT_RECORDED = {
    "books5", "bbo-tbt", "books-rpi", "books-elp", "tickers", "mark-price", "index-tickers", "funding-rate",
    "open-interest", "price-limit", "liquidation-orders", "adl-warning", "instruments", "estimated-price",
    "opt-summary", "status", "option-trades", "call-auction-details", "block-tickers", "public-block-trades",
    "public-struc-block-trades", "economic-calendar", "sprd-bbo-tbt", "sprd-books5", "sprd-books-l2-tbt",
    "sprd-public-trades", "sprd-tickers",
}  # fmt: skip
# How frames of recorded channels begin; what begins otherwise is read more slowly, but with the same result.
_TRADE_HEADS = (b'{"arg":{"channel":"trades-all"', b'{"arg":{"channel":"trades"')
_BOOK_HEADS = (b'{"arg":{"channel":"books"', b'{"arg":{"channel":"books-l2-tbt"')
_NO_LEVELS = re.compile(rb"\[\s*\]")
# "… channel:books,instId:FOO-USDT doesn't exist …" is all an error says about which argument it refuses.
_REFUSED = re.compile(r"channel:\s*([\w-]+),\s*instId:\s*([\w-]+)")


def decode(frame: bytes) -> Decoded:
    """Say what a frame of any public endpoint means. Never raises, whatever the bytes."""
    try:
        if frame.startswith(_TRADE_HEADS):
            return _trade_rows(_read_trades(frame))
        if frame.startswith(_BOOK_HEADS):
            return _book_rows(_read_books(frame))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # an ack names a channel too; and what is broken gets its reason below
    try:
        return _decode_other(frame)
    except RecursionError:
        return Reject("nested too deeply")


def _trade_rows(frame: _Trades) -> Decoded:
    rows = []
    for trade in frame.data:
        symbol, price, size, side, time = trade.instId, trade.px, trade.sz, trade.side, trade.ts
        if side not in ("buy", "sell"):
            return Reject(f"side {side!r:.80} is neither buy nor sell")
        if not are_numbers(price, size):
            return Reject(f"price {price!r:.80} or size {size!r:.80} is not a number")
        first = last = None
        if trade.count is not None:  # an aggregate is named by its last match
            first, last = trade.tradeId - trade.count + 1, trade.tradeId
            if first < 0:
                return Reject(f"count {trade.count} is more than trade {trade.tradeId} can end")
        ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
        rows.append(Trade(symbol, trade.tradeId, price, size, side, ns, first, last, symbol.count("-") >= 2))
    return rows or Ignored("no trades in it")


def _book_rows(frame: _Books) -> Decoded:
    symbol, action = frame.arg.instId, frame.action
    if not symbol:
        return Reject("no instId says whose book this is")
    if action not in ("snapshot", "update"):
        return Reject(f"action {action!r:.80} is neither snapshot nor update")
    rows = []
    snapshot, contracts = action == "snapshot", symbol.count("-") >= 2
    for book in frame.data:
        last, previous, time = book.seqId, book.prevSeqId, book.ts
        if snapshot or last != previous or not _is_empty(book):
            ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
            rows.append(BookDelta(symbol, ns, None, last, previous, snapshot, book.bids, book.asks, 4, contracts))
    return rows or Ignored("heartbeat", BookDelta.channel, symbol)


def _is_empty(book: _Book) -> bool:
    return _NO_LEVELS.fullmatch(book.bids) is not None and _NO_LEVELS.fullmatch(book.asks) is not None


def _decode_other(frame: bytes) -> Decoded:
    """Classify what is not plainly a frame of a recorded channel."""
    if frame == b"pong":
        return Control(ControlKind.PONG)
    try:
        value = _anything.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Reject(f"not JSON: {error}")
    if not isinstance(value, dict):
        return Reject("not a JSON object")
    if "event" in value:
        return _control(value)
    if "table" in value:  # {"table":"spot/trade","data":[…]}: the API before 2021, switched off
        return Reject("a frame of API v3, not v5")
    argument = value.get("arg")
    if not isinstance(argument, dict) or "data" not in value:
        return Reject("neither an event nor data of a channel")
    channel = str(argument.get("channel"))
    if channel in _TRADE_CHANNELS or channel in _BOOK_CHANNELS:
        return _decode_again(frame, channel in _TRADE_CHANNELS)
    if channel in _NOT_RECORDED or "candle" in channel:
        return Ignored(f"channel not recorded: {channel}")
    return Reject(f"unknown channel {channel!r:.80}")


def _control(value: dict[str, Any]) -> Control:
    """`{"event":"subscribe","arg":{…},"connId":"…"}`, `{"event":"error","code":"60018","msg":"…"}`"""
    event = value["event"]
    text = str(value.get("msg", ""))
    code = None if value.get("code") is None else str(value["code"])
    request = None if value.get("id") is None else str(value["id"])
    argument = value.get("arg")
    native_channel, native_symbol = None, None
    if isinstance(argument, dict):
        native_channel, native_symbol = argument.get("channel"), argument.get("instId")
        native_symbol = native_symbol if isinstance(native_symbol, str) else None
    elif event == "error" and (refused := _REFUSED.search(text)):
        native_channel, native_symbol = refused.groups()
    channel = next((ours for ours, theirs in _CHANNELS.items() if theirs == native_channel), None)
    kind = {
        "subscribe": ControlKind.ACK,
        "unsubscribe": ControlKind.ACK,
        "error": ControlKind.ERROR,
        "notice": ControlKind.NOTICE,
    }.get(str(event), ControlKind.OTHER)
    return Control(kind, text or str(event), code, request, channel, native_symbol)


def _decode_again(frame: bytes, trades: bool) -> Decoded:
    """Read a recorded channel's frame whose keys stand in another order, or whose numbers lost their quotes."""
    try:
        return _trade_rows(_read_trades(frame)) if trades else _book_rows(_read_books(frame))
    except (msgspec.MsgspecError, ValueError) as reason:
        try:
            text = all_text(frame)
            return _trade_rows(_read_trades(text)) if trades else _book_rows(_read_books(text))
        except (msgspec.MsgspecError, ValueError):
            return Reject(str(reason))


# Order books

# The channel keeps 400 levels a side. Sequence numbers chain, but begin again lower after maintenance.
# https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel
_BOOK_RULES = BookRules(in_band=True, overlap=False, resets=True, depth=400)


def book_rules(market: str) -> BookRules:
    """Return how the books are kept: those of all markets alike."""
    return _BOOK_RULES


def snapshot_request(instrument: Instrument) -> Request | None:
    """There is nothing to ask for: every subscription begins with a whole book."""
    return None


def decode_snapshot(market: str, native_symbol: str, body: bytes) -> BookSnapshot | Ignored | Reject:
    """Whatever it is, nobody asked for it."""
    return Reject("snapshots are in-band")
