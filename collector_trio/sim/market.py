"""A market that walks at random: a book of ladders, takers who eat from it, makers who stir it. No clock, no I/O.

Prices are counted in ticks and sizes in lots, so that nothing is ever rounded; `Listing` turns them into an exchange's
text.
"""

from bisect import bisect_left
from functools import lru_cache
from random import Random

import attrs

LEVELS = 560  # a side, at first; a market keeps between four fifths and five fourths of it
MANY = 10  # makers a large taker now and then meets at one price


@attrs.frozen
class Listing:
    """How an exchange lists one instrument.

    `price_padded`, `size_padded`: digits always printed after the point; 0 is as many as the smallest step has, None
    drops trailing zeros. `contract_size`: how much of the base one unit of size is, None where it is the base itself.
    """

    symbol: str
    native_symbol: str
    price: float
    tick_digits: int
    lot_digits: int
    price_padded: int | None
    size_padded: int | None
    trades_per_s: float = 1.0
    book_changes_per_s: float = 1.0
    market: str = "spot"
    contract_size: str | None = None

    @property
    def base(self) -> str:
        """The asset that is traded."""
        return self.symbol.split("-")[0]

    @property
    def quote(self) -> str:
        """The asset it is paid in."""
        return self.symbol.split("-")[1]

    @property
    def tick(self) -> str:
        """The smallest step of a price, as text."""
        return self.price_text(1)

    @property
    def lot(self) -> str:
        """The smallest step of a size, as text."""
        return self.size_text(1)

    def price_text(self, ticks: int) -> str:
        """Spell a price."""
        return spell(ticks, self.tick_digits, self.price_padded)

    def size_text(self, lots: int) -> str:
        """Spell a size."""
        return spell(lots, self.lot_digits, self.size_padded)


def seeded(*names: object) -> Random:
    """Return a generator that depends on these names alone: one symbol's walk does not depend on the others."""
    return Random("/".join(map(str, names)))


@lru_cache(maxsize=100_000)
def spell(value: int, digits: int, padded: int | None) -> str:
    """Spell value / 10**digits: `spell(612345, 1, None)` is "61234.5", `spell(612345, 1, 8)` is "61234.50000000"."""
    whole, part = divmod(value, 10**digits)
    fraction = str(part).zfill(digits) if digits else ""
    fraction = fraction.rstrip("0") if padded is None else fraction.ljust(padded, "0")
    return f"{whole}.{fraction}" if fraction else str(whole)


@attrs.frozen
class Fill:
    """What one taker order took at one price: one or more matches, with the makers' sizes in lots."""

    price: int
    matches: tuple[int, ...]


@attrs.define(eq=False)
class Ladder:
    """One side of a book: `prices` ascending, `lots` by price, and what changed since `changes` was last asked."""

    prices: list[int]
    lots: dict[int, int]
    _touched: dict[int, None] = attrs.Factory(dict)

    def put(self, price: int, lots: int) -> None:
        """Set the size at a price; 0 takes the level away."""
        if lots == 0:
            del self.lots[price]
            del self.prices[bisect_left(self.prices, price)]
        else:
            if price not in self.lots:
                self.prices.insert(bisect_left(self.prices, price), price)
            self.lots[price] = lots
        self._touched[price] = None

    def changes(self) -> list[tuple[int, int]]:
        """Return every level that changed since the last call, with its size now, and forget them."""
        changed = [(price, self.lots.get(price, 0)) for price in sorted(self._touched)]
        self._touched.clear()
        return changed


