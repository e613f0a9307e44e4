"""Lets a market's time pass: takers at random, a book every 100 ms. What is published is the exchange's affair."""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

import trio

from collector_trio.sim.market import Fill, Listing, Market
from collector_trio.sim.truth import TradeFact

FLUSH_EVERY_S = 0.1
# How many trades REST still knows.
KEPT_TRADES = 5000


class Tape(Protocol):
    """How one exchange publishes one instrument's market, and what its REST knows about it.

    `history` are the latest trades REST can give, ids ascending.
    """

    market: Market
    history: deque[TradeFact]

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish what one taker order did."""

    def flush(self) -> None:
        """Publish what happened to the book since the last flush."""

    def book(self, depth: int) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the book that REST shows now: sequence number, bids and asks, best first."""


class Feed:
    """One instrument on one exchange. Its time begins with the first subscription and does not stop for disconnects."""

    def __init__(self, tape: Tape, rng: Random) -> None:
        self.tape = tape
        self.wanted = trio.Event()
        self._rng = rng

    @property
    def listing(self) -> Listing:
        """What is traded."""
        return self.tape.market.listing

    async def run(self) -> None:
        """Publish for ever, at the scenario's rates.

        What happens depends on the seed alone, not on how late the loop is.
        """
        await self.wanted.wait()
        started = trio.current_time()
        next_order = self._rng.expovariate(self.listing.trades_per_s)
        next_flush = FLUSH_EVERY_S
        flushes = 1
        while True:
            await trio.sleep_until(started + min(next_order, next_flush))
            if next_order <= next_flush:
                self.tape.order(*self.tape.market.take())
                next_order += self._rng.expovariate(self.listing.trades_per_s)
            else:
                self.tape.market.stir(self._changes())
                self.tape.flush()
                flushes += 1
                next_flush = flushes * FLUSH_EVERY_S

    def _changes(self) -> int:
        """Draw how many levels makers change before this flush; none at most flushes of a quiet book."""
        per_flush = self.listing.book_changes_per_s * FLUSH_EVERY_S
        if self._rng.random() >= per_flush:
            return 0
        return max(1, round(self._rng.expovariate(1 / (4 * max(1.0, per_flush)))))


class Clock:
    """The exchange's clock, in the units it prints."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns

    def us(self) -> int:
        """Return microseconds since the epoch."""
        return self._now_ns() // 1000

    def ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self._now_ns() // 1_000_000
