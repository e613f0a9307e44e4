"""What every exchange file offers, and the typed messages their frames become.

An exchange is a module of plain data and pure functions that satisfies `Exchange`; nothing in it does I/O, looks at a
clock or logs.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, Protocol

import attrs
import msgspec

from collector_trio.instruments import Instrument
from collector_trio.plan import Plannable, Subscription


class Trade(msgspec.Struct, gc=False):
    """One trade as published. `price` and `size` are the exchange's text; `side` is the taker's: "buy" or "sell".

    `first_id..last_id` are the matches an aggregate covers, None where the exchange publishes a single match.
    `exchange_ns` is nanoseconds since the epoch. `derivative`: `size` counts contracts, not base units.

    In the sequence of trades it takes the `covers` numbers that end with `id`; None: they are not a sequence.
    """

    channel: ClassVar[str] = "trades"
    native_symbol: str
    id: int
    price: str
    size: str
    side: str
    exchange_ns: int
    first_id: int | None = None
    last_id: int | None = None
    derivative: bool = False
    covers: int | None = 1


@attrs.define(eq=False)
class Trades:
    """Many trades as columns of equal length, each as `Trade` says of its field; `buys`: where `side` is "buy"."""

    channel: ClassVar[str] = Trade.channel
    native_symbols: list[str] = attrs.field(factory=list)
    ids: list[int] = attrs.field(factory=list)
    prices: list[str] = attrs.field(factory=list)
    sizes: list[str] = attrs.field(factory=list)
    buys: list[bool] = attrs.field(factory=list)
    exchange_ns: list[int] = attrs.field(factory=list)
    first_ids: list[int | None] = attrs.field(factory=list)
    last_ids: list[int | None] = attrs.field(factory=list)
    derivatives: list[bool] = attrs.field(factory=list)

    def append(self, trade: Trade) -> None:
        """Add one."""
        self.native_symbols.append(trade.native_symbol)
        self.ids.append(trade.id)
        self.prices.append(trade.price)
        self.sizes.append(trade.size)
        self.buys.append(trade.side == "buy")
        self.exchange_ns.append(trade.exchange_ns)
        self.first_ids.append(trade.first_id)
        self.last_ids.append(trade.last_id)
        self.derivatives.append(trade.derivative)

    def extend(self, more: "Trades") -> None:
        """Add many."""
        self.native_symbols += more.native_symbols
        self.ids += more.ids
        self.prices += more.prices
        self.sizes += more.sizes
        self.buys += more.buys
        self.exchange_ns += more.exchange_ns
        self.first_ids += more.first_ids
        self.last_ids += more.last_ids
        self.derivatives += more.derivatives

    def at(self, positions: Sequence[int]) -> "Trades":
        """Return some of them."""
        columns = attrs.asdict(self, recurse=False)
        return Trades(**{name: [column[n] for n in positions] for name, column in columns.items()})


class BookDelta(msgspec.Struct, gc=False):
    """One published change of an order book (or, with `snapshot`, a whole one).

    `bids` and `asks` are the frame's own JSON text, a list of levels of `stride` elements each, price and size first;
    they are parsed by whoever needs columns, a whole batch at a time. A size of 0 deletes. Sequence numbers are None
    where the exchange sends none.
    """

    channel: ClassVar[str] = "book"
    native_symbol: str
    exchange_ns: int
    first_seq: int | None
    last_seq: int | None
    prev_seq: int | None
    snapshot: bool
    bids: msgspec.Raw
    asks: msgspec.Raw
    stride: int
    derivative: bool = False


class BookSnapshot(msgspec.Struct, gc=False):
    """A whole book as an exchange's REST gave it.

    `last_seq` is in the numbers of the book's changes; `exchange_ns` None where the answer has no time. The sides are
    as in `BookDelta`, best level first. `depth`: so many levels a side were asked for, so a side that holds as many may
    go on; what lies behind it is unknown.
    """

    native_symbol: str
    exchange_ns: int | None
    last_seq: int
    bids: msgspec.Raw
    asks: msgspec.Raw
    stride: int
    depth: int
    derivative: bool = False


@attrs.frozen
class Links:
    """The numbers of many book changes as columns of equal length, each as `BookDelta` says of its field."""

    channel: ClassVar[str] = BookDelta.channel
    native_symbols: list[str] = attrs.field(factory=list)
    prev_seqs: list[int] = attrs.field(factory=list)
    last_seqs: list[int] = attrs.field(factory=list)
    exchange_ns: list[int] = attrs.field(factory=list)


@attrs.frozen
class Together:
    """What many frames say of which each is one trade or one change of a book; `…_at`: which of them they are."""

    trades: Trades
    trades_at: Sequence[int]
    links: Links
    links_at: Sequence[int]


@attrs.frozen
class BookRules:
    """How the order books of one market are kept.

    `in_band`: snapshots come on the socket, and asking for one means subscribing again; else REST gives them.
    `overlap`: a change may begin before the last one ended, and is then applied whole (sizes are absolute).
    `resets`: sequence numbers may go down, as long as they chain. `depth`: levels a side that the channel keeps; what
    lies behind is unknown. None: as many as the snapshot had.
    """

    in_band: bool
    overlap: bool
    resets: bool
    depth: int | None = None


class ControlKind(StrEnum):
    """What a frame that is not data says."""

    ACK = "ack"
    ERROR = "error"
    PONG = "pong"
    NOTICE = "notice"  # the exchange will close this connection soon: dial another
    OTHER = "other"


@attrs.frozen
class Control:
    """A frame about the connection itself. `request` is the id it answers to, `code` and `text` are the exchange's."""

    kind: ControlKind
    text: str = ""
    code: str | None = None
    request: str | None = None
    channel: str | None = None
    native_symbol: str | None = None


