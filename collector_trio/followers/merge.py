"""The files of an hour become one. Readers find the many or the one: the hour's folder and one with the merged file
change places in one step.

Memory is bounded whatever the hour holds. The files are read a chunk at a time (`CHUNK_BYTES`), each chunk is sorted
and cut into pieces (`PIECE_BYTES`, of one symbol each), and these are set down in a file beside. Then they are read
back in the order of their first rows, so that only those are in memory whose rows lie between one another's: of files
that hold a minute each, a few. Row groups are bounded in bytes as well as in rows.
"""

import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from collector_trio.errors import CollectorError
from collector_trio.followers.columns import SCHEMAS
from collector_trio.followers.publish import (
    ROW_GROUP,
    SEGMENTS_KEY,
    encodings,
    file_name,
    in_order,
    numbers,
    segments_of,
)
from collector_trio.followers.swap import exchange
from collector_trio.journal.segments import sync_folder
from collector_trio.tables import TABLES

CHUNK_BYTES = 4 << 20
PIECE_BYTES = 1 << 19
GROUP_BYTES = 20 << 20
VERSION_KEY = b"collector_trio.version"

# The place of a row in its table's order: per column whether it is null (these come last), and its value.
Key = tuple[tuple[bool, Any], ...]


class CannotMerge(CollectorError):
    """An hour's files cannot become one; they stay as they are."""


def hour_files(folder: Path) -> list[Path]:
    """Return the files in an hour's folder, in the order of their segments. Raises CannotMerge where anything else is
    in there: the swap would take it away.
    """
    found = {path: numbers(path) for path in folder.iterdir()}
    if strange := [path for path, said in found.items() if said is None]:
        raise CannotMerge(f"{strange[0]} is no file of ours")
    return sorted(found, key=lambda path: (found[path], path.name))


def merge(table: str, folder: Path, aside: Path) -> Iterator[None]:
    """Make one file of all in an hour's `folder`, a bounded piece of work at each step.

    It is built in the new folder `aside`, which then changes places with `folder`: at the end `aside` holds what was
    there before, for the caller to remove; if this raises or is left early, what was being built. Raises CannotMerge,
    SwapUnsupported, and OSError or pa.ArrowException for files that cannot be read or written.
    """
    files = hour_files(folder)
    sources = [_Source.of(path, table) for path in files]
    rows = sum(source.rows for source in sources)
    segments = sorted(number for source in sources for number in source.segments)
    if len(set(segments)) < len(segments):
        raise CannotMerge(f"{folder} holds some segments twice")
    versions = b", ".join(sorted({source.version for source in sources}))  # of the code that decoded the rows
    said = {SEGMENTS_KEY: json.dumps(segments).encode(), VERSION_KEY: versions}
    schema = SCHEMAS[table].with_metadata(SCHEMAS[table].metadata | said)
    aside.mkdir(parents=True)
    built = aside / file_name(table, segments[0], segments[-1])
    written = 0
    with built.open("wb") as file:
        with pq.ParquetWriter(file, schema, **encodings(table)) as writer:
            for group in _groups(_in_order(table, sources, aside), _group_rows(sources)):
                if group is not None:
                    writer.write_table(group.cast(schema), row_group_size=ROW_GROUP)
                    written += len(group)
                yield
        file.flush()
        os.fsync(file.fileno())
    if written != rows or hour_files(folder) != files:
        raise CannotMerge(f"{folder} changed while it was merged ({rows} rows, {written} read)")
    newest_ns = max(path.stat().st_mtime_ns for path in files)
    os.utime(built, ns=(newest_ns, newest_ns))  # its rows were stored then
    sync_folder(aside)
    exchange(aside, folder)
    sync_folder(folder.parent)
    sync_folder(aside.parent)


