"""Rows on their way to a file: typed messages that wait to become columns, then columns that wait to be taken."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs
import numpy as np
import pyarrow as pa

from collector_trio.exchanges.protocol import BookDelta, Trade, Trades
from collector_trio.followers.columns import build, micros
from collector_trio.instruments import Instrument

# Which table, exchange and market a chunk of rows belongs to; each is a file of its own.
Place = tuple[str, str, str]
# What brought a row: session, frame number (-1: no frame, but a note), receive time in nanoseconds.
Line = tuple[int | None, int, int]
ALL = "all"  # the exchange or market of a row that is not of one alone


@attrs.define
class Waiting:
    """Messages of one table and market, and what brought them, by stretches.

    A stretch is `counts` frames with consecutive numbers from `firsts`, of one session, received at one time.
    """

    instruments: dict[str, Instrument] = attrs.field(factory=dict)  # by native symbol
    firsts: list[int] = attrs.field(factory=list)
    counts: list[int] = attrs.field(factory=list)
    sessions: list[int | None] = attrs.field(factory=list)
    received_ns: list[int] = attrs.field(factory=list)

    def arrived(self, session: int | None, number: int, received_ns: int) -> None:
        """Say what brought one more message."""
        self.firsts.append(number)
        self.counts.append(1)
        self.sessions.append(session)
        self.received_ns.append(received_ns)

    def take(self) -> Self:
        """Return what waits, and wait for more."""
        taken, empty = attrs.evolve(self), type(self)(self.instruments)
        for field in attrs.fields(type(self)):
            setattr(self, field.name, getattr(empty, field.name))
        return taken

    def lines(self) -> list[Line]:
        """Return what brought each message."""
        stretches = zip(self.sessions, self.firsts, self.counts, self.received_ns, strict=True)
        return [
            (session, number, ns) for session, first, count, ns in stretches for number in range(first, first + count)
        ]

    def stamps(self) -> dict[str, Any]:
        """Return the columns that say what brought each message."""
        counts = np.array(self.counts, dtype=np.int64)
        received = np.repeat(np.array(self.received_ns, dtype=np.int64), counts)
        starts = np.cumsum(counts) - counts
        numbers = np.repeat(np.array(self.firsts, dtype=np.int64) - starts, counts) + np.arange(len(received))
        if None in self.sessions:  # no journal holds them
            sessions = pa.nulls(len(received), pa.int64())
        else:
            sessions = pa.array(np.repeat(np.array(self.sessions, dtype=np.int64), counts))
        received_ns = pa.array(received)
        return {"recv": micros(received), "recv_ns": received_ns, "session": sessions, "frame": pa.array(numbers)}


@attrs.define
class WaitingTrades(Waiting):
    """Trades."""

    trades: Trades = attrs.field(factory=Trades)

    def __len__(self) -> int:
        return len(self.trades.ids)

    def append(self, trade: Trade, session: int | None, number: int, received_ns: int) -> None:
        """Let one more wait."""
        self.trades.append(trade)
        self.arrived(session, number, received_ns)

    def extend(
        self, trades: Trades, session: int, firsts: Sequence[int], counts: Sequence[int], received_ns: Sequence[int]
    ) -> None:
        """Let many more wait, by stretches of one session's frames."""
        self.trades.extend(trades)
        self.firsts += firsts
        self.counts += counts
        self.sessions += [session] * len(counts)
        self.received_ns += received_ns


@attrs.define
class WaitingChanges(Waiting):
    """Changes of books. `frames` are kept whole, for a level may turn out to be none."""

    changes: list[BookDelta] = attrs.field(factory=list)
    frames: list[bytes] = attrs.field(factory=list)
    owners: list[int] = attrs.field(factory=list)  # whose levels they change; -1: nobody's yet

    def __len__(self) -> int:
        return len(self.changes)

    def without(self, indices: set[int]) -> "WaitingChanges":
        """Return the same without some of the messages."""
        kept = WaitingChanges(self.instruments)
        for index, (line, change) in enumerate(zip(self.lines(), self.changes, strict=True)):
            if index not in indices:
                kept.arrived(*line)
                kept.changes.append(change)
                kept.frames.append(self.frames[index])
                kept.owners.append(self.owners[index])
        return kept


@attrs.define
class Finished:
    """Rows as columns, by place."""

    chunks: dict[Place, list[pa.Table]] = attrs.field(factory=dict)

    def add(self, place: Place, waiting: Waiting, columns: Mapping[str, Any]) -> None:
        """Add the rows of messages that waited."""
        whole = {"exchange": place[1], "market": place[2], **waiting.stamps(), **columns}
        self.chunks.setdefault(place, []).append(build(place[0], whole, sum(waiting.counts)))

    def put(self, table: str, exchange: str, market: str, lines: Sequence[Line], columns: Mapping[str, Any]) -> None:
        """Add rows that `lines` brought."""
        sessions, frames, received = zip(*lines, strict=True)
        whole = {
            "exchange": exchange,
            "market": market,
            "recv": micros(received),
            "recv_ns": received,
            "session": sessions,
            "frame": [frame if frame >= 0 else None for frame in frames],
            **columns,
        }
        self.chunks.setdefault((table, exchange, market), []).append(build(table, whole, len(lines)))

    def take(self) -> dict[Place, pa.Table]:
        """Return all rows, and forget them."""
        tables = {place: pa.concat_tables(chunks) for place, chunks in self.chunks.items()}
        self.chunks = {}
        return tables
