"""From typed messages to Arrow columns, a batch at a time, and the guard that says where float64 is not enough."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collector_trio import __version__
from collector_trio.tables import TABLES, Kind, Table

_TYPES: Mapping[Kind, Any] = {
    Kind.KEY: pa.dictionary(pa.int32(), pa.string()),
    Kind.NAME: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.BOOL: pa.bool_(),
    Kind.FLOATS: pa.list_(pa.float64()),
}
SCHEMA_VERSION = "1"

# float64 keeps every decimal of 15 digits: any text of 16 characters with a point in it, or of a number below 1e15.
SAFE_LENGTH = 16
SAFE_VALUE = 1e15


def schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of `table`; its metadata says which schema and which decoder made a file."""
    fields = [pa.field(name, _TYPES[kind]) for name, kind in table.columns.items()]
    return pa.schema(fields, metadata={"collector_trio.schema": SCHEMA_VERSION, "collector_trio.version": __version__})


SCHEMAS: Mapping[str, Any] = {name: schema(table) for name, table in TABLES.items()}


def build(table: str, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """Make a table of `rows` rows from whole columns; one that is not given is null, a single value is repeated."""
    arrays = []
    for field in SCHEMAS[table]:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif isinstance(values, (str, int)):
            arrays.append(_repeat(values, rows, field.type))
        elif isinstance(values, pa.Array):
            arrays.append(values.cast(field.type) if values.type != field.type else values)
        elif field.type == pa.int64():
            arrays.append(_integers(values))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[table])


def _integers(values: Sequence[int | None]) -> pa.Array:
    try:
        return pa.array(np.array(values, dtype=np.int64))  # twice as fast as the plain way
    except TypeError:  # None is among them
        return pa.array(values, pa.int64())


def _repeat(value: str | int, rows: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value]))
    return pa.repeat(pa.scalar(value, kind), rows)


def micros(ns: Sequence[int] | np.ndarray[Any, Any]) -> pa.Array:
    """Return nanoseconds as the timestamps the tables hold: microseconds, rounded down."""
    array = np.asarray(ns, dtype=np.int64)
    return pa.array(array // 1000).cast(_TYPES[Kind.TIME])


def is_exact(text: str) -> bool:
    """Tell whether float64 gives back the decimal that `text` is."""
    if len(text) < SAFE_LENGTH or (len(text) == SAFE_LENGTH and not text.isdigit()):
        return True
    return Decimal(repr(float(text))) == Decimal(text)


def spelled(value: float) -> str:
    """Spell out a number that is exact, as exchanges do."""
    return format(Decimal(repr(value)), "f")


def floats(texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
    """Return numbers and, by row, the texts of those that float64 cannot hold."""
    array = pa.array(texts, pa.string())
    try:
        values = array.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:  # such as "+1", which Python reads
        values = np.array(list(map(float, texts)), dtype=np.float64)
    if (pc.max(pc.binary_length(array)).as_py() or 0) <= SAFE_LENGTH and values.max(initial=0) < SAFE_VALUE:
        return values, {}
    return values, {row: text for row, text in enumerate(texts) if not is_exact(text)}


def exact_texts(rows: int, named: Mapping[str, Mapping[int, Any]]) -> pa.Array | None:
    """Return the column `exact`: for each inexact row a JSON object, column → text; None when all is exact."""
    found: dict[int, dict[str, Any]] = {}
    for name, texts in named.items():
        for row, text in texts.items():
            found.setdefault(row, {})[name] = text
    if not found:
        return None
    return pa.array([json.dumps(found[row]) if row in found else None for row in range(rows)], pa.string())
