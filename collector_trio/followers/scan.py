"""What has been recorded, as Polars frames: the same picture that `sql` reads.

A frame names its files when it is made and reads them when it is collected. A file never changes in between; it goes
when its hour is over and merged, or older than `keep_tables`. `collect` then raises FileNotFoundError, and a new `scan`
has the rows again. So scan where you collect, and do not keep frames for long.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import polars as pl
import pyarrow as pa

from collector_trio.errors import CollectorError
from collector_trio.followers.columns import SCHEMAS
from collector_trio.followers.reading import Picture, unstored_rows, with_picture
from collector_trio.tables import TABLES

# A time as callers spell it: what names no zone is UTC; a bare number is nanoseconds since the epoch.
Moment = datetime | str | int
DataDir = str | PathLike[str]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000
EVER_US = (0, 253_370_764_800_000_000)  # until the year 9999
# Nothing is received this long before the exchange says it happened, however wrong the clock of this machine is.
EARLY_US = 24 * HOUR_US


def moment_us(moment: Moment) -> int:
    """Return microseconds since the epoch, as the tables hold them. Raises CollectorError for what is no time."""
    if isinstance(moment, int):
        return moment // 1000
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            problem = f"{moment!r} is not a time such as 2026-11-23 or 2026-11-23T12:30:00.250Z"
            raise CollectorError(problem) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return the time that `us` microseconds since the epoch are, in UTC."""
    return EPOCH + timedelta(microseconds=us)


@attrs.frozen
class Recording:
    """One picture of a data dir: the files by table, and by table the rows that are in none yet."""

    files: Mapping[str, list[Path]]
    fresh: Mapping[str, pa.Table]

    @classmethod
    def of(cls, picture: Picture) -> "Recording":
        """Read the unstored rows of `picture`. Raises FileNotFoundError when a segment has vanished."""
        return cls(picture.files, unstored_rows(picture))

    def rows(
        self,
        table: str,
        exchange: str | None = None,
        market: str | None = None,
        received_us: tuple[int, int] = EVER_US,
    ) -> pl.LazyFrame:
        """Return the rows of one table in no order.

        Files of hours that lie outside of `received_us` are left out; which rows of the others are wanted is the
        caller's to say.
        """
        first, last = (f"{from_us(us):%Y-%m-%dT%H}" for us in received_us)
        files = []
        for path in self.files[table]:
            keys = partition(path)
            if (
                exchange in (None, keys["exchange"])
                and market in (None, keys["market"])
                and first <= f"{keys['date']}T{keys['hour']}" <= last
            ):
                files.append(path)
        fresh = _frame(self.fresh.get(table, SCHEMAS[table].empty_table()))
        found = fresh.lazy()
        if files:
            stored = pl.scan_parquet(
                files,
                glob=False,
                hive_partitioning=False,  # the columns are in the files
                schema=fresh.schema,
                missing_columns="insert",  # of files that an earlier version wrote
                extra_columns="ignore",  # of files that a later version wrote
            )
            found = pl.concat([stored, found])
        if exchange is not None:
            found = found.filter(pl.col("exchange") == exchange)
        if market is not None:
            found = found.filter(pl.col("market") == market)
        return found

    def places(self, table: str) -> set[tuple[str, str]]:
        """Return the exchanges and markets that have rows in one table."""
        found = {(keys["exchange"], keys["market"]) for keys in map(partition, self.files[table])}
        if fresh := self.fresh.get(table):
            found |= set(zip(fresh["exchange"].to_pylist(), fresh["market"].to_pylist(), strict=True))
        return found


def scan(
    table: str,
    data_dir: DataDir = "data",
    *,
    exchange: str | None = None,
    market: str | None = None,
    symbol: str | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
) -> pl.LazyFrame:
    """Return the rows of one table, in the order of `ts` (of `recv`, where the exchange sends no time).

    Everything accepted until now is in it, also what is in no file yet; a table without rows has its columns all the
    same. `start <= ts < end`. Collect it soon: see the top of this module. Raises CollectorError.
    """
    if table not in TABLES:
        close = get_close_matches(table, TABLES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(TABLES)}"
        raise CollectorError(f"there is no table {table!r}; {hint}")
    since, until = EVER_US[0] if start is None else moment_us(start), None if end is None else moment_us(end)
    recording = with_picture(Path(data_dir), Recording.of, tables=(table,))
    found = recording.rows(table, exchange, market, (max(0, since - EARLY_US), EVER_US[1]))
    if symbol is not None:
        found = found.filter(pl.col("symbol") == symbol)
    if start is not None:
        found = found.filter(is_from(since))
    if until is not None:
        found = found.filter(is_before(until))
    ties = [name for name in ("id", "recv_ns", "frame") if name in TABLES[table].columns]
    return found.sort(pl.coalesce("ts", "recv"), *ties, maintain_order=True)


# Spelled out, so that Parquet's statistics can tell which row groups have no such rows.


def is_before(us: int) -> pl.Expr:
    """Tell of rows whether the exchange's time (ours, where it sends none) is before `us` microseconds."""
    return (pl.col("ts") < literal(us)) | (pl.col("ts").is_null() & (pl.col("recv") < literal(us)))


def is_from(us: int) -> pl.Expr:
    """Tell of rows whether the exchange's time (ours, where it sends none) is `us` microseconds or later."""
    return (pl.col("ts") >= literal(us)) | (pl.col("ts").is_null() & (pl.col("recv") >= literal(us)))


def literal(us: int) -> pl.Expr:
    """Return a time as the tables hold it; without the Python object, which needs a time-zone library."""
    return pl.lit(us).cast(pl.Datetime("us", "UTC"))


def partition(path: Path) -> dict[str, str]:
    """Return what a file's folders say: exchange, market, date and hour."""
    return dict(part.split("=", 1) for part in path.parts[-5:-1])


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame: Any = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame
