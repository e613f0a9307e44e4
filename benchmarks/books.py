"""What a kept order book costs: memory by levels, CPU per change, and how it grows. For docs/order-books.md.

python benchmarks/books.py [memory|tracks|cpu|growth|recorded …]    without a word: all of it
"""

import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from functools import partial

import follower
import msgspec
from made_up import FIRST_SEQ, NS, Market

from collector_trio.continuity.book import Book
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import BookTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookDelta, BookRules
from collector_trio.followers.applying import apply_levels, whole_columns
from collector_trio.followers.fold import Fold
from collector_trio.followers.rows import book_sides
from collector_trio.instruments import Instrument

LEVELS = (100, 400, 1000, 5000, 20_000)  # a side
CHUNK = 4096
ROUNDS = 5
BTC = Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True, "0.01", "0.00001")


def main() -> None:
    """Measure what the command line names."""
    parts: dict[str, Callable[[], None]] = {
        "memory": memory, "tracks": tracks, "cpu": cpu, "growth": growth, "recorded": recorded,
    }  # fmt: skip
    for name in sys.argv[1:] or parts:
        sys.stdout.write(f"\n{name}: {parts[name].__doc__}\n")
        parts[name]()


def say(*cells: object) -> None:
    """Write one line of a table."""
    words = (f"{cell:>14,.2f}" if isinstance(cell, float) else f"{cell!s:>14}" for cell in cells)
    sys.stdout.write(" | ".join(words) + "\n")


def traced(make: Callable[[], object]) -> tuple[object, int]:
    """Return what `make` makes, and the bytes that it holds."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = make()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return made, after - before


def filled(levels: int) -> Book:
    """Return a book as it is after its changes were applied: floats, sizes by price."""
    draw, book = random.Random(1), Book()
    for name, sign in (("bid", -1), ("ask", 1)):
        prices = [60_000.0 + sign * tick / 100 for tick in range(1, levels + 1)]
        book.apply(name, prices, [draw.expovariate(2) for _ in prices], ())
    return book


def decimals(texts: list[list[tuple[str, str]]]) -> list[dict[Decimal, Decimal]]:
    """Return the sides of a book as the predecessor kept them."""
    return [{Decimal(price): Decimal(size) for price, size in side} for side in texts]


def memory() -> None:
    """a book of so many levels a side: kB as ours, kB as two dicts of Decimals, kB in the follower's state."""
    say("levels a side", "ours", "Decimals", "state")
    for levels in LEVELS:
        book, ours = traced(partial(filled, levels))
        assert isinstance(book, Book)
        sides = [list(side.items()) for side in (book.bids, book.asks)]
        texts = [[(f"{price:.2f}", f"{size:.8f}") for price, size in side] for side in sides]
        _, theirs = traced(partial(decimals, texts))
        state = 4 * 8 * levels  # four arrays of float64
        say(levels, ours / 1e3, theirs / 1e3, state / 1e3)


def tracks() -> None:
    """what the recorder keeps of a book, which has no levels: kB while it is synced, and 5 000 changes unsynced."""
    say("exchange", "synced", "not synced")
    for name in EXCHANGES:
        rules = EXCHANGES[name].book_rules("spot")
        say(name, *(traced(partial(watched, rules, synced))[1] / 1e3 for synced in (True, False)))


def watched(rules: BookRules, synced: bool) -> BookTrack:
    """Return a track that was fed 5 000 changes."""
    track = Continuity().book_track(BTC, rules)
    for number in range(FIRST_SEQ, FIRST_SEQ + 50_000, 10):
        track.take(1, number, number + 10, NS + number, 1, NS, None)
        if number == FIRST_SEQ and synced:
            track.chain.synced, track.chain.run = True, []
    return track


def cpu() -> None:
    """CPU per change, µs, a book of 3 000 levels a side, best of five; beside it the predecessor's way, at 1 000."""
    say("levels", "ours, 4096", "ours, 1", "Decimals+sort", "whole book")
    for levels in (20, 40, 400):
        market, book = Market(levels=levels), Book()
        changes = [change_of(frame) for frame in market.deltas(CHUNK)]
        sides = book_sides(changes, {BTC.native_symbol: BTC})

        def at_once(book: Book = book, sides: object = sides) -> None:
            for name, side in sides.items():  # type: ignore[attr-defined]
                apply_levels(book, name, side, slice(None))

        few = changes[:200]
        alone = [book_sides([change], {BTC.native_symbol: BTC}) for change in few]

        def one_by_one(book: Book = book, alone: object = alone) -> None:
            for sides in alone:  # type: ignore[attr-defined]
                for name, side in sides.items():
                    apply_levels(book, name, side, slice(None))

        texts = [(msgspec.json.decode(change.bids), msgspec.json.decode(change.asks)) for change in few]

        def their_way(texts: object = texts) -> None:
            whole = {Decimal(60_000 - tick) / 100: Decimal(1) for tick in range(1000)}
            for bids, asks in texts:  # type: ignore[attr-defined]
                for side in (bids, asks):
                    for price, size in side:
                        whole[Decimal(price)] = Decimal(size)
                        if not whole[Decimal(price)]:
                            del whole[Decimal(price)]
                    _kept = sorted(whole.items(), reverse=True)[:1000]

        say(
            levels,
            best_us(at_once, CHUNK),
            best_us(one_by_one, len(few)),
            best_us(their_way, len(few)),
            best_us(lambda book=book: whole_columns(book, None), 1),  # type: ignore[misc]
        )


def best_us(work: Callable[[], object], times: int) -> float:
    """Return the CPU microseconds of one of `times`."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        found.append((time.process_time() - start) / times * 1e6)
    return min(found)


def change_of(frame: bytes) -> BookDelta:
    """Return the change in a frame."""
    data = msgspec.json.decode(frame, type=dict[str, msgspec.Raw])["data"]
    sides = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    first, last = (int(bytes(sides[name])) for name in ("U", "u"))
    return BookDelta("BTCUSDT", NS, first, last, first - 1, False, sides["b"], sides["a"], 2, False)


def growth() -> None:
    """levels and kB of a book whose price wanders, after so many 40-level changes, 10 a second."""
    market, book = Market(levels=40), Book()
    say("changes", "hours", "bids", "asks", "kB")
    done = 0
    for count in (4096, 4096, 28_672, 73_728, 110_592):
        for _ in range(count // CHUNK):
            changes = [change_of(frame) for frame in market.deltas(CHUNK)]
            for name, side in book_sides(changes, {BTC.native_symbol: BTC}).items():
                apply_levels(book, name, side, slice(None))
        done += count
        say(done, done / 36_000, len(book.bids), len(book.asks), size_of(book) / 1e3)


def size_of(book: Book) -> int:
    """Return the bytes of the sides of a book: its dicts, and two floats a level."""
    return sum(sys.getsizeof(side) + 48 * len(side) for side in (book.bids, book.asks))


def recorded() -> None:
    """the books at the end of the recordings from the live exchange that the follower is measured on."""
    if not follower.RECORDINGS.exists():
        say("there are no recordings here")
        return

    def look(fold: Fold) -> None:
        say("book", "bids", "asks", "kB")
        for market in ("spot", "perp"):
            for native in ("BTCUSDT", "ETHUSDT"):
                try:
                    book = fold.book("binance", market, native)
                except KeyError:
                    continue
                say(f"{market} {native}", len(book.bids), len(book.asks), size_of(book) / 1e3)

    follower.recorded("book", look)


if __name__ == "__main__":
    main()
