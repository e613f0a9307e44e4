"""From typed messages to Arrow columns, a batch at a time, and the guard that says where float64 is not enough."""

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

# float64 keeps every decimal of 15 digits: any text of 16 characters with a point in it, or of a number below 1e15.
SAFE_LENGTH = 16
SAFE_VALUE = 1e15
LONGEST = 300  # digits of a number that is certainly finite in float64


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
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[table])


def _repeat(value: str | int, rows: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value]))
    return pa.array([value] * rows, kind)


def micros(ns: Iterable[int]) -> pa.Array:
    """Return nanoseconds as the timestamps the tables hold: microseconds, rounded down."""
    array = np.asarray(ns if isinstance(ns, np.ndarray) else list(ns), dtype=np.int64)
    return pa.array(array // 1000).cast(_TYPES[Kind.TIME])


def is_exact(text: str) -> bool:
    """Tell whether float64 gives back the decimal that `text` is."""
    if len(text) < SAFE_LENGTH or (len(text) == SAFE_LENGTH and not text.isdigit()):
        return True
    return Decimal(repr(float(text))) == Decimal(text)


def floats(texts: Sequence[str]) -> tuple[pa.Array, list[bool] | None]:
    """Return numbers and, if there is any doubt, which of them are inexact."""
    values = np.array(list(map(float, texts)), dtype=np.float64)
    if max(map(len, texts), default=0) <= SAFE_LENGTH and values.max(initial=0) < SAFE_VALUE:
        return pa.array(values), None
    inexact = [not is_exact(text) for text in texts]
    return pa.array(values), inexact if any(inexact) else None


def exact_texts(rows: int, named: Mapping[str, tuple[Sequence[Any], list[bool] | None]]) -> list[str | None] | None:
    """Return the column `exact`: for each inexact row a JSON object of those columns' texts; None when all is exact."""
    if all(inexact is None for _, inexact in named.values()):
        return None
    texts: list[str | None] = []
    for row in range(rows):
        found = {name: values[row] for name, (values, inexact) in named.items() if inexact is not None and inexact[row]}
        texts.append(json.dumps(found) if found else None)
    return texts


class BadSides(ValueError):
    """Some sides of a batch of books are not lists of levels: `problems` by row."""

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__(f"{len(problems)} of a batch")
        self.problems = problems


class Levels:
    """One side of a batch of books: prices and sizes as lists of float64, and the texts behind them."""

    def __init__(self, sides: Sequence[bytes], stride: int) -> None:
        """`sides` are JSON texts such as `[["1.2","3"],["1.1","0"]]`, one per message. Raises BadSides."""
        plain = _spelled_plainly(sides, stride, [is_plain_side(side, stride) for side in sides])
        flat, numbers = _numbers(plain)
        if numbers is None:  # "1.2.3" or "" stands somewhere: bad, unless it is in an element nobody reads
            owners = np.repeat(np.arange(len(plain)), [(side.count(b"[") - 1) * stride for side in plain])
            doubtful = set(owners[~_are_numbers(flat)].tolist())
            respelled = _spelled_plainly(sides, stride, [row not in doubtful for row in range(len(sides))])
            plain = [respelled[row] if row in doubtful else side for row, side in enumerate(plain)]
            flat, numbers = _numbers(plain)
        assert numbers is not None
        counts = [side.count(b"[") - 1 for side in plain]
        self.offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        grid = numbers.reshape(-1, stride)
        self.prices, self.sizes = np.ascontiguousarray(grid[:, 0]), np.ascontiguousarray(grid[:, 1])
        self.price_texts = self.size_texts = None
        longest = pc.max(pc.binary_length(flat)).as_py() or 0
        if longest > SAFE_LENGTH or numbers.max(initial=0) >= SAFE_VALUE:
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


def _numbers(sides: Sequence[bytes]) -> tuple[pa.Array, np.ndarray[Any, Any] | None]:
    """Return the texts in `sides` and the numbers they are; None if there is one that is not, or that float64 lacks."""
    text = b",".join([side for side in sides if side != b"[]"]).translate(None, b'[]"')
    flat = pc.list_flatten(pc.split_pattern(pa.array([text.decode()] if text else [], pa.string()), ","))
    try:
        numbers = pc.cast(flat, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return flat, None
    return flat, numbers if np.isfinite(numbers).all() else None


def _are_numbers(texts: pa.Array) -> np.ndarray[Any, Any]:
    """Tell of each text whether it is a plain number that float64 can hold."""
    spelled = pc.match_substring_regex(texts, r"^(\d+\.?\d*|\.\d+)$")
    fitting = pc.less_equal(pc.binary_length(texts), LONGEST)
    both: np.ndarray[Any, Any] = pc.and_(spelled, fitting).to_numpy(zero_copy_only=False)
    return both


def _spelled_plainly(sides: Sequence[bytes], stride: int, plain: Sequence[bool]) -> list[bytes]:
    """Spell the sides that are not plain yet the plain way; what cannot be is bad."""
    spelled, problems = list(sides), {}
    for row, side in enumerate(sides):
        if not plain[row]:
            try:
                spelled[row] = _respelled(side, stride)
            except ValueError as error:
                problems[row] = str(error)
    if problems:
        raise BadSides(problems)
    return spelled


def _respelled(side: bytes, stride: int) -> bytes:
    padding = b',"0"' * (stride - 2)
    levels = [(_plain(price).encode(), _plain(size).encode()) for price, size in parse_levels(side)]
    return b"[" + b",".join([b'["%s","%s"%s]' % (price, size, padding) for price, size in levels]) + b"]"


def _plain(number: str) -> str:
    return format(Decimal(number), "f")
