"""From typed messages to the columns of their table, a few thousand rows at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collector_trio.exchanges.protocol import BookDelta, BookSnapshot
from collector_trio.followers.chunks import WaitingChanges, WaitingTrades
from collector_trio.followers.columns import exact_texts, floats, micros, spelled
from collector_trio.followers.contracts import base_units
from collector_trio.followers.levels import Levels
from collector_trio.instruments import Instrument


def trade_columns(waiting: WaitingTrades) -> dict[str, Any]:
    """Turn trades into columns."""
    trades, natives = waiting.trades, waiting.trades.native_symbols
    prices, inexact_prices = floats(trades.prices)
    sizes, inexact_sizes = floats(trades.sizes)
    exact: dict[str, Mapping[int, str]] = {"price": inexact_prices, "size": inexact_sizes}
    columns: dict[str, Any] = {}
    if any(trades.derivatives):
        columns["contracts"] = pa.array(sizes, mask=~np.array(trades.derivatives))
        exact["contracts"] = {row: text for row, text in inexact_sizes.items() if trades.derivatives[row]}
        whose = _whose(waiting.instruments, natives)
        sizes, exact["size"] = base_units(sizes, inexact_sizes, prices, list(waiting.instruments.values()), whose)
    return columns | {
        "symbol": _symbols(waiting.instruments, natives),
        "ts": micros(trades.exchange_ns),
        "id": trades.ids,
        "price": prices,
        "size": sizes,
        "side": pc.if_else(pa.array(trades.buys), "buy", "sell"),
        "first_id": trades.first_ids,
        "last_id": trades.last_ids,
        "source": "ws",
        "exact": exact_texts(len(waiting), exact),
    }


@attrs.frozen
class Side:
    """One side of a batch of book messages: its levels, and their sizes in base units.

    `size_texts` has, by position, the sizes that float64 cannot hold.
    """

    levels: Levels
    sizes: np.ndarray[Any, Any]
    size_texts: Mapping[int, str]

    def price_text(self, position: int) -> str:
        """Return a level's price as text."""
        return self.levels.text(position, 0)

    def size_text(self, position: int) -> str:
        """Return a level's size as text, in base units."""
        if self.sizes is self.levels.sizes:
            return self.levels.text(position, 1)
        return self.size_texts.get(position) or spelled(self.sizes[position].item())

    def exact_prices(self) -> dict[int, list[str]]:
        """Return all prices of each message of which float64 cannot hold one."""
        return {row: list(map(self.price_text, own)) for row, own in self._rows_of(self.levels.price_texts)}

    def exact_sizes(self) -> dict[int, list[str]]:
        """Return all sizes of each message of which float64 cannot hold one."""
        return {row: list(map(self.size_text, own)) for row, own in self._rows_of(self.size_texts)}

    def _rows_of(self, texts: Mapping[int, str]) -> Iterator[tuple[int, range]]:
        """Yield the messages in which some positions are, and all positions that they have."""
        if texts:
            offsets = self.levels.offsets
            rows = np.searchsorted(offsets, np.fromiter(texts, dtype=np.int64), side="right") - 1
            for row in np.unique(rows).tolist():
                yield row, range(offsets[row], offsets[row + 1])


def book_sides(rows: Sequence[BookDelta | BookSnapshot], instruments: Mapping[str, Instrument]) -> dict[str, Side]:
    """Read the levels of both sides, "bid" and "ask"; `instruments` by native symbol. Raises BadSides."""
    derivatives = [row.derivative for row in rows]
    found = {}
    for name, texts in (("bid", [row.bids for row in rows]), ("ask", [row.asks for row in rows])):
        levels = Levels(texts, rows[0].stride)
        sizes, size_texts = levels.sizes, levels.size_texts
        if any(derivatives):
            whose = np.repeat(_whose(instruments, [row.native_symbol for row in rows]), levels.counts)
            sizes, size_texts = base_units(sizes, size_texts, levels.prices, list(instruments.values()), whose)
        found[name] = Side(levels, sizes, size_texts)
    return found


def book_columns(waiting: WaitingChanges, sides: Mapping[str, Side]) -> dict[str, Any]:
    """Turn book changes, whose levels were read, into columns."""
    rows = waiting.changes
    columns: dict[str, Any] = {}
    exact: dict[str, Mapping[int, Any]] = {}
    for name, side in sides.items():
        columns[f"{name}_price"] = side.levels.lists(side.levels.prices)
        columns[f"{name}_size"] = side.levels.lists(side.sizes)
        exact[f"{name}_price"], exact[f"{name}_size"] = side.exact_prices(), side.exact_sizes()
    return columns | {
        "symbol": _symbols(waiting.instruments, [row.native_symbol for row in rows]),
        "ts": micros([row.exchange_ns for row in rows]),
        "first_seq": [row.first_seq for row in rows],
        "last_seq": [row.last_seq for row in rows],
        "prev_seq": [row.prev_seq for row in rows],
        "snapshot": [row.snapshot for row in rows],
        "exact": exact_texts(len(rows), exact),
    }


def _symbols(instruments: Mapping[str, Instrument], natives: Sequence[str]) -> pa.Array | str:
    """Return the symbol of each row, or the one of all."""
    if natives.count(natives[0]) == len(natives):
        return instruments[natives[0]].symbol
    symbols = {native: instrument.symbol for native, instrument in instruments.items()}
    return pa.array(list(map(symbols.__getitem__, natives)), pa.string())


def _whose(instruments: Mapping[str, Instrument], natives: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return of each row the index of its instrument."""
    place = {native: index for index, native in enumerate(instruments)}
    return np.fromiter(map(place.__getitem__, natives), dtype=np.int32, count=len(natives))
