"""What has been recorded: the Parquet files that are whole, and the segments no follower has stored yet. Here as DuckDB
views; `scan` makes Polars frames of the same picture.

Which is which the cursor says: a segment behind it is folded here, and a file of the same number is left out, so no row
is seen twice while a follower publishes, and none is missed. Merged files hold what is behind the cursor only, so while
that stands still none of them holds a segment that is folded here. A file that vanishes under us means that the picture
has changed: look again.
"""

import os
from collections.abc import Callable, Collection
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import attrs
import duckdb
import pyarrow as pa

from collector_trio.errors import CollectorError, JournalError
from collector_trio.followers.columns import SCHEMAS
from collector_trio.followers.cursor import Checkpoint, load_checkpoint, load_cursor, segments_behind
from collector_trio.followers.publish import numbers
from collector_trio.followers.tables import fold_at, fold_segment
from collector_trio.journal.segments import Segment, needing
from collector_trio.tables import TABLES

ATTEMPTS = 5
# Tables with columns that files of an earlier version do not have. For all it would cost a look into every file.
GROWN = ("segments",)
_Result = TypeVar("_Result")


@attrs.frozen
class Picture:
    """What there was at one moment: per table the files of segments that are stored, and the segments that are not."""

    files: dict[str, list[Path]]
    unstored: list[Segment]
    checkpoint: Checkpoint  # what is known before the first of them
    first_segment: int = 0  # rows of earlier ones are not asked for


def look(data_dir: Path, first_segment: int = 0, tables: Collection[str] = TABLES) -> Picture:
    """Take stock of a data dir, from number `first_segment` on; list the files of `tables`."""
    while True:
        checkpoint = load_checkpoint(data_dir)
        cursor = checkpoint.cursor.segment
        unstored = segments_behind(data_dir, cursor)
        found = {name: _files(data_dir / name) for name in tables}
        if load_cursor(data_dir).segment == cursor:
            break  # else what we did not see may have been stored, and deleted or merged, before we looked
    # Files of a later segment than we know of came after our look. Where nothing but tables was kept, all count.
    newest = max([cursor, *(segment.number for segment in unstored)]) or inf
    # Where the cursor was lost, merged files still say how far it once was: they hold only what was behind it.
    merged = max([last for listed in found.values() for _, first, last in listed if first < last], default=0)
    unstored = [segment for segment in unstored if segment.number > merged]
    folded = {segment.number for segment in unstored}
    files: dict[str, list[Path]] = {name: [] for name in TABLES}
    for name in tables:
        for path, _, last in found[name]:
            if last >= first_segment and last not in folded and last <= max(newest, merged):
                files[name].append(path)
    return Picture(files, unstored, checkpoint, first_segment)


def _files(folder: Path) -> list[tuple[Path, int, int]]:
    """List the files of a table, and the first and last segment of each. Raises OSError where a folder is unreadable,
    which `Path.glob` would pass over.
    """
    paths = [Path(place, name) for place, _, names in os.walk(folder, onerror=_unless_gone) for name in names]
    found = ((path, numbers(path)) for path in sorted(paths) if path.suffix == ".parquet")
    return [(path, *segments) for path, segments in found if segments is not None]


def _unless_gone(error: OSError) -> None:
    """Raise `error`, but not where a folder is not there yet, or any more."""
    if not isinstance(error, FileNotFoundError):
        raise error


def open_views(picture: Picture) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with one view per table, times in UTC; empty tables are empty views."""
    fresh = unstored_rows(picture)
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    for name in TABLES:
        connection.register(f"_fresh_{name}", fresh.get(name, SCHEMAS[name].empty_table()))
        columns = ", ".join(f'"{column}"' for column in TABLES[name].columns)
        view = f"SELECT {columns} FROM _fresh_{name}"
        if picture.files[name]:
            files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in picture.files[name])
            there, grown = ("*", ", union_by_name = true") if name in GROWN else (columns, "")
            view += f" UNION ALL BY NAME SELECT {there} FROM read_parquet([{files}], hive_partitioning = false{grown})"
        connection.execute(f'CREATE VIEW "{name}" AS SELECT {columns} FROM ({view})')
    return connection


def unstored_rows(picture: Picture) -> dict[str, pa.Table]:
    """Return by table the rows that are in no file yet, through the functions that write the files."""
    rows: dict[str, list[pa.Table]] = {}
    fold = fold_at(picture.checkpoint)
    for segment in picture.unstored:
        try:
            fold_segment(fold, segment, segment.number)
        except JournalError as error:  # the follower will say so; the others are there
            fold.damaged(f"segment {segment.number}: {error}")
        for (table, _, _), found in fold.take().items():
            if segment.number >= picture.first_segment:
                rows.setdefault(table, []).append(found.unify_dictionaries())
    return {table: pa.concat_tables(found).unify_dictionaries() for table, found in rows.items()}


def with_picture(
    data_dir: Path, work: Callable[[Picture], _Result], first_segment: int = 0, tables: Collection[str] = TABLES
) -> _Result:
    """Return what `work` makes of one picture; when a file vanishes under it, of the next picture.

    Raises CollectorError where `data_dir` is no folder, cannot be read, or its files do not stay for long enough.
    """
    with needing(data_dir, "read"):
        if not data_dir.is_dir():
            raise CollectorError(f"{data_dir}: no such folder; --data-dir names the folder a collector recorded into")
        for _ in range(ATTEMPTS):
            try:
                return _work_on(look(data_dir, first_segment, tables), work)
            except FileNotFoundError as error:
                vanished = error
    raise CollectorError(f"{data_dir} changes faster than it can be read: {vanished}")


def _work_on(picture: Picture, work: Callable[[Picture], _Result]) -> _Result:
    try:
        return work(picture)
    except (duckdb.IOException, PermissionError):  # DuckDB has no kinds of it, and Polars shortens the path
        for path in (path for files in picture.files.values() for path in files):
            path.open("rb").close()  # raises FileNotFoundError or PermissionError, if it is one of ours
        raise


def with_views(
    data_dir: Path, work: Callable[[duckdb.DuckDBPyConnection, Picture], _Result], first_segment: int = 0
) -> _Result:
    """Return what `work` makes of the views of one picture. Raises as `with_picture` does, and duckdb.Error."""

    def ask(picture: Picture) -> _Result:
        with open_views(picture) as views:
            return work(views, picture)

    return with_picture(data_dir, ask, first_segment)


def fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, parameters: list[object] | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement; return column names and rows (through Arrow: times need no further time-zone library then)."""
    relation: duckdb.DuckDBPyRelation | None = connection.sql(statement, params=parameters)
    if relation is None:  # a statement without a result, such as SET
        return [], []
    result = relation.to_arrow_table()
    columns = [column.to_pylist() for column in result.columns]
    return result.column_names, list(zip(*columns, strict=True))


def query(data_dir: Path, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement over the views; return column names and rows. Raises CollectorError and duckdb.Error."""
    return with_views(data_dir, lambda views, _: fetch(views, statement))
