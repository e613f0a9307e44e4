"""What Binance's frames mean: spot's and, of the same shape with a few more fields, the futures'.

The facts are from https://github.com/binance/binance-spot-api-docs (web-socket-streams.md, July 2026) and
https://developers.binance.com/docs/derivatives. Every frame comes through `decode` twice, in the recorder and in the
follower, so what happens to a good one is written to be cheap: one reading, one function call, one row.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

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

_Name = Annotated[str, Meta(min_length=1)]
_Id = Annotated[int, Meta(ge=0, le=MAX_INT)]


class _AggTrade(Struct, gc=False, tag_field="e", tag="aggTrade"):
    """`{"e":"aggTrade","E":1616176861895,"s":"BTCUSDT","a":640283266,"p":"58942.01000000",…,"m":false}`"""

    native_symbol: _Name = field(name="s")
    id: _Id = field(name="a")
    price: str = field(name="p")
    size: str = field(name="q")
    first_id: _Id = field(name="f")
    last_id: _Id = field(name="l")
    time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    product: int = field(name="st", default=1)

    def rows(self, stream: str) -> Decoded:
        symbol, price, size, time = self.native_symbol, self.price, self.size, self.time
        ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
        if not are_numbers(price, size):
            return _not_numbers(price, size)
        contracts = self.product == 2 or ("_" in symbol and is_coin_m(symbol))
        side = "sell" if self.buyer_is_maker else "buy"
        return (Trade(symbol, self.id, price, size, side, ns, self.first_id, self.last_id, contracts),)


class _SingleTrade(Struct, gc=False, tag_field="e", tag="trade"):
    """`{"e":"trade","E":1554076800945,"s":"BNBBTC","t":40756030,"p":"0.00426990",…,"T":…,"m":false}`"""

    native_symbol: _Name = field(name="s")
    id: _Id = field(name="t")
    price: str = field(name="p")
    size: str = field(name="q")
    time: int = field(name="T")
    buyer_is_maker: bool = field(name="m")
    product: int = field(name="st", default=1)
    nature: str = field(name="X", default="MARKET")

    def rows(self, stream: str) -> Decoded:
        symbol, price, size, time = self.native_symbol, self.price, self.size, self.time
        if self.nature != "MARKET":  # USD-M: insurance fund and ADL fills, whose price may be 0
            return Ignored(f"not a market trade: {self.nature}", Trade.channel, symbol, self.id)
        ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
        if not are_numbers(price, size):
            return _not_numbers(price, size)
        contracts = self.product == 2 or ("_" in symbol and is_coin_m(symbol))
        side = "sell" if self.buyer_is_maker else "buy"
        return (Trade(symbol, self.id, price, size, side, ns, None, None, contracts),)


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

    def rows(self, stream: str) -> Decoded:
        if not _is_of_changes(stream):
            return Ignored(f"channel not recorded: {stream.partition('@')[2]}")
        symbol, time, first, previous = self.native_symbol, self.time, self.first_seq, self.previous
        ns = time * 1_000_000 if FIRST_MS <= time <= LAST_MS else exchange_ns(time)
        if previous is UNSET:
            previous = first - 1
        contracts = self.product == 2 or ("_" in symbol and is_coin_m(symbol))
        return (BookDelta(symbol, ns, first, self.last_seq, previous, False, self.bids, self.asks, 2, contracts),)


_Event = _AggTrade | _SingleTrade | _Depth


class _Combined(Struct, gc=False):
    data: _Event
    stream: str = ""


_combined = msgspec.json.Decoder(_Combined)
_read_combined = _combined.decode
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
        combined = _read_combined(frame)
        return combined.data.rows(combined.stream)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # not ours, or not plainly so
    try:
        return _decode_other(frame)
    except RecursionError:
        return Reject("nested too deeply")


def decode_trades(frames: Sequence[bytes]) -> tuple[Trades, Sequence[int]] | None:
    """Read the frames of `@aggTrade` or `@trade` together; None if one of them must be looked at alone."""
    if _is_trade(frames[0]) and _is_trade(frames[-1]):  # a socket of trades alone, most likely
        trades = _read_together(frames)
        if trades is not None:
            return trades, range(len(frames))
    where = [n for n, frame in enumerate(frames) if _is_trade(frame)]
    if not where:
        return Trades(), ()
    trades = _read_together([frames[n] for n in where])
    return None if trades is None else (trades, where)


def decode_together(frames: Sequence[bytes]) -> Together | None:
    """Read many frames of `@aggTrade`, `@trade` and `@depth`; None if one of them must be looked at alone."""
    try:
        read = list(map(_read_combined, frames))
        events = [combined.data for combined in read]
        kinds = list(map(type, events))
        changes = kinds.count(_Depth)
        if not changes:
            return Together(_plain_trades(events), range(len(events)), Links(), ())
        if not all(map(_is_of_changes, {combined.stream for combined in read if type(combined.data) is _Depth})):
            return None
        if changes == len(events):
            return Together(Trades(), (), _links(events), range(len(events)))
        trades_at = [n for n, kind in enumerate(kinds) if kind is not _Depth]
        links_at = [n for n, kind in enumerate(kinds) if kind is _Depth]
        trades, links = _plain_trades([events[n] for n in trades_at]), _links([events[n] for n in links_at])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Together(trades, trades_at, links, links_at)


def _links(events: Sequence[Any]) -> Links:
    """Return the numbers of `_Depth`s. Raises ValueError where a time asks for a closer look."""
    times = [event.time for event in events]
    if min(times) < FIRST_MS or max(times) > LAST_MS:
        raise ValueError("a time in another unit, or none")
    return Links(
        [event.native_symbol for event in events],
        [event.first_seq - 1 if event.previous is UNSET else event.previous for event in events],
        [event.last_seq for event in events],
        [time * 1_000_000 for time in times],
    )


def _is_of_changes(stream: str) -> bool:
    """Tell a stream of changes from those of partial and RPI books, which look like changes of the book."""
    return "@depth@" in stream or not stream or stream.partition("@")[2] == "depth"


def _is_trade(frame: bytes) -> bool:
    return b'rade"' in frame[:64]  # the stream's name, with the longest symbol there is


def _read_together(frames: Sequence[bytes]) -> Trades | None:
    """Return what `rows` says of each; None where that is more than a plain trade."""
    try:
        return _plain_trades([combined.data for combined in map(_read_combined, frames)])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _plain_trades(events: Sequence[Any]) -> Trades:
    """Return what `rows` says of each, all of one kind. Raises ValueError where one is more than a plain trade."""
    kinds = set(map(type, events))
    if kinds == {_AggTrade}:
        trades = _columns(events)
        trades.first_ids, trades.last_ids = [event.first_id for event in events], [e.last_id for e in events]
    elif kinds == {_SingleTrade} and {event.nature for event in events} == {"MARKET"}:
        trades = _columns(events)
        trades.first_ids, trades.last_ids = [None] * len(events), [None] * len(events)
    else:
        raise ValueError("no trades of one kind")
    return trades


def _columns(events: "Sequence[_AggTrade | _SingleTrade]") -> Trades:
    """Return what all trades have. Raises ValueError where one has something to it that asks for a closer look."""
    symbols, times = [event.native_symbol for event in events], [event.time for event in events]
    prices, sizes = [event.price for event in events], [event.size for event in events]
    if min(times) < FIRST_MS or max(times) > LAST_MS or not all_plain(prices, sizes):
        raise ValueError("a time or a number that is spelled in another way, or is none")
    if {event.product for event in events} != {1} or any("_" in symbol for symbol in set(symbols)):
        raise ValueError("sizes may be contracts")
    return Trades(
        symbols,
        [event.id for event in events],
        prices,
        sizes,
        [not event.buyer_is_maker for event in events],
        [time * 1_000_000 for time in times],
        derivatives=[False] * len(events),
    )


def _not_numbers(price: str, size: str) -> Reject:
    return Reject(f"price {price!r:.80} or size {size!r:.80} is not a number")


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
        return event.rows(stream)
    except ValueError as reason:
        return Reject(str(reason))


# BTCUSD_PERP, BTCUSD_261225, BNBUSD_220624; but BTCBUSD_210129 was a USD-M contract that was margined in BUSD.
_COIN_M = re.compile(r"USD_PERP$|(?<!B)USD_\d{6}$|^BNBUSD_\d{6}$")


def is_coin_m(native_symbol: str) -> bool:
    """Tell whether sizes count contracts. Frames say so themselves (`st` = 2) only since June 2026."""
    return _COIN_M.search(native_symbol) is not None
