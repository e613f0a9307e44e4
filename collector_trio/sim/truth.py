"""What the simulated exchanges really published, so that a recording can be held against it.

A fact is something published once, to whoever listens or to nobody: `Truth.facts` has them all, in order. It may be
sent to several connections: `Truth.sent` is the log of that, one entry per fact and connection, in the order in which
each connection's socket took them, made when the send had returned. A frame may hold several facts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import attrs

from collector_trio.sim.facts import BOOK_STREAMS, Book, BookFact, Fact, Folded, Key, TradeFact


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


class Struck(NamedTuple):
    """What a fault did: to which stream, and to which ids of it (of a book: its `last_seq`). `conn` None: to all."""

    conn: int | None
    stream: str
    native_symbol: str
    ids: tuple[int, ...]


@attrs.define(eq=False)
class FaultRecord:
    """A fault that struck: what, when, and which connections (a refusal strikes handshakes, which have no number).

    One that waits for frames, changes, requests or subscriptions notes in `did` what it then did to each.
    """

    kind: str
    at_ns: int
    target: str
    conns: list[int]
    did: list[Struck] = attrs.Factory(list)


class Asked(NamedTuple):
    """One thing that was asked of an exchange, however it was answered: a `dial`, or a `rest` request and its weight,
    by whose limits it counts ("binance.spot", "binance.perp", "okx").
    """

    at_ns: int
    what: str
    pool: str
    weight: int


@attrs.define(eq=False)
class Truth:
    """The log of a server's life.

    Without `keep`, what was sent and published is only counted, and what was sent is written where `written_to` says.
    `published` counts facts, sent to somebody or not; `facts` are they, in order, and those of a book begin with the
    whole book when its feed began, which was sent to nobody. `burned` are ids that a fault took and nothing has.
    """

    sent: list[Sent] = attrs.Factory(list)
    connections: list[ConnectionRecord] = attrs.Factory(list)
    faults: list[FaultRecord] = attrs.Factory(list)
    published: Counter[Key] = attrs.Factory(Counter)
    facts: dict[Key, list[TradeFact | BookFact]] = attrs.Factory(dict)
    burned: dict[Key, list[int]] = attrs.Factory(dict)
    rest: Counter[tuple[str, int]] = attrs.Factory(Counter)
    refused: int = 0
    asked: list[Asked] = attrs.Factory(list)
    keep: bool = True
    log: IO[str] | None = None
    _folded: dict[Key, Folded] = attrs.Factory(dict)

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

    def trade_ids(self, exchange: str, market: str, stream: str, native_symbol: str) -> list[int]:
        """List the id of every trade of this stream, in the order of publication."""
        facts = self.facts.get((exchange, market, stream, native_symbol), [])
        return [fact.number for fact in facts]

    def book_at(self, exchange: str, market: str, native_symbol: str, ts_us: int) -> Book:
        """Fold what was published of a book up to and including this time of the exchange.

        Returns the last sequence number, then bids and asks: size by price, as text. Raises `KeyError` before the feed
        began. Asking in the order of time costs least.
        """
        key = (exchange, market, BOOK_STREAMS[exchange], native_symbol)
        facts = self.facts[key]
        folded = self._folded.get(key)
        if folded is None or folded.ts_us > ts_us:
            folded = self._folded[key] = Folded()
        while folded.facts < len(facts) and (fact := facts[folded.facts]).ts_us <= ts_us:
            assert isinstance(fact, BookFact)
            folded.fold(fact)
        if not folded.facts:
            raise KeyError(ts_us)
        return folded.last_seq, dict(folded.bids), dict(folded.asks)

    def add_start(self, fact: BookFact) -> None:
        """Keep the whole book with which a feed begins, or begins again: nobody was sent it."""
        if self.keep:
            self.facts.setdefault(fact.key, []).append(fact)

    def add_published(self, fact: TradeFact | BookFact) -> None:
        """Note what an exchange published."""
        key = fact.key
        self.published[key] += 1
        if self.keep:
            kept = self.facts.get(key)
            if kept is None:
                self.facts[key] = [fact]
            else:
                kept.append(fact)

    def add_burned(self, key: Key, ids: Iterable[int]) -> None:
        """Keep ids that were taken and given to nothing."""
        self.burned.setdefault(key, []).extend(ids)

    def add_struck(self, record: FaultRecord, struck: Struck) -> None:
        """Note what a fault did."""
        record.did.append(struck)
        self._write("struck", {"fault": record.kind, "at_ns": record.at_ns, **struck._asdict()})

    def add_asked(self, asked: Asked) -> None:
        """Note a handshake or a REST request."""
        if self.keep:
            self.asked.append(asked)

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
