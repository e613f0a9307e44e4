"""Parquet files under deterministic names: built aside, synced, renamed; done twice they are the same files.

A name says which segments' rows are in a file: `trades-000000000012.parquet`, or, once an hour's files were merged,
`trades-000000000012-000000000071.parquet`, from the first to the last; which of these exactly, its metadata says.
"""

import json
import os
import re
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
SEGMENTS_KEY = b"collector_trio.segments"  # metadata of a merged file: a JSON list of segment numbers
_NAME = re.compile(r"[a-z_]+-(\d{12})(?:-(\d{12}))?\.parquet")


def publish(data_dir: Path, segment: int, tables: Mapping[Place, pa.Table], ns: int) -> list[Path]:
    """Write one file per place for what segment number `segment` held; `ns` is a receive time of its UTC hour.

    A reader never sees a part of a file: it is built in `<data_dir>/tmp`, synced, and renamed into place. Where
    its rows are in a merged file already, that stays as it is, and nothing is written: these files are returned.
    """
    kept = []
    part = data_dir / "tmp" / f"{segment:012d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for place, rows in tables.items():
        target = place_path(data_dir, place, segment, ns)
        if (merged := merged_with(target.parent, segment)) is not None:
            kept.append(merged)
            continue
        built = part / "-".join(place)
        _write(built, place[0], rows)
        make_folder(target.parent)
        built.rename(target)
        sync_folder(target.parent)
    part.rmdir()
    return kept


def place_path(data_dir: Path, place: Place, segment: int, ns: int) -> Path:
    """Return where the rows of one segment, table, exchange and market are: the folder says the hour in which they were
    received.
    """
    table, exchange, market = place
    hour = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    folder = (
        data_dir / table / f"exchange={exchange}" / f"market={market}" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
    )
    return folder / file_name(table, segment, segment)


def file_name(table: str, first: int, last: int) -> str:
    """Return the name of a file with rows of the segments from number `first` to `last`."""
    return f"{table}-{first:012d}.parquet" if first == last else f"{table}-{first:012d}-{last:012d}.parquet"


def numbers(path: Path) -> tuple[int, int] | None:
    """Return the first and the last segment whose rows are in a file, as its name says; None if it is not ours."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else (int(found[1]), int(found[2] or found[1]))


def segments_of(path: Path, metadata: Mapping[bytes, bytes]) -> list[int]:
    """Return the segments whose rows are in a file of ours that has this metadata. Raises ValueError."""
    if SEGMENTS_KEY in metadata:
        return [int(number) for number in json.loads(metadata[SEGMENTS_KEY])]
    if (found := numbers(path)) is None or found[0] != found[1]:
        raise ValueError(f"{path} does not say which segments are in it")
    return [found[0]]


def merged_with(folder: Path, segment: int) -> Path | None:
    """Return the merged file in `folder` that holds the rows of segment number `segment`, None where there is none."""
    for path in folder.glob("*.parquet"):
        if (
            (found := numbers(path)) is not None
            and found[0] < found[1]
            and found[0] <= segment <= found[1]
            and segment in segments_of(path, pq.read_schema(path).metadata or {})
        ):
            return path
    return None


def clear_leftovers(data_dir: Path) -> None:
    """Remove what a crash left half built."""
    shutil.rmtree(data_dir / "tmp", ignore_errors=True)


def _write(path: Path, table: str, rows: pa.Table) -> None:
    with path.open("wb") as file:
        pq.write_table(in_order(table, rows), file, row_group_size=ROW_GROUP, **encodings(table))
        file.flush()
        os.fsync(file.fileno())
    pa.default_memory_pool().release_unused()


def in_order(table: str, rows: pa.Table) -> pa.Table:
    """Return rows of `table` in the order of its files; rows that are alike in it stay as they were."""
    order = [(name, "ascending") for name in TABLES[table].order]
    indices = pc.sort_indices(rows, sort_keys=order).to_numpy()
    if (indices[1:] < indices[:-1]).any():  # else they are in order
        return rows.take(indices)
    return rows


def encodings(table: str) -> dict[str, Any]:
    """Return how files of `table` are written: zstd, dictionaries for what repeats (names, prices, sizes), differences
    for integers and times.
    """
    dictionary, delta = [], {}
    for name, kind in TABLES[table].columns.items():
        if kind in (Kind.KEY, Kind.NAME, Kind.FLOAT):
            dictionary.append(name)
        elif kind is Kind.FLOATS:
            dictionary.append(f"{name}.list.element")
        elif kind in (Kind.INT, Kind.TIME):
            delta[name] = "DELTA_BINARY_PACKED"
    packed = {"compression": "zstd", "compression_level": 1}
    return packed | {"use_dictionary": dictionary, "column_encoding": delta}
