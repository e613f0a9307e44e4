"""What OKX v5's frames mean, of every instrument type.

The facts are from https://www.okx.com/docs-v5/en/ (August 2026) and its change log. As for Binance, what happens to a
good frame is written to be cheap.
"""

import re
from collections.abc import Sequence
from operator import eq
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from collector_trio.exchanges.protocol import (
    BookDelta,
    Control,
    ControlKind,
    Decoded,
    Ignored,
    Links,
    Reject,
    Together,
    Trade,
    Trades,
)
from collector_trio.exchanges.wire import FIRST_MS, LAST_MS, MAX_INT, all_plain, all_text, are_numbers, exchange_ns

CHANNELS = {"trades": "trades-all", "book": "books"}  # ours, and what we ask for

_Name = Annotated[str, Meta(min_length=1)]
_Id = Annotated[int, Meta(ge=0, le=MAX_INT)]
_Seq = Annotated[int, Meta(ge=-1, le=MAX_INT)]


class _Argument(Struct, gc=False):
    channel: str
    instId: str = ""


class _Trade(Struct, gc=False):
    """`{"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"163004889…"}`"""

    instId: _Name  # with two dashes, as in BTC-USDT-SWAP or BTC-USD-220325, sizes count contracts
    tradeId: _Id
    px: str
    sz: str
    side: str
    ts: int
    count: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None


class _Book(Struct, gc=False):
    """`{"asks":[["1012.6","0.07818","0","1"]],"bids":[…],"ts":"1788613464301","prevSeqId":-1,"seqId":4429784547}`"""

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


def decode_trades(frames: Sequence[bytes]) -> tuple[Trades, Sequence[int]] | None:
    """Read the frames of `trades-all` together; None if one of them must be looked at alone, or is of `trades`."""
    where = [n for n, frame in enumerate(frames) if frame.startswith(_TRADE_HEADS)]
    if not where:
        return Trades(), ()
    try:
        read = list(map(_read_trades, frames if len(where) == len(frames) else [frames[n] for n in where]))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if any(len(frame.data) != 1 or frame.arg.channel != "trades-all" for frame in read):
        return None
    trades = _columns([frame.data[0] for frame in read])
    return None if trades is None else (trades, where)


def decode_together(frames: Sequence[bytes]) -> Together | None:
    """Read many frames of `trades-all` and `books`; None if one of them must be looked at alone: a snapshot, say, or a
    heartbeat.
    """
    found = decode_trades(frames)
    if found is None:
        return None
    trades, trades_at = found
    if len(trades_at) == len(frames):
        return Together(trades, trades_at, Links(), ())
    links_at = [n for n, frame in enumerate(frames) if frame.startswith(_BOOK_HEADS)]
    if len(trades_at) + len(links_at) < len(frames):
        return None
    try:
        links = _links(list(map(_read_books, [frames[n] for n in links_at])))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if links is None else Together(trades, trades_at, links, links_at)


def _links(read: Sequence[_Books]) -> Links | None:
    """Return the numbers of changes; None where one frame is more than one change."""
    if any(len(frame.data) != 1 or frame.action != "update" or not frame.arg.instId for frame in read):
        return None
    books = [frame.data[0] for frame in read]
    times, previous, last = [book.ts for book in books], [book.prevSeqId for book in books], [b.seqId for b in books]
    if min(times) < FIRST_MS or max(times) > LAST_MS or any(map(eq, previous, last)):
        return None
    prev_seqs = [number for number in previous if number is not None]
    last_seqs = [number for number in last if number is not None]
    if not len(prev_seqs) == len(last_seqs) == len(books):
        return None
    return Links([frame.arg.instId for frame in read], prev_seqs, last_seqs, [time * 1_000_000 for time in times])


def _columns(events: Sequence[_Trade]) -> Trades | None:
    """Return what `_trade_rows` says of each; None where that is more than a plain trade."""
    symbols, times, sides = [t.instId for t in events], [t.ts for t in events], [t.side for t in events]
    prices, sizes = [t.px for t in events], [t.sz for t in events]
    if min(times) < FIRST_MS or max(times) > LAST_MS or not all_plain(prices, sizes):
        return None
    if not {*sides} <= {"buy", "sell"} or {t.count for t in events} != {None}:
        return None
    return Trades(
        symbols,
        [t.tradeId for t in events],
        prices,
        sizes,
        [side == "buy" for side in sides],
        [time * 1_000_000 for time in times],
        [None] * len(events),
        [None] * len(events),
        [symbol.count("-") >= 2 for symbol in symbols],
    )


def _trade_rows(frame: _Trades) -> Decoded:
    rows = []
    # `trades` before it said how many matches it aggregates: its numbers leave out what it does not say.
    alone = 1 if frame.arg.channel == "trades-all" else None
    for trade in frame.data:
        symbol, price, size, side, time = trade.instId, trade.px, trade.sz, trade.side, trade.ts
        if side not in ("buy", "sell"):
            return Reject(f"side {side!r:.80} is neither buy nor sell")
        if not are_numbers(price, size):
            return Reject(f"price {price!r:.80} or size {size!r:.80} is not a number")
        first, last, covers = None, None, alone
        if trade.count is not None:  # an aggregate is named by its last match
            first, last, covers = trade.tradeId - trade.count + 1, trade.tradeId, trade.count
            if first < 0:
                return Reject(f"count {trade.count} is more than trade {trade.tradeId} can end")
        ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
        rows.append(Trade(symbol, trade.tradeId, price, size, side, ns, first, last, symbol.count("-") >= 2, covers))
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
    channel = next((ours for ours, theirs in CHANNELS.items() if theirs == native_channel), None)
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
