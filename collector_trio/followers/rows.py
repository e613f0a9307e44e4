"""Typed messages that wait to become columns, a few thousand at a time."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any

import attrs
import numpy as np
import pyarrow as pa

from collector_trio.exchanges.protocol import BookDelta, Trade
from collector_trio.followers.columns import Levels, exact_texts, floats, is_exact, micros
from collector_trio.instruments import Instrument

# What brought a row: session, frame number (-1: no frame, but a note), receive time in nanoseconds.
Line = tuple[int | None, int, int]


@attrs.define
class Waiting:
    """Messages of one table and market. `frames` are kept whole where a level may turn out to be none.

    Which session brought a row, and when, is known by stretches: (rows up to here, session, receive time).
    """

    instruments: dict[str, Instrument] = attrs.field(factory=dict)  # by native symbol
    rows: list[Any] = attrs.field(factory=list)
    numbers: list[int] = attrs.field(factory=list)  # of their frames
    frames: list[bytes] = attrs.field(factory=list)
    owners: list[int] = attrs.field(factory=list)  # of book changes: whose levels they change; -1: nobody's yet
    stretches: list[tuple[int, int | None, int]] = attrs.field(factory=list)

    def end_stretch(self, session: int | None, received_ns: int) -> None:
        """Say what brought the rows since the last call."""
        if len(self.rows) > (self.stretches[-1][0] if self.stretches else 0):
            self.stretches.append((len(self.rows), session, received_ns))

    def lines(self) -> list[Line]:
        """Return what brought each row."""
        found: list[Line] = []
        start = 0
        for end, session, received_ns in self.stretches:
            found += [(session, number, received_ns) for number in self.numbers[start:end]]
            start = end
        return found

    def stamps(self) -> dict[str, Any]:
        """Return the columns that say what brought each row."""
        counts = np.diff([0, *(end for end, _, _ in self.stretches)])
        received = np.repeat(np.array([ns for _, _, ns in self.stretches], dtype=np.int64), counts)
        if any(session is None for _, session, _ in self.stretches):
            sessions: Any = pa.nulls(len(self.rows), pa.int64())
        else:
            sessions = pa.array(np.repeat(np.array([s for _, s, _ in self.stretches], dtype=np.int64), counts))
        return {
            "recv": micros(received),
            "recv_ns": pa.array(received),
            "session": sessions,
            "frame": pa.array(np.array(self.numbers, dtype=np.int64)),
        }

    def take(self) -> "Waiting":
        """Return what waits, and wait for more."""
        taken = attrs.evolve(self)
        self.rows, self.numbers, self.frames, self.owners, self.stretches = [], [], [], [], []
        return taken

    def without(self, indices: set[int]) -> "Waiting":
        """Return the same without some of the rows."""
        keep = [index for index in range(len(self.rows)) if index not in indices]
        stretches: list[tuple[int, int | None, int]] = []
        start = 0
        for end, session, received_ns in self.stretches:
            kept = sum(index not in indices for index in range(start, end))
            stretches.append(((stretches[-1][0] if stretches else 0) + kept, session, received_ns))
            start = end
        return Waiting(
            self.instruments,
            [self.rows[index] for index in keep],
            [self.numbers[index] for index in keep],
            [self.frames[index] for index in keep],
            [self.owners[index] for index in keep],
            stretches,
        )

    def instrument(self, index: int) -> Instrument:
        """Return whose a row is."""
        return self.instruments[self.rows[index].native_symbol]


_trade_fields = attrgetter(
    "native_symbol", "id", "price", "size", "side", "exchange_ns", "first_id", "last_id", "derivative"
)


def trade_columns(waiting: Waiting) -> dict[str, Any]:
    """Turn trades into columns."""
    rows: list[Trade] = waiting.rows
    fields = zip(*map(_trade_fields, rows), strict=True)
    natives, ids, price_texts, size_texts, sides, stamps, first_ids, last_ids, derivatives = fields
    prices, inexact_prices = floats(price_texts)
    sizes, inexact_sizes = floats(size_texts)
    texts: dict[str, tuple[Sequence[Any], list[bool] | None]] = {"price": (price_texts, inexact_prices)}
    columns: dict[str, Any] = {}
    instruments = waiting.instruments
    if any(derivatives):
        contracts = sizes.to_numpy()
        columns["contracts"] = pa.array(contracts, mask=~np.array(derivatives))
        texts["contracts"] = size_texts, inexact_sizes
        products = _worth_each(waiting, natives, size_texts)
        texts["size"] = products, _inexact(products)
        sizes = pa.array(base_units(contracts, prices.to_numpy(), waiting, natives, np.ones(len(rows), np.int64)))
    else:
        texts["size"] = size_texts, inexact_sizes
    symbols = {native: instrument.symbol for native, instrument in instruments.items()}
    return columns | {
        "symbol": pa.array([symbols[native] for native in natives]),
        "ts": micros(stamps),
        "id": ids,
        "price": prices,
        "size": sizes,
        "side": sides,
        "first_id": first_ids,
        "last_id": last_ids,
        "source": "ws",
        "exact": exact_texts(len(ids), texts),
    }


def _worth_each(waiting: Waiting, natives: Sequence[str], size_texts: Sequence[str]) -> list[str]:
    """Return the exact sizes in base units as text, where contracts are multiplied; else the text as it is."""
    worth = {native: _factor(instrument) for native, instrument in waiting.instruments.items()}
    return [
        text if (factor := worth[native]) is None else format(Decimal(text) * factor, "f")
        for native, text in zip(natives, size_texts, strict=True)
    ]


def _factor(instrument: Instrument) -> Decimal | None:
    """Return how many base units a contract is, None where that depends on the price or is not known."""
    if instrument.contract_size is None or instrument.inverse:
        return None
    return Decimal(instrument.contract_size)


def _inexact(texts: Sequence[str]) -> list[bool] | None:
    found = [not is_exact(text.rstrip("0") if "." in text else text) for text in texts]
    return found if any(found) else None


_book_fields = attrgetter("native_symbol", "exchange_ns", "first_seq", "last_seq", "prev_seq", "snapshot")


@attrs.frozen
class Side:
    """One side of a batch of book changes: the levels, and their sizes in base units."""

    levels: Levels
    sizes: Any


def book_sides(waiting: Waiting) -> dict[str, Side]:
    """Read the levels of both sides. Raises BadSides."""
    rows: list[BookDelta] = waiting.rows
    natives = [row.native_symbol for row in rows]
    found = {}
    for name, sides in (("bid", [bytes(row.bids) for row in rows]), ("ask", [bytes(row.asks) for row in rows])):
        levels = Levels(sides, rows[0].stride)
        sizes = levels.sizes
        if any(row.derivative for row in rows):
            sizes = base_units(sizes, levels.prices, waiting, natives, np.diff(levels.offsets))
        found[name] = Side(levels, sizes)
    return found


def book_columns(waiting: Waiting, sides: Mapping[str, Side]) -> dict[str, Any]:
    """Turn book changes, whose levels were read, into columns."""
    rows: list[BookDelta] = waiting.rows
    natives, stamps, first_seqs, last_seqs, prev_seqs, snapshots = zip(*map(_book_fields, rows), strict=True)
    columns: dict[str, Any] = {}
    texts: dict[str, tuple[Sequence[Any], list[bool] | None]] = {}
    for name, side in sides.items():
        levels = side.levels
        columns[f"{name}_price"], columns[f"{name}_size"] = levels.lists(levels.prices), levels.lists(side.sizes)
        texts[f"{name}_price"] = levels.inexact(levels.price_texts)
        texts[f"{name}_size"] = levels.inexact(levels.size_texts)
    symbols = {native: instrument.symbol for native, instrument in waiting.instruments.items()}
    return columns | {
        "symbol": pa.array([symbols[native] for native in natives]),
        "ts": micros(stamps),
        "first_seq": first_seqs,
        "last_seq": last_seqs,
        "prev_seq": prev_seqs,
        "snapshot": snapshots,
        "exact": exact_texts(len(rows), texts),
    }


def base_units(sizes: Any, prices: Any, waiting: Waiting, natives: Sequence[str], counts: Any) -> Any:
    """Turn contracts into base units where an instrument says how; `counts` values belong to each message.

    The result is the float64 next to the decimal product. An inverse contract at price 0 has no worth in base units and
    stays as it is; its worth elsewhere is rounded to 15 digits.
    """
    names = list(waiting.instruments)
    place = {native: index for index, native in enumerate(names)}
    whose = np.repeat(np.fromiter((place[native] for native in natives), dtype=np.int32, count=len(natives)), counts)
    result = np.array(sizes, dtype=np.float64)
    for index, native in enumerate(names):
        instrument = waiting.instruments[native]
        if instrument.contract_size is None:
            continue
        mine = whose == index
        if not mine.any():
            continue
        if instrument.inverse:
            own, at = result[mine] * float(instrument.contract_size), prices[mine]
            np.divide(own, at, out=own, where=at > 0)
            result[mine] = [float(f"{value:.15g}") for value in own]
        else:
            result[mine] = _multiplied(result[mine], instrument.contract_size)
    return result


MOST_DIGITS = 8  # behind the point, of sizes in contracts


def _multiplied(values: Any, factor: str) -> Any:
    """Multiply by a decimal as decimals do.

    In whole numbers that float64 holds, and one division by a power of ten, which is rounded once: to the float64 next
    to the product. What does not fit goes the long way.
    """
    exact = Decimal(factor).normalize()
    exponent = exact.as_tuple().exponent
    assert isinstance(exponent, int), "a number, as instruments are read"
    digits = max(0, -exponent)
    whole = int(exact.scaleb(digits))
    lots = np.rint(values * 10.0**MOST_DIGITS)
    products = lots * whole
    if digits + MOST_DIGITS <= 22 and products.max(initial=0) < 2**53 and (lots / 10.0**MOST_DIGITS == values).all():
        return products / 10.0 ** (digits + MOST_DIGITS)
    return np.array([float(Decimal(repr(value)) * exact) for value in values.tolist()], dtype=np.float64)
