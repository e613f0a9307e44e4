"""Facts: what an exchange publishes, as text, whoever hears it; and the book they add up to."""

from typing import Any, Protocol

import attrs

Levels = tuple[tuple[str, str], ...]
# Exchange, market, stream (the exchange's word), native symbol.
Key = tuple[str, str, str, str]
BOOK_STREAMS = {"binance": "depth@100ms", "okx": "books"}


class Fact(Protocol):
    """Anything whose sending is worth an entry."""

    def row(self, micro: bool) -> dict[str, Any]:
        """Return it as what goes into the log; `micro`: it was sent to a connection that asked for microseconds."""


@attrs.frozen
class TradeFact:
    """One published trade, as text. `id` is what the stream counts by, `first_id..last_id` the matches it covers.

    `stream` is the exchange's own word (aggTrade, trade, trades-all, trades); `side` the taker's; `ts_us` the time of
    the match. `contract_size` is how much of the base one unit of `size` is; None: `size` is in the base itself.
    `cause` is what the frame says a match is for ("MARKET", "INSURANCE_FUND"); empty where it says nothing.
    """

    exchange: str
    market: str
    symbol: str
    native_symbol: str
    stream: str
    id: int
    price: str
    size: str
    side: str
    ts_us: int
    first_id: int
    last_id: int
    contract_size: str | None = None
    cause: str = ""

    @property
    def key(self) -> Key:
        """What it is a part of."""
        return self.exchange, self.market, self.stream, self.native_symbol

    @property
    def number(self) -> int:
        """What its stream counts by."""
        return self.id

    def row(self, micro: bool) -> dict[str, Any]:
        """Return the trade with `ts_us` or `ts_ms`, whichever the frame had."""
        return {
            "exchange": self.exchange,
            "market": self.market,
            "channel": "trades",
            "symbol": self.symbol,
            "native_symbol": self.native_symbol,
            "stream": self.stream,
            "id": self.id,
            "price": self.price,
            "size": self.size,
            "side": self.side,
            **_time(self.ts_us, micro),
            "first_id": self.first_id,
            "last_id": self.last_id,
            "contract_size": self.contract_size,
        }


@attrs.frozen
class BookFact:
    """One published change of a book, or a whole one. Numbers an exchange does not send are None.

    A heartbeat is a fact too: no levels, and `last_seq` equal to `prev_seq`. `ts_us` is when it was published: `E` at
    Binance, `ts` at OKX. `contract_size` is as in `TradeFact`.
    """

    exchange: str
    market: str
    symbol: str
    native_symbol: str
    stream: str
    first_seq: int | None
    last_seq: int
    prev_seq: int | None
    snapshot: bool
    bids: Levels
    asks: Levels
    ts_us: int
    contract_size: str | None = None

    @property
    def key(self) -> Key:
        """What it is a part of."""
        return self.exchange, self.market, self.stream, self.native_symbol

    @property
    def number(self) -> int:
        """What its stream counts by."""
        return self.last_seq

    def row(self, micro: bool) -> dict[str, Any]:
        """Return the change with `ts_us` or `ts_ms`, whichever the frame had."""
        return {
            "exchange": self.exchange,
            "market": self.market,
            "channel": "book",
            "symbol": self.symbol,
            "native_symbol": self.native_symbol,
            "stream": self.stream,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "prev_seq": self.prev_seq,
            "snapshot": self.snapshot,
            "bids": [list(level) for level in self.bids],
            "asks": [list(level) for level in self.asks],
            **_time(self.ts_us, micro),
            "contract_size": self.contract_size,
        }


def _time(ts_us: int, micro: bool) -> dict[str, int]:
    return {"ts_us": ts_us} if micro else {"ts_ms": ts_us // 1000}


Book = tuple[int, dict[str, str], dict[str, str]]


@attrs.define(eq=False)
class Folded:
    """A book as it was after so many facts: size by price, as text."""

    facts: int = 0
    ts_us: int = 0
    last_seq: int = 0
    bids: dict[str, str] = attrs.Factory(dict)
    asks: dict[str, str] = attrs.Factory(dict)

    def fold(self, fact: BookFact) -> None:
        """Apply one more."""
        self.facts += 1
        self.ts_us, self.last_seq = fact.ts_us, fact.last_seq
        for side, levels in ((self.bids, fact.bids), (self.asks, fact.asks)):
            if fact.snapshot:
                side.clear()
            for price, size in levels:
                if size.strip("0."):
                    side[price] = size
                else:
                    side.pop(price, None)
