"""The gap ledger: what is missing, exactly, why, and what became of it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import polars as pl

from collector_trio.followers.reading import with_picture
from collector_trio.followers.scan import DataDir, Recording, from_us

# In the order of a hole's life, which decides between rows of one receive time.
STATES = ("open", "lost", "benign", "repaired")
MISSING = ("open", "lost")  # in the others nothing is, any more
_KEY = ("table", "exchange", "market", "symbol", "gap")
_TIMES = ("from_ts", "to_ts", "recv")


@attrs.frozen
class Hole:
    """One hole in its last state.

    Ids `first_missing..last_missing`, `missing` of them; all None for books, whose numbers cannot be counted. Exchange
    time from `from_ts` to `to_ts`; without an end it goes on. `recv`: when the state was noted.
    """

    table: str
    exchange: str
    market: str
    symbol: str | None
    gap: str
    state: str
    first_missing: int | None
    last_missing: int | None
    missing: int | None
    from_ts: datetime | None
    to_ts: datetime | None
    cause: str | None
    detail: str | None
    recv: datetime

    @property
    def is_missing(self) -> bool:
        """Tell whether something is not there: the hole is open, or lost for good."""
        return self.state in MISSING


def ledger(data_dir: DataDir = "data") -> list[Hole]:
    """Return every hole that was ever noted, in its last state, in the order of time. Raises CollectorError."""
    return with_picture(Path(data_dir), lambda picture: holes(Recording.of(picture)), tables=("gaps",))


def holes(recording: Recording, exchange: str | None = None, market: str | None = None) -> list[Hole]:
    """Return the holes of one picture, which must list the files of `gaps`."""
    stage = pl.col("state").cast(pl.Enum(STATES), strict=False)
    found = (
        recording.rows("gaps", exchange, market)
        .sort("recv_ns", stage, maintain_order=True)
        .group_by(_KEY, maintain_order=True)
        .last()
        .sort(pl.coalesce("from_ts", "recv"), *_KEY[:4], "first_missing")
        .select(
            pl.col(name).cast(pl.Int64 if name in _TIMES else pl.String) if name in (*_TIMES, *_KEY[1:3]) else name
            for name in attrs.fields_dict(Hole)
        )
        .collect()
    )
    return [_hole(row) for row in found.iter_rows(named=True)]


def _hole(row: dict[str, Any]) -> Hole:
    times = {name: from_us(row[name]) for name in _TIMES if row[name] is not None}
    return Hole(**row | times)
