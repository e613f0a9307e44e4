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

    def flush(self) -> float:
        """Publish what happened to the book since the last flush.

        Returns after how many seconds to flush if nothing happens.
        """

    def book(self, depth: int) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the book that REST shows now: sequence number, bids and asks, best first."""


class Feed:
    """One instrument on one exchange. Its time begins with the first subscription and does not stop for disconnects.

    Three things happen to it: takers come and makers stir the book, both at random; and at the full tenth of a second
    after either, or after a new subscription, the book is flushed. So a quiet instrument costs nothing while nothing
    happens.
    """

    def __init__(self, tape: Tape, rng: Random) -> None:
        self.tape = tape
        self._rng = rng
        self._poked = trio.Event()

    @property
    def listing(self) -> Listing:
        """What is traded."""
        return self.tape.market.listing

    def poke(self) -> None:
        """Take note of a new subscription: the next flush is to come, even if nothing else happens."""
        self._poked.set()

    async def run(self) -> None:
        """Publish for ever, at the scenario's rates.

        What happens depends on the seed alone, not on how late the loop is.
        """
        await self._poked.wait()
        started = trio.current_time()
        order_at, stir_at, flush_at = self._until_order(), self._until_stir(), FLUSH_EVERY_S
        while True:
            due = min(order_at, stir_at, flush_at)
            with trio.move_on_at(started + due):
                await self._poked.wait()
                self._poked = trio.Event()
                flush_at = min(flush_at, _flush_after(trio.current_time() - started))
                continue
            if due == order_at:
                self.tape.order(*self.tape.market.take())
                order_at += self._until_order()
                flush_at = min(flush_at, _flush_after(due))
            elif due == stir_at:
                self.tape.market.stir(self._changes())
                stir_at += self._until_stir()
                flush_at = min(flush_at, _flush_after(due))
            else:
                flush_at = due + self.tape.flush()

    def _until_order(self) -> float:
        return self._rng.expovariate(self.listing.trades_per_s)

    def _until_stir(self) -> float:
        """A busy book is stirred before every flush, a quieter one at random."""
        rate = self.listing.book_changes_per_s
        return FLUSH_EVERY_S if rate * FLUSH_EVERY_S >= 1 else self._rng.expovariate(rate)

    def _changes(self) -> int:
        """Draw how many levels makers change at once."""
        per_flush = self.listing.book_changes_per_s * FLUSH_EVERY_S
        return max(1, round(self._rng.expovariate(1 / (4 * max(1.0, per_flush)))))


def _flush_after(now: float) -> float:
    """Return the next full tenth of a second."""
    return (int(now / FLUSH_EVERY_S) + 1) * FLUSH_EVERY_S


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