@attrs.frozen
class _Source:
    """A file to be merged, as its footer says."""

    path: Path
    schema: Any  # what its rows are brought into; the path keys as plain text, which files on the way can hold
    rows: int
    size: int  # in memory, about, in bytes
    segments: list[int]
    version: bytes

    @classmethod
    def of(cls, path: Path, table: str) -> "_Source":
        metadata = pq.read_metadata(path)
        known = metadata.schema.to_arrow_schema()
        if strange := set(known.names) - set(TABLES[table].columns):
            raise CannotMerge(f"{path} has columns of a later version: {', '.join(sorted(strange))}")
        said = known.metadata or {}
        try:
            segments = segments_of(path, said)
        except ValueError as error:
            raise CannotMerge(str(error)) from None
        size = sum(_bytes(metadata.row_group(index)) for index in range(metadata.num_row_groups))
        plain = pa.schema(
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in SCHEMAS[table]
        )
        return cls(path, plain, metadata.num_rows, size, segments, said.get(VERSION_KEY, b""))

    def batches(self) -> Iterator[pa.Table]:
        """Read it, in its order, no more than a chunk at a time."""
        at_once = max(1, min(self.rows, CHUNK_BYTES * self.rows // max(1, self.size)))
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=at_once, use_threads=False):
                yield self._fit(batch)

    def _fit(self, batch: pa.RecordBatch) -> pa.Table:
        """Return the rows with today's columns; those that an earlier version did not have are null."""
        have = set(batch.schema.names)
        columns = [
            batch.column(field.name).cast(field.type) if field.name in have else pa.nulls(len(batch), field.type)
            for field in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)


def _bytes(group: Any) -> int:
    """Return about how much memory a row group needs."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(max(8 * column.num_values, column.total_uncompressed_size) for column in columns)


def _group_rows(sources: Sequence[_Source]) -> int:
    """Return how many rows a row group has: fewer of wide rows."""
    rows, size = sum(source.rows for source in sources), sum(source.size for source in sources)
    return max(1024, min(ROW_GROUP, GROUP_BYTES * rows // max(1, size)))


def _groups(parts: Iterator[pa.Table | None], rows: int) -> Iterator[pa.Table | None]:
    """Make tables of `rows` rows out of `parts`; None where there is none yet."""
    waiting: pa.Table | None = None
    for part in parts:
        if part is not None:
            waiting = part if waiting is None else pa.concat_tables([waiting, part])
            while len(waiting) >= rows:
                yield waiting.slice(0, rows)
                waiting = waiting.slice(rows)
        yield None
    if waiting is not None and len(waiting):
        yield waiting


def _in_order(table: str, sources: Sequence[_Source], beside: Path) -> Iterator[pa.Table | None]:
    """Yield the rows of all sources in the table's order, and None after each piece of work on the way."""
    if sum(source.size for source in sources) <= CHUNK_BYTES:
        yield in_order(table, pa.concat_tables([batch for source in sources for batch in source.batches()]))
        return
    path = beside / "pieces"
    order, pieces = TABLES[table].order, list[_Piece]()
    packed = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, sources[0].schema, options=packed) as writer:
        for chunk in _chunks(sources):
            for piece in _cut(in_order(table, chunk).combine_chunks(), order):
                for batch in piece.to_batches():
                    pieces.append(_Piece(_key(batch, order, 0), len(pieces)))
                    writer.write_batch(batch)
            yield None
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        path.unlink()
        for rows in _merged(pieces, reader, order):
            yield in_order(table, rows)


def _chunks(sources: Sequence[_Source]) -> Iterator[pa.Table]:
    """Yield the rows of all sources, about `CHUNK_BYTES` at a time."""
    waiting: list[pa.Table] = []
    size = 0
    for source in sources:
        for batch in source.batches():
            waiting.append(batch)
            size += batch.nbytes
            if size >= CHUNK_BYTES:
                yield pa.concat_tables(waiting)
                waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


@attrs.frozen
class _Piece:
    """A batch that was set down: the key of its first row, and its number."""

    first: Key
    index: int


def _cut(rows: pa.Table, order: Sequence[str]) -> Iterator[pa.Table]:
    """Cut sorted rows into pieces, no two symbols in one: what comes between them is in other chunks."""
    most = max(1, PIECE_BYTES * len(rows) // max(1, rows.nbytes))
    ends = [len(rows)]
    if order[0] == "symbol":
        ends = pc.run_end_encode(rows.column("symbol").chunk(0)).run_ends.to_pylist()
    start = 0
    for end in ends:
        while start < end:
            yield rows.slice(start, min(most, end - start))
            start = min(start + most, end)


def _merged(pieces: Sequence[_Piece], reader: Any, order: Sequence[str]) -> Iterator[pa.Table]:
    """Yield rows of which none comes before those yielded earlier; each part is to be sorted.

    Of the pieces not yet read none has a row before the first row of the next: what is before that is ready.
    """
    held: dict[int, pa.RecordBatch] = {}  # by number, so that rows that are alike stay in the order of their files
    size, most = 0, CHUNK_BYTES
    for piece in sorted(pieces, key=attrgetter("first", "index")):
        if size > most:
            ends = {index: _count_before(batch, order, piece.first) for index, batch in held.items()}
            if ready := [held[index].slice(0, ends[index]) for index in sorted(held) if ends[index]]:
                yield pa.Table.from_batches(ready)
            held = {index: batch.slice(ends[index]) for index, batch in held.items() if ends[index] < len(batch)}
            size = sum(batch.nbytes for batch in held.values())
            most = size + CHUNK_BYTES
        held[piece.index] = reader.get_batch(piece.index)
        size += held[piece.index].nbytes
    yield pa.Table.from_batches([held[index] for index in sorted(held)])


def _count_before(batch: pa.RecordBatch, order: Sequence[str], key: Key) -> int:
    return bisect_left(range(len(batch)), key, key=lambda row: _key(batch, order, row))


def _key(batch: pa.RecordBatch, order: Sequence[str], row: int) -> Key:
    return tuple(_value(batch.column(name)[row]) for name in order)


def _value(scalar: Any) -> tuple[bool, Any]:
    if not scalar.is_valid:
        return True, 0
    return False, scalar.value if pa.types.is_timestamp(scalar.type) else scalar.as_py()
