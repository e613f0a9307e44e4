"""What has been recorded, as DuckDB views: the Parquet files that are whole, and the segments no follower has stored
yet.

Which is which the cursor says, read once: a file of a later segment is left out, and its segment is folded here
instead, so no row is seen twice while a follower publishes. A segment or file that vanishes under us (stored,
compressed) means that the picture has changed: look again.
"""

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from collector_trio.followers.columns import SCHEMAS
from collector_trio.followers.cursor import load_cursor, segments_behind
from collector_trio.followers.tables import fold_segment
from collector_trio.tables import TABLES

ATTEMPTS = 5
_NUMBER = re.compile(r"-(\d{12})\.parquet$")


def open_views(data_dir: Path) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with one view per table, times in UTC; empty tables are empty views.

    Raises FileNotFoundError where `data_dir` is no folder.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir} is not a folder")
    cursor = load_cursor(data_dir).segment
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    fresh = _unstored_rows(data_dir, cursor)
    for name in TABLES:
        connection.register(f"_fresh_{name}", fresh.get(name, SCHEMAS[name].empty_table()))
        stored = [str(path) for path in stored_files(data_dir, name, cursor)]
        columns = ", ".join(f'"{column}"' for column in TABLES[name].columns)
        view = f"SELECT {columns} FROM _fresh_{name}"
        if stored:
            files = ", ".join("'" + path.replace("'", "''") + "'" for path in stored)
            view += f" UNION ALL BY NAME SELECT {columns} FROM read_parquet([{files}], hive_partitioning = false)"
        connection.execute(f'CREATE VIEW "{name}" AS {view}')
    return connection


def stored_files(data_dir: Path, table: str, up_to: int) -> list[Path]:
    """List the files of `table` that hold segments up to number `up_to`."""
    files = sorted((data_dir / table).glob("**/*.parquet"))
    return [path for path in files if (found := _NUMBER.search(path.name)) and int(found[1]) <= up_to]


def _unstored_rows(data_dir: Path, cursor: int) -> dict[str, pa.Table]:
    rows: dict[str, list[pa.Table]] = {}
    for segment in segments_behind(data_dir, cursor):
        fold = fold_segment(segment, segment.number)
        for (table, _, _), found in fold.take().items():
            rows.setdefault(table, []).append(found.unify_dictionaries())
    return {table: pa.concat_tables(found).unify_dictionaries() for table, found in rows.items()}


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
    """Run one statement over the views; return column names and rows. Raises duckdb.Error."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with open_views(data_dir) as connection:
                return fetch(connection, statement)
        except (FileNotFoundError, duckdb.IOException):
            if attempt == ATTEMPTS or not data_dir.is_dir():
                raise
    raise AssertionError("the last attempt returns or raises")