@attrs.frozen
class Ignored:
    """A frame we understand and store no row of. Where it proves that a subscription lives, it names it.

    `trade_id`: the number it takes in the sequence of trades, though it is none (USD-M: insurance fund, ADL).
    """

    reason: str
    channel: str | None = None
    native_symbol: str | None = None
    trade_id: int | None = None


@attrs.frozen
class Reject:
    """A frame we cannot use; it is kept whole in the table `rejects`."""

    reason: str


Row = Trade | BookDelta
Decoded = Sequence[Row] | Control | Ignored | Reject


@attrs.frozen
class Request:
    """One REST request: a path with its query, to be appended to the configured base, and its cost in the budget."""

    path: str
    weight: int


class Exchange(Plannable, Protocol):
    """What a module in this package offers."""

    PING: str | None  # the text to send when nothing else keeps the connection open
    PING_EVERY_S: float

    def instruments_request(self, market: str) -> Request:
        """Return the request whose answer lists every instrument of `market`."""

    def parse_instruments(self, market: str, body: bytes) -> list[Instrument]:
        """Read that answer. Raises `BadAnswer`, also for an error in the exchange's own envelope."""

    def used_weight(self, headers: Mapping[str, str]) -> int | None:
        """Return how much of the REST budget an answer says is used, by whoever asks from our address; None if it says
        nothing.
        """

    def maintenance_request(self) -> Request | None:
        """Return the request whose answer tells of maintenance; None where there is none."""

    def parse_maintenance(self, body: bytes, now_ms: int) -> str:
        """Read from that answer what is being maintained at `now_ms` that market data may suffer from, "" for nothing.

        Raises `BadAnswer`.
        """

    def time_request(self, market: str) -> Request:
        """Return the request whose answer is the exchange's time."""

    def parse_time(self, body: bytes) -> int:
        """Read that answer: nanoseconds since the epoch. Raises `BadAnswer`."""

    def subscribe(self, subscriptions: Sequence[Subscription], request: int) -> str:
        """Return the one message that subscribes to all of `subscriptions`."""

    def unsubscribe(self, subscriptions: Sequence[Subscription], request: int) -> str:
        """Return the one message that ends them."""

    def batches(self, subscriptions: Sequence[Subscription]) -> Iterable[Sequence[Subscription]]:
        """Split `subscriptions` into what one message may carry."""

    def decode(self, frame: bytes) -> Decoded:
        """Say what one frame means. Never raises, whatever the bytes."""

    def decode_trades(self, frames: Sequence[bytes]) -> tuple[Trades, Sequence[int]] | None:
        """Read those of many frames that look like trades, each one trade that takes one number, and say which they
        are: what `decode` makes of each of them, several times as fast. None: one of them is not that plain.
        """

    def decode_together(self, frames: Sequence[bytes]) -> Together | None:
        """Read many frames of which each is one trade that takes one number, or one change of a book: what `decode`
        makes of each of them, but the levels. None: one of them is not that plain.
        """

    def book_rules(self, market: str) -> BookRules:
        """Return how the order books of `market` are kept."""

    def snapshot_request(self, instrument: Instrument) -> Request | None:
        """Return the request for one whole book; None where snapshots are in-band."""

    def decode_snapshot(self, market: str, native_symbol: str, body: bytes) -> BookSnapshot | Ignored | Reject:
        """Read that answer. Ignored: a book that cannot be used yet (empty, without a number); ask again later.

        Reject: no book at all, or a crossed one. Never raises, whatever the bytes.
        """
