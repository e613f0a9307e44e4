"""From typed messages to Arrow columns, a whole batch at a time, and the guard that says where float64 is not enough."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collector_trio import __version__
from collector_trio.exchanges.wire import is_plain_side, parse_levels
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

# float64 keeps every decimal of 15 digits; so does any text of 16 characters with a point in it.
SAFE_LENGTH = 16


def schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of `table`; its metadata says which schema and which decoder made a file."""
    fields = [pa.field(name, _TYPES[kind]) for name, kind in table.columns.items()]
    return pa.schema(fields, metadata={"collector_trio.schema": SCHEMA_VERSION, "collector_trio.version": __version__})


SCHEMAS: Mapping[str, Any] = {name: schema(table) for name, table in TABLES.items()}


def build(table: str, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """Make a table of `rows` rows from whole columns; a column that is not given is null, a single value is repeated."""
    arrays = []
    for field in SCHEMAS[table]:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif isinstance(values, (str, int)):
            arrays.append(_repeat(values, rows, field.type))
        elif isinstance(values, pa.Array):
            arrays.append(values.cast(field.type) if values.type != field.type else values)
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[table])


def _repeat(value: str | int, rows: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value]))
    return pa.array([value] * rows, kind)


def micros(ns: Iterable[int]) -> pa.Array:
    """Return nanoseconds as the timestamps the tables hold: microseconds, rounded down."""
    array = np.fromiter(ns, dtype=np.int64)
    return pa.array(array // 1000).cast(_TYPES[Kind.TIME])


def is_exact(text: str) -> bool:
    """Tell whether float64 gives back the decimal that `text` is."""
    return len(text) <= SAFE_LENGTH or Decimal(repr(float(text))) == Decimal(text)


def floats(texts: Sequence[str]) -> tuple[pa.Array, list[bool] | None]:
    """Return numbers and, if there is any doubt, which of them are inexact."""
    values = pa.array(np.array(list(map(float, texts)), dtype=np.float64))
    if max(map(len, texts), default=0) <= SAFE_LENGTH:
        return values, None
    inexact = [not is_exact(text) for text in texts]
    return values, inexact if any(inexact) else None


def exact_texts(rows: int, named: Mapping[str, tuple[Sequence[Any], list[bool] | None]]) -> list[str | None] | None:
    """Return the column `exact`: for each inexact row a JSON object of those columns' texts; None when all is exact."""
    if all(inexact is None for _, inexact in named.values()):
        return None
    texts: list[str | None] = []
    for row in range(rows):
        found = {name: values[row] for name, (values, inexact) in named.items() if inexact is not None and inexact[row]}
        texts.append(json.dumps(found) if found else None)
    return texts


class BadSide(ValueError):
    """One side of one book is not what it should be; `row` says which of the batch."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


class Levels:
    """One side of a batch of books: prices and sizes as lists of float64, and the texts behind them."""

    def __init__(self, sides: Sequence[bytes], stride: int) -> None:
        """`sides` are JSON texts such as `[["1.2","3"],["1.1","0"]]`, one per message. Raises BadSide."""
        plain = [side if is_plain_side(side, stride) else _replain(side, stride, row) for row, side in enumerate(sides)]
        counts = np.array([side.count(b"[") - 1 for side in plain], dtype=np.int32)
        self.offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        text = b",".join([side for side, n in zip(plain, counts, strict=True) if n]).translate(None, b'[]"')
        if not text:
            self.price_texts = self.size_texts = pa.array([], pa.string())
            self.prices = self.sizes = np.array([], dtype=np.float64)
            return
        flat = pc.list_flatten(pc.split_pattern(pa.array([text.decode()]), ","))
        try:
            grid = pc.cast(flat, pa.float64()).to_numpy().reshape(-1, stride)
        except pa.ArrowInvalid as error:
            raise BadSide(_find_bad(plain), str(error)) from None
        self.prices, self.sizes = np.ascontiguousarray(grid[:, 0]), np.ascontiguousarray(grid[:, 1])
        self._flat, self._stride = flat, stride
        longest = pc.max(pc.binary_length(flat)).as_py()
        self.price_texts = self.size_texts = None
        if longest > SAFE_LENGTH:
            self.price_texts = flat.take(pa.array(np.arange(0, len(flat), stride)))
            self.size_texts = flat.take(pa.array(np.arange(1, len(flat), stride)))

    def lists(self, values: np.ndarray[Any, Any]) -> pa.Array:
        """Return `values` (one per level) as one list per message."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(values))

    def inexact(self, texts: pa.Array | None) -> tuple[list[list[str]], list[bool] | None]:
        """Return the texts per message, and which messages hold one that float64 cannot."""
        rows = len(self.offsets) - 1
        if texts is None or not len(texts):
            return [], None
        per_message = [texts[self.offsets[row] : self.offsets[row + 1]].to_pylist() for row in range(rows)]
        inexact = [not all(map(is_exact, message)) for message in per_message]
        return per_message, inexact if any(inexact) else None


def _replain(side: bytes, stride: int, row: int) -> bytes:
    """Spell one side the plain way; what cannot be is bad."""
    try:
        levels = parse_levels(side)
    except ValueError as error:
        raise BadSide(row, str(error)) from None
    padding = b',"0"' * (stride - 2)
    spelled = [
        b'["%s","%s"%s]' % (_plain(price).encode(), _plain(size).encode(), padding) for price, size in levels
    ]
    return b"[" + b",".join(spelled) + b"]"


def _plain(number: str) -> str:
    return format(Decimal(number), "f")


def _find_bad(sides: Sequence[bytes]) -> int:
    for row, side in enumerate(sides):
        try:
            parse_levels(side)
        except ValueError:
            return row
    raise AssertionError("no side is bad, yet together they are")
