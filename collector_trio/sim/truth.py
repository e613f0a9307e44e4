"""What the simulated exchanges really published, so that a recording can be held against it.

A fact is something published once; it may be sent to several connections. `Truth.sent` is the log of that: one entry
per data frame and connection, in the order in which each connection's socket took them, made when the send had
returned.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import attrs

Levels = tuple[tuple[str, str], ...]


class Fact(Protocol):
    """Anything whose sending is worth an entry."""

    def row(self, micro: bool) -> dict[str, Any]:
        """Return it as what goes into the log; `micro`: it was sent to a connection that asked for microseconds."""


@attrs.frozen
class TradeFact:
    """One published trade, as text. `id` is what the stream counts by, `first_id..last_id` the matches it covers.

    `stream` is the exchange's own word (aggTrade, trade, trades-all, trades); `side` the taker's; `ts_us` the time of
    the match.
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
        }


@attrs.frozen
class BookFact:
    """One published change of a book, or a whole one. Numbers an exchange does not send are None.

    A heartbeat is a fact too: no levels, and `last_seq` equal to `prev_seq`.
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
        }


def _time(ts_us: int, micro: bool) -> dict[str, int]:
    return {"ts_us": ts_us} if micro else {"ts_ms": ts_us // 1000}


class Sent(NamedTuple):
    """One data frame that went to one connection. Not `certain`: the send failed half-way, so perhaps it arrived."""

    conn: int
    fact: Fact
    micro: bool
    certain: bool

    def row(self) -> dict[str, Any]:
        """Return the fact and the connection it went to."""
        row = {"conn": self.conn, **self.fact.row(self.micro)}
        return row if self.certain else {**row, "certain": False}


@attrs.define(eq=False)
class ConnectionRecord:
    """The story of one connection.

    Frames are counted when their send has returned; `control` are texts that are not data.
    """

    conn: int
    exchange: str
    endpoint: str
    target: str
    opened_ns: int
    closed_ns: int | None = None
    ended: str = ""
    data: int = 0
    control: int = 0
    pings: int = 0
    pongs: int = 0
    uncertain: int = 0
    received: int = 0


@attrs.define(eq=False)
class FaultRecord:
    """A fault that struck: what, when, and which connections (a refusal strikes handshakes, which have no number)."""

    kind: str
    at_ns: int
    target: str
    conns: list[int]


@attrs.define(eq=False)
class Truth:
    """The log of a server's life.

    Without `keep`, what was sent is only counted, and written where `written_to` says. `published` counts facts by
    (exchange, stream, native symbol), sent to somebody or not.
    """

    sent: list[Sent] = attrs.Factory(list)
    connections: list[ConnectionRecord] = attrs.Factory(list)
    faults: list[FaultRecord] = attrs.Factory(list)
    published: Counter[tuple[str, str, str]] = attrs.Factory(Counter)
    rest: Counter[tuple[str, int]] = attrs.Factory(Counter)
    refused: int = 0
    keep: bool = True
    log: IO[str] | None = None

    @property
    def opened(self) -> int:
        """How many WebSockets were opened."""
        return len(self.connections)

    @property
    def closed(self) -> int:
        """How many of them are over."""
        return sum(record.closed_ns is not None for record in self.connections)

    def rows(self, **wanted: object) -> Iterator[dict[str, Any]]:
        """Give what was sent, as rows that have the `wanted` values: `rows(exchange="okx", channel="book")`."""
        for sent in self.sent:
            row = sent.row()
            if all(row.get(key) == value for key, value in wanted.items()):
                yield row

    def add_sent(self, entries: Sequence[Sent]) -> None:
        """Note data frames that went out on a connection."""
        if self.keep:
            self.sent.extend(entries)
        if self.log is not None:
            for entry in entries:
                self._write("sent", entry.row())

    def add_opened(self, record: ConnectionRecord) -> None:
        """Note a finished handshake."""
        self.connections.append(record)
        self._write("opened", {"conn": record.conn, "endpoint": record.endpoint, "at_ns": record.opened_ns})

    def add_closed(self, record: ConnectionRecord, at_ns: int, ended: str) -> None:
        """Note that a connection is over, and how."""
        record.closed_ns = at_ns
        record.ended = ended
        self._write("closed", attrs.asdict(record))

    def add_fault(self, fault: FaultRecord) -> None:
        """Note a fault that struck."""
        self.faults.append(fault)
        self._write("fault", attrs.asdict(fault))

    @contextmanager
    def written_to(self, path: Path | None) -> Iterator[None]:
        """Meanwhile write every entry to `path`, too, as a JSON line with its kind as `entry`; None writes nothing."""
        if path is None:
            yield
            return
        with path.open("w", encoding="utf-8") as self.log:
            yield
        self.log = None

    def _write(self, entry: str, row: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(json.dumps({"entry": entry, **row}) + "\n")
