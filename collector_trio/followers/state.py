"""What a follower knows at the end of a segment: written with its cursor, in one rename."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from collector_trio.continuity.book import Book
from collector_trio.continuity.chain import Link
from collector_trio.exchanges.protocol import BookDelta, BookSnapshot


class BookState(msgspec.Struct):
    """A book, its numbers as the bytes of float64 arrays, and the messages that may still change it: link, exchange
    time, first number, sides, stride, contracts or not.
    """

    bid_price: bytes
    bid_size: bytes
    ask_price: bytes
    ask_size: bytes
    bid_bound: float | None
    ask_bound: float | None
    texts: list[tuple[str, float, str, str]]
    stored_ns: int | None
    held: list[tuple[int, int, int, int | None, bytes, bytes, int, bool]]
    snapshot: tuple[int | None, int, bytes, bytes, int, int, bool] | None

    def held_by_link(self, native_symbol: str) -> dict[Link, BookDelta]:
        """Return the changes that cannot be applied yet."""
        return {
            (prev, last): BookDelta(
                native_symbol, ns, first, last, prev, False, msgspec.Raw(bids), msgspec.Raw(asks), stride, derivative
            )
            for prev, last, ns, first, bids, asks, stride, derivative in self.held
        }

    def snapshot_of(self, native_symbol: str) -> BookSnapshot | None:
        """Return the whole book that waits for changes up to it."""
        if self.snapshot is None:
            return None
        ns, last, bids, asks, stride, depth, derivative = self.snapshot
        return BookSnapshot(native_symbol, ns, last, msgspec.Raw(bids), msgspec.Raw(asks), stride, depth, derivative)


class FoldState(msgspec.Struct):
    """Everything a fold goes on from. `continuity` is what `Continuity.dump` returns."""

    continuity: dict[str, Any]
    books: dict[str, BookState]  # by exchange, market and native symbol, separated by spaces
    instruments: list[dict[str, Any]]
    sessions: dict[int, tuple[str, list[str]]]
    requests: dict[int, dict[str, Any]]
    totals: dict[str, dict[str, int]]
    snapshot_every_ns: int
    divergence: int
    unbalanced: int = 0
    next_frame: int = 0  # what the journal should go on with; 0: nobody knows


def book_state(
    book: Book, stored_ns: int | None, held: Iterable[BookDelta], snapshot: BookSnapshot | None
) -> BookState:
    """Pack a book."""
    packed = None
    if snapshot is not None:
        bids, asks = bytes(snapshot.bids), bytes(snapshot.asks)
        numbers = (snapshot.stride, snapshot.depth, snapshot.derivative)
        packed = (snapshot.exchange_ns, snapshot.last_seq, bids, asks, *numbers)
    return BookState(
        _packed(book.bids.keys()), _packed(book.bids.values()), _packed(book.asks.keys()), _packed(book.asks.values()),
        book.bid_bound, book.ask_bound, [(*place, *texts) for place, texts in book.texts.items()], stored_ns,
        [
            (c.prev_seq or 0, c.last_seq or 0, c.exchange_ns, c.first_seq, bytes(c.bids), bytes(c.asks), c.stride,
             c.derivative)
            for c in held
        ],
        packed,
    )  # fmt: skip


def book_of(state: BookState) -> Book:
    """Unpack a book."""
    return Book(
        dict(zip(_unpacked(state.bid_price), _unpacked(state.bid_size), strict=True)),
        dict(zip(_unpacked(state.ask_price), _unpacked(state.ask_size), strict=True)),
        state.bid_bound,
        state.ask_bound,
        {(side, price): (price_text, size_text) for side, price, price_text, size_text in state.texts},
    )


def _packed(values: Any) -> bytes:
    return np.fromiter(values, dtype=np.float64, count=len(values)).tobytes()


def _unpacked(data: bytes) -> list[float]:
    numbers: list[float] = np.frombuffer(data, dtype=np.float64).tolist()
    return numbers


def encode(state: FoldState) -> bytes:
    """Return the state's bytes."""
    return msgspec.msgpack.encode(state)


def decode(data: bytes) -> FoldState:
    """Read them. Raises msgspec.MsgspecError."""
    return msgspec.msgpack.decode(data, type=FoldState)
