"""Hours as a follower leaves them, and what looks after them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from collector_trio.followers.cursor import load_cursor
from collector_trio.followers.publish import in_order, numbers
from collector_trio.followers.tables import open_tables
from collector_trio.followers.upkeep import GRACE_S, Upkeep
from collector_trio.tables import TABLES

from ..journal.writing import START_NS, HandClock
from .recordings import record_some, store

HOUR_S = 3600
LATER_S = START_NS / 1e9 + 2 * HOUR_S  # when the hour in which recordings begin is over


@attrs.define
class HandTime:
    """Seconds since the epoch, moved by hand."""

    s: float = LATER_S

    def __call__(self) -> float:
        return self.s


def record_hours(data_dir: Path, segments: int = 6) -> None:
    """Record some minutes before 13:00 and one segment after it, and store them."""
    clock = HandClock()
    clock.advance((22 - segments) * 60)
    record_some(data_dir, segments + 1, clock)
    store(data_dir)


def look_after(
    data_dir: Path,
    keep_s: float | None = None,
    clock: Callable[[], float] | None = None,
    between: Callable[[], object] = lambda: None,
) -> int:
    """Do all that is to be done, as a follower does after its start; return in how many steps."""
    log, steps = structlog.get_logger(), 0
    open_tables(data_dir, log)
    with Upkeep(data_dir, keep_s, log, clock or HandTime()) as upkeep:
        while upkeep.step(load_cursor(data_dir).segment):
            steps += 1
            between()
    return steps


def empty_tmp(upkeep: Upkeep, clock: HandTime) -> None:
    """Let the time pass after which nobody can be listing what went."""
    clock.s += GRACE_S
    while upkeep._going:
        upkeep.step(0)


def hour_folders(data_dir: Path, table: str = "*") -> dict[str, list[str]]:
    """Return the names in every hour's folder."""
    return {
        str(folder.relative_to(data_dir)): sorted(path.name for path in folder.iterdir())
        for folder in sorted(data_dir.glob(f"{table}/exchange=*/market=*/date=*/hour=*"))
    }


def stored_rows(data_dir: Path) -> dict[str, pa.Table]:
    """Return by table, exchange, market and hour all rows, sorted as one file has them."""
    found = {}
    for folder in sorted(data_dir.glob("*/exchange=*/market=*/date=*/hour=*")):
        files = sorted(folder.glob("*.parquet"), key=lambda path: numbers(path) or (0, 0))
        rows = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files]).unify_dictionaries()
        table = folder.relative_to(data_dir).parts[0]
        found[str(folder.relative_to(data_dir))] = in_order(table, rows).replace_schema_metadata(None)
    return found


def same(one: dict[str, pa.Table], other: dict[str, pa.Table]) -> bool:
    """Tell whether the same rows are in the same hours, in the same order."""
    return one.keys() == other.keys() and all(one[key].to_pylist() == other[key].to_pylist() for key in one)


def is_sorted(path: Path) -> bool:
    """Tell whether the rows of a file are in its table's order."""
    table = path.name.partition("-")[0]
    rows = pq.read_table(path, partitioning=None).select(list(TABLES[table].order)).to_pylist()
    keys: list[Any] = [[(value is None, value) for value in row.values()] for row in rows]
    return all(before <= after for before, after in pairwise(keys))