class Market:
    """One instrument's book and its walk. Every change of a level raises `update_id` by one."""

    def __init__(self, listing: Listing, rng: Random, levels: int = LEVELS) -> None:
        self.listing = listing
        self.rng = rng
        self.fewest = levels * 4 // 5
        self.most = levels * 5 // 4
        self.update_id = rng.randrange(10**9, 9 * 10**9)
        self.match_id = rng.randrange(10**8, 10**9)
        middle = round(listing.price * 10**listing.tick_digits)
        self._usual_lots = max(
            2, round(20_000 / (listing.price * float(listing.contract_size or 1)) * 10**listing.lot_digits)
        )
        self.bids = self._new_ladder(middle, -1, levels)
        self.asks = self._new_ladder(middle, +1, levels)

    @property
    def best_bid(self) -> int:
        """The highest price somebody pays."""
        return self.bids.prices[-1]

    @property
    def best_ask(self) -> int:
        """The lowest price somebody asks."""
        return self.asks.prices[0]

    def take(self) -> tuple[str, list[Fill]]:
        """Let a taker come: returns its side ("buy" or "sell") and what it took, price by price."""
        side = self.rng.choice(("buy", "sell"))
        ladder = self.asks if side == "buy" else self.bids
        wanted = max(1, round(self.rng.paretovariate(1.2) * 0.1 * self._usual_lots))
        fills: list[Fill] = []
        while wanted and len(fills) < 3:
            price = ladder.prices[0 if side == "buy" else -1]
            taken = min(wanted, ladder.lots[price])
            wanted -= taken
            fills.append(Fill(price, self._split(taken)))
            self._put(ladder, price, ladder.lots[price] - taken)
        self._replenish()
        return side, fills

    def stir(self, changes: int) -> None:
        """Let makers change about `changes` levels, most of them near the top."""
        for _ in range(changes):
            if self.best_ask - self.best_bid > 2 and self.rng.random() < 0.5:
                self._improve()
                continue
            bid = self.rng.random() < 0.5
            ladder = self.bids if bid else self.asks
            deep = self.rng.random() < 0.03
            place = self.rng.randrange(len(ladder.prices)) if deep else int(self.rng.expovariate(1 / 25))
            place = min(place, len(ladder.prices) - 1)
            price = ladder.prices[-1 - place if bid else place]
            draw = self.rng.random()
            if draw < 0.2:
                self._put(ladder, price, 0)
            elif draw < 0.5:
                # A new level, more often close to the best price than far: what takers eat at the top grows back there.
                away = 1 + int(self.rng.expovariate(1 / 60))
                new = self.best_bid - away if bid else self.best_ask + away
                if new > 0:
                    self._put(ladder, new, self._size())
            else:
                self._put(ladder, price, self._size())
            self._replenish()

    def _improve(self) -> None:
        step = self.rng.randint(1, (self.best_ask - self.best_bid) // 2)
        if self.rng.random() < 0.5:
            self._put(self.bids, self.best_bid + step, self._size())
        else:
            self._put(self.asks, self.best_ask - step, self._size())

    def _replenish(self) -> None:
        """Keep each side between its bounds by adding or taking away at the far end."""
        for ladder, far, away in ((self.bids, 0, -1), (self.asks, -1, +1)):
            while len(ladder.prices) < self.fewest:
                price = ladder.prices[far] + away * self.rng.randint(1, 4)
                if price <= 0:
                    break
                self._put(ladder, price, self._size())
            while len(ladder.prices) > self.most:
                self._put(ladder, ladder.prices[far], 0)

    def _put(self, ladder: Ladder, price: int, lots: int) -> None:
        ladder.put(price, lots)
        self.update_id += 1

    def _size(self) -> int:
        return max(1, round(self.rng.expovariate(1 / self._usual_lots)))

    def _split(self, lots: int) -> tuple[int, ...]:
        """Split what was taken among one to three makers; seldom among many."""
        if lots >= 4 * MANY and self.rng.random() < 0.01:
            cuts = sorted(self.rng.sample(range(1, lots), MANY - 1))
            return tuple(end - start for start, end in zip([0, *cuts], [*cuts, lots], strict=True))
        parts = []
        for _ in range(self.rng.choice((0, 0, 0, 1, 2))):
            part = round(lots * self.rng.random())
            if 0 < part < lots:
                parts.append(part)
                lots -= part
        return (*parts, lots)

    def _new_ladder(self, middle: int, away: int, levels: int) -> Ladder:
        price, lots = middle, {}
        for _ in range(levels):
            price += away * self.rng.choice((1, 1, 1, 2, 3, 5))
            if price > 0:
                lots[price] = self._size()
        return Ladder(sorted(lots), lots)
