"""The levels of one book. Sizes are absolute; a size of 0 takes a level away, also one that is not there.

A snapshot shows so many levels a side; what lies behind them is unknown until it changes, and then only what changed.
So each side has a bound: the worst price down to which it is completely known.
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#how-to-manage-a-local-order-book-correctly
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs


@attrs.define
class Book:
    """Size by price, in quote and base units. A bound of None: the whole side is known.

    `texts` keeps, by side ("bid", "ask") and price, the exact numbers of levels that float64 cannot hold.
    """

    bids: dict[float, float] = attrs.field(factory=dict)
    asks: dict[float, float] = attrs.field(factory=dict)
    bid_bound: float | None = None
    ask_bound: float | None = None
    texts: dict[tuple[str, float], tuple[str, str]] = attrs.field(factory=dict)

    def clear(self) -> None:
        """Forget everything: a whole book follows."""
        self.bids, self.asks, self.texts = {}, {}, {}
        self.bid_bound = self.ask_bound = None

    def bound(self, depth: int | None) -> None:
        """Take note that what is there is the best `depth` levels a side: a side that has as many may go on."""
        if depth is not None:
            self.bid_bound = min(self.bids) if len(self.bids) >= depth else None
            self.ask_bound = max(self.asks) if len(self.asks) >= depth else None

    def side(self, name: str) -> dict[float, float]:
        """Return the side called "bid" or "ask"."""
        return self.bids if name == "bid" else self.asks

    def apply(self, name: str, prices: Sequence[float], sizes: Sequence[float], dead: Iterable[float]) -> None:
        """Set many levels of the side `name` in order, then take those of `dead` away whose size is 0 now."""
        side = self.side(name)
        side.update(zip(prices, sizes, strict=True))
        for price in dead:
            if side.get(price) == 0.0:
                del side[price]

    def note_texts(self, name: str, levels: Mapping[float, tuple[str, str] | None]) -> None:
        """Keep the exact texts of levels that need them; None: a level is plain again."""
        for price, texts in levels.items():
            if texts is None:
                self.texts.pop((name, price), None)
            else:
                self.texts[name, price] = texts

    def sorted_bids(self) -> tuple[list[float], list[float]]:
        """Return prices and sizes, best first."""
        prices = sorted(self.bids, reverse=True)
        return prices, [self.bids[price] for price in prices]

    def sorted_asks(self) -> tuple[list[float], list[float]]:
        """Return prices and sizes, best first."""
        prices = sorted(self.asks)
        return prices, [self.asks[price] for price in prices]
