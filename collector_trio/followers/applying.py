"""The levels of a chunk set in the book they change, and a book's levels as a row."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from collector_trio.continuity.book import Book
from collector_trio.followers.columns import spelled
from collector_trio.followers.rows import Side


def apply_levels(book: Book, name: str, side: Side, part: Any) -> None:
    """Set those levels of `side` that `part` (an index of numpy's) chooses, in their order."""
    levels = side.levels
    prices, sizes = levels.prices[part], side.sizes[part]
    # Most prices come many times in a chunk, and Arrow finds equal ones faster than a dict hashes them all.
    encoded = pa.array(prices).dictionary_encode()
    indices, once = encoded.indices.to_numpy(), encoded.dictionary.to_numpy()
    last = np.empty(len(once))
    last[indices] = sizes  # in order: the last one stays
    book.apply(name, once.tolist(), last.tolist(), once[last == 0.0].tolist())
    if levels.price_texts or side.size_texts or book.texts:
        _note_texts(book, name, side, np.arange(len(levels.prices))[part])


def _note_texts(book: Book, name: str, side: Side, positions: np.ndarray[Any, Any]) -> None:
    """Keep the exact texts of levels that float64 cannot hold."""
    prices, present = side.levels.prices[positions].tolist(), book.side(name)
    texts: dict[float, tuple[str, str] | None] = {}
    for position, price in zip(positions.tolist(), prices, strict=True):
        inexact = position in side.levels.price_texts or position in side.size_texts
        texts[price] = (side.price_text(position), side.size_text(position)) if inexact and price in present else None
    book.note_texts(name, texts)


def whole_columns(book: Book, depth: int | None) -> dict[str, Any]:
    """Return the columns of one row with the whole book, best levels first; only `depth` levels a side are certain."""
    bids, asks = book.sorted_bids(), book.sorted_asks()
    bounds = [book.bid_bound, book.ask_bound]
    if depth is not None:
        bounds = [side[0][depth - 1] if len(side[0]) >= depth else None for side in (bids, asks)]
    return {
        "bid_price": [bids[0]],
        "bid_size": [bids[1]],
        "ask_price": [asks[0]],
        "ask_size": [asks[1]],
        "bid_bound": [bounds[0]],
        "ask_bound": [bounds[1]],
        "exact": [_exact_levels(book)],
    }


def _exact_levels(book: Book) -> str | None:
    """Return the column `exact` of a whole book: its numbers as text, where float64 cannot hold one of them."""
    if not book.texts:
        return None
    found: dict[str, list[str]] = {}
    for name, (prices, sizes) in (("bid", book.sorted_bids()), ("ask", book.sorted_asks())):
        texts = [book.texts.get((name, price)) for price in prices]
        if any(texts):
            pairs = list(zip(prices, sizes, texts, strict=True))
            found[f"{name}_price"] = [text[0] if text else spelled(price) for price, _, text in pairs]
            found[f"{name}_size"] = [text[1] if text else spelled(size) for _, size, text in pairs]
    return json.dumps(found)
