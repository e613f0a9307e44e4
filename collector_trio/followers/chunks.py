"""Rows on their way to a file: typed messages that wait to become columns, then columns that wait to be taken."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import pyarrow as pa

from collector_trio.followers.columns import build, micros
from collector_trio.instruments import Instrument

# Which table, exchange and market a chunk of rows belongs to; each is a file of its own.
Place = tuple[str, str, str]
# What brought a row: session, frame number (-1: no frame, but a note), receive time in nanoseconds.
Line = tuple[int | None, int, int]
ALL = "all"  # the exchange or market of a row that is not of one alone


@attrs.define
class Waiting:
    """Messages of one table and market. `frames` are kept whole where a level may turn out to be none.

    Which session brought a row, and when, is known by stretches: (rows up to here, session, receive time).
    """

    instruments: dict[str, Instrument] = attrs.field(factory=dict)  # by native symbol
    rows: list[Any] = attrs.field(factory=list)
    numbers: list[int] = attrs.field(factory=list)  # of their frames
    frames: list[bytes] = attrs.field(factory=list)
    owners: list[int] = attrs.field(factory=list)  # of book changes: whose levels they change; -1: nobody's yet
    stretches: list[tuple[int, int | None, int]] = attrs.field(factory=list)

    def end_stretch(self, session: int | None, received_ns: int) -> None:
        """Say what brought the rows since the last call."""
        if len(self.rows) > (self.stretches[-1][0] if self.stretches else 0):
            self.stretches.append((len(self.rows), session, received_ns))

    def lines(self) -> list[Line]:
        """Return what brought each row."""
        found: list[Line] = []
        start = 0
        for end, session, received_ns in self.stretches:
            found += [(session, number, received_ns) for number in self.numbers[start:end]]
            start = end
        return found

    def stamps(self) -> dict[str, Any]:
        """Return the columns that say what brought each row."""
        counts = np.diff([0, *(end for end, _, _ in self.stretches)])
        received = np.repeat(np.array([ns for _, _, ns in self.stretches], dtype=np.int64), counts)
        if any(session is None for _, session, _ in self.stretches):
            sessions: Any = pa.nulls(len(self.rows), pa.int64())
        else:
            sessions = pa.array(np.repeat(np.array([s for _, s, _ in self.stretches], dtype=np.int64), counts))
        return {
            "recv": micros(received),
            "recv_ns": pa.array(received),
            "session": sessions,
            "frame": pa.array(np.array(self.numbers, dtype=np.int64)),
        }

    def take(self) -> "Waiting":
        """Return what waits, and wait for more."""
        taken = attrs.evolve(self)
        self.rows, self.numbers, self.frames, self.owners, self.stretches = [], [], [], [], []
        return taken

    def without(self, indices: set[int]) -> "Waiting":
        """Return the same without some of the rows."""
        keep = [index for index in range(len(self.rows)) if index not in indices]
        stretches: list[tuple[int, int | None, int]] = []
        start = 0
        for end, session, received_ns in self.stretches:
            kept = sum(index not in indices for index in range(start, end))
            stretches.append(((stretches[-1][0] if stretches else 0) + kept, session, received_ns))
            start = end
        return Waiting(
            self.instruments,
            [self.rows[index] for index in keep],
            [self.numbers[index] for index in keep],
            [self.frames[index] for index in keep],
            [self.owners[index] for index in keep],
            stretches,
        )


@attrs.define
class Finished:
    """Rows as columns, by place."""

    chunks: dict[Place, list[pa.Table]] = attrs.field(factory=dict)

    def add(self, place: Place, waiting: Waiting, columns: Mapping[str, Any]) -> None:
        """Add the rows of messages that waited."""
        whole = {"exchange": place[1], "market": place[2], **waiting.stamps(), **columns}
        self.chunks.setdefault(place, []).append(build(place[0], whole, len(waiting.rows)))

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
