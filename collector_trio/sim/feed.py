"""Lets a market's time pass: takers at random, a book every 100 ms. What is published is the exchange's affair."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

import trio

from collector_trio.sim.facts import TradeFact
from collector_trio.sim.fault import Place
from collector_trio.sim.later import Later
from collector_trio.sim.market import Fill, Listing, Market

FLUSH_EVERY_S = 0.1
# How many trades REST knows at least.
KEPT_TRADES = 20_000
RUSH = 0.005  # how often a taker is one of several at the same instant


# A sequence number, bids and asks, best first, as text.
BookText = tuple[int, list[tuple[str, str]], list[tuple[str, str]]]


class Tape(Protocol):
    """How one exchange publishes one instrument's market, and what its REST knows about it.

    `history` are the latest trades REST can give, ids ascending.
    """

    market: Market
    history: list[TradeFact]

    @property
    def places(self) -> Sequence[Place]:
        """Where faults may strike what it publishes."""

    def begin(self) -> None:
        """Tell the truth the whole book, before anything happens to it."""

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish what one taker order did."""

    def flush(self) -> float:
        """Publish what happened to the book since the last flush.

        Returns after how many seconds to flush if nothing happens.
        """

    def book(self, depth: int) -> BookText:
        """Return the book that REST shows now: sequence number, bids and asks, best first."""


class Feed:
    """One instrument on one exchange. Its time begins with the first subscription and does not stop for disconnects.

    Three things happen to it: takers come and makers stir the book, both at random; and at the full tenth of a second
    after either, or after a new subscription, the book is flushed. So a quiet instrument costs nothing while nothing
    happens. What happens depends on the seed alone, not on how late the loop is: times are counted from the beginning.
    """

    def __init__(self, tape: Tape, rng: Random, later: Later) -> None:
        self.tape = tape
        self.begun = False
        self._rng = rng
        self._later = later
        self._started = 0.0
        self._order_at = self._stir_at = self._flush_at = 0.0

    @property
    def listing(self) -> Listing:
        """What is traded."""
        return self.tape.market.listing

    def poke(self) -> None:
        """Take note of a new subscription, or a fault: the next flush is to come, even if nothing else happens."""
        now = trio.current_time()
        if self.begun:
            self._flush_at = min(self._flush_at, _flush_after(now - self._started))
        else:
            self.begun = True
            self._started = now
            self.tape.begin()
            self._order_at, self._stir_at, self._flush_at = self._until_order(), self._until_stir(), FLUSH_EVERY_S
        self._expect()

    def _expect(self) -> None:
        """Ask to be woken for what comes next."""
        due = self._due()
        self._later.at(self._started + due, lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if due == self._due():  # else it was asked for before something else came first
            self._step(due)
            self._expect()

    def _due(self) -> float:
        return min(self._order_at, self._stir_at, self._flush_at)

    def _step(self, due: float) -> None:
        if due == self._order_at:
            for _ in range(self._rng.randint(4, 12) if self._rng.random() < RUSH else 1):
                self.tape.order(*self.tape.market.take())
            self._order_at += self._until_order()
            self._flush_at = min(self._flush_at, _flush_after(due))
        elif due == self._stir_at:
            self.tape.market.stir(self._changes())
            self._stir_at += self._until_stir()
            self._flush_at = min(self._flush_at, _flush_after(due))
        else:
            self._flush_at = due + self.tape.flush()

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


def remember(history: list[TradeFact], fact: TradeFact) -> None:
    """Add a trade to what REST knows, and forget the oldest when they are too many."""
    history.append(fact)
    if len(history) >= 2 * KEPT_TRADES:
        del history[:KEPT_TRADES]


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
