"""Parquet files under deterministic names: built aside, synced, renamed; done twice they are the same files."""

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from collector_trio.followers.chunks import Place
from collector_trio.journal.segments import make_folder, sync_folder
from collector_trio.tables import TABLES, Kind

ROW_GROUP = 131_072


def publish(data_dir: Path, segment: int, tables: Mapping[Place, pa.Table], ns: int) -> None:
    """Write one file per place for what segment number `segment` held; `ns` is a receive time of its UTC hour.

    A reader never sees a part of a file: it is built in `<data_dir>/tmp`, synced, and renamed into place.
    """
    part = data_dir / "tmp" / f"{segment:012d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for place, rows in tables.items():
        built = part / "-".join(place)
        _write(built, place[0], rows)
        target = place_path(data_dir, place, segment, ns)
        make_folder(target.parent)
        built.rename(target)
        sync_folder(target.parent)
    part.rmdir()


def place_path(data_dir: Path, place: Place, segment: int, ns: int) -> Path:
    """Return where the rows of one segment, table, exchange and market are: the folder says the hour in which they were
    received.
    """
    table, exchange, market = place
    hour = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    folder = (
        data_dir / table / f"exchange={exchange}" / f"market={market}" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
    )
    return folder / f"{table}-{segment:012d}.parquet"


def clear_leftovers(data_dir: Path) -> None:
    """Remove what a crash left half built."""
    shutil.rmtree(data_dir / "tmp", ignore_errors=True)


def _write(path: Path, table: str, rows: pa.Table) -> None:
    order = [(name, "ascending") for name in TABLES[table].order]
    indices = pc.sort_indices(rows, sort_keys=order).to_numpy()
    if (indices[1:] < indices[:-1]).any():  # else they are in order
        rows = rows.take(indices)
    with path.open("wb") as file:
        pq.write_table(
            rows,
            file,
            compression="zstd",
            compression_level=1,
            row_group_size=ROW_GROUP,
            **_encodings(table),
        )
        file.flush()
        os.fsync(file.fileno())


def _encodings(table: str) -> dict[str, Any]:
    """Dictionaries for what repeats (names, prices, sizes), differences for integers and times."""
    dictionary, delta = [], {}
    for name, kind in TABLES[table].columns.items():
        if kind in (Kind.KEY, Kind.NAME, Kind.FLOAT):
            dictionary.append(name)
        elif kind is Kind.FLOATS:
            dictionary.append(f"{name}.list.element")
        elif kind in (Kind.INT, Kind.TIME):
            delta[name] = "DELTA_BINARY_PACKED"
    return {"use_dictionary": dictionary, "column_encoding": delta}
