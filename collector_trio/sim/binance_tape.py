"""How Binance publishes a market, spot (protocols.md 1.4) or USD-M (2.4): `aggTrade`, `trade`, `depth@100ms`."""

import json
from collections import deque
from collections.abc import Sequence
from random import Random

import attrs

from collector_trio.sim.facts import BookFact, Levels, TradeFact
from collector_trio.sim.fault import Place, Prey
from collector_trio.sim.feed import BookText, remember
from collector_trio.sim.market import Fill, Ladder, Market
from collector_trio.sim.truth import Struck
from collector_trio.sim.venue import Venue, place_of

# The stream server's clock is this much behind the matching engine's: `E` and `T` differ on the wire, too.
PUSH_DELAY_US = 2000
KEPT_DIFFS = 300  # how far back an old snapshot can be
FUND = 0.05  # how often the insurance fund trades before a taker does (USD-M)


@attrs.define(eq=False)
class _Shown:
    """One side of the book as published, and how to take the latest diffs back: per diff, price to the size before."""

    ladder: Ladder
    lots: dict[int, int]
    undo: deque[dict[int, int]] = attrs.Factory(lambda: deque(maxlen=KEPT_DIFFS))

    def show(self, again: bool) -> list[tuple[int, int]]:
        """Publish what changed, with its size now; `again`: and what the last diff had."""
        changes = self.ladder.changes()
        if again:
            changed = dict(changes)
            older = [price for price in self.undo[-1] if price not in changed]
            changes = sorted(changes + [(price, self.ladder.lots.get(price, 0)) for price in older])
        self.undo.append({price: self.lots.get(price, 0) for price, _ in changes})
        for price, lots in changes:
            if lots:
                self.lots[price] = lots
            else:
                self.lots.pop(price, None)
        return changes

    def before(self, diffs: int) -> dict[int, int]:
        """Return the side as it was so many diffs ago; 0 is as published."""
        lots = dict(self.lots)
        for undone in list(self.undo)[::-1][:diffs]:
            lots.update(undone)
        return {price: size for price, size in lots.items() if size}


class BinanceTape:
    """Publishes one market.

    Ids are the market's, not a connection's: `U..u`, `a` and `t` chain over all connections and reconnects. On USD-M
    book ids jump between two diffs, and only `pu` chains; a match id that is in no aggregate is the insurance fund's.
    """

    def __init__(self, market: Market, venue: Venue, rng: Random) -> None:
        self.market = market
        self.history: list[TradeFact] = []
        self._venue = venue
        self._rng = rng
        self._perp = market.listing.market == "perp"
        self._aggregate_id = market.match_id // 2
        self._published_id = market.update_id
        self._jump = 0  # what book ids are ahead of the market's changes
        self._last: list[tuple[int, int]] = [(market.update_id, market.update_id)]  # U, u of the latest diffs
        self._bids = _Shown(market.bids, dict(market.bids.lots))
        self._asks = _Shown(market.asks, dict(market.asks.lots))
        spot = "binance.spot"
        self.book_place = place_of("binance.perp.public" if self._perp else spot, market.listing, "depth@100ms")
        self.trade_place = place_of("binance.perp.market" if self._perp else spot, market.listing, "aggTrade")

    @property
    def places(self) -> Sequence[Place]:
        """Where faults may strike."""
        return self.book_place, self.trade_place

    @property
    def last_seq(self) -> int:
        """The `u` of the last diff."""
        return self._last[-1][1]

    @property
    def next_first(self) -> int:
        """The `U` of the next diff."""
        return self._published_id + self._jump + 1

    def begin(self) -> None:
        """Tell the truth the whole book."""
        self._venue.truth.add_start(
            self._fact((None, self.last_seq, None), self._levels(self._bids.lots), self._levels(self._asks.lots), True)
        )

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish each match as a trade and each price as an aggregate."""
        now_us = self._venue.clock.us()
        if self._venue.traps.waiting[Prey.CHANGE]:
            self._burn()
        for fill in fills:
            if self._perp and self._rng.random() < FUND:
                for _ in range(self._rng.randint(1, 3)):
                    self.market.match_id += 1
                    self._trade("trade", self.market.match_id, side, fill.price, 1, now_us, cause="INSURANCE_FUND")
            first_id = self.market.match_id + 1
            for lots in fill.matches:
                self.market.match_id += 1
                cause = "MARKET" if self._perp else ""
                self._trade("trade", self.market.match_id, side, fill.price, lots, now_us, cause=cause)
            self._aggregate_id += 1
            lots = sum(fill.matches)
            fact = self._trade("aggTrade", self._aggregate_id, side, fill.price, lots, now_us, first_id=first_id)
            remember(self.history, fact)

    def flush(self) -> float:
        """Publish every level that changed, with its size now; nothing when nothing did."""
        if self.market.update_id != self._published_id:
            self._diff()
        return float("inf")

    def book(self, depth: int) -> BookText:
        """Return the book as it is now.

        That may be in the midst of a diff not yet published: U <= lastUpdateId + 1 <= u.
        """
        bids, asks = self.market.bids, self.market.asks
        best_bids = [(price, bids.lots[price]) for price in reversed(bids.prices[-depth:])]
        best_asks = [(price, asks.lots[price]) for price in asks.prices[:depth]]
        changed = self.market.update_id != self._published_id
        number = self.market.update_id + self._jump if changed else self.last_seq
        return number, list(self._spelled(best_bids)), list(self._spelled(best_asks))

    def book_before(self, diffs: int, depth: int) -> BookText:
        """Return the book as it was so many published diffs ago; 0 is as last published."""
        diffs = min(diffs, len(self._bids.undo))
        bids = sorted(self._bids.before(diffs).items(), reverse=True)[:depth]
        asks = sorted(self._asks.before(diffs).items())[:depth]
        return self._last[-1 - diffs][1], list(self._spelled(bids)), list(self._spelled(asks))

    def _diff(self) -> None:
        struck = None
        if self._venue.traps.waiting[Prey.CHANGE]:
            kinds = ("skip", "overlap") if self._bids.undo else ("skip",)
            struck = self._venue.traps.spring(Prey.CHANGE, self.book_place, kinds=kinds)
        first, before = self.next_first, self.last_seq
        again = False
        if struck is not None and struck[0].kind == "overlap":
            first, again = self._rng.randint(*self._last[-1]), True
        elif struck is not None:
            self.market.update_id += struck[0].count
        bids, asks = self._bids.show(again), self._asks.show(again)
        last = self.market.update_id + self._jump
        if struck is not None:
            self._venue.truth.add_struck(struck[1], Struck(None, "depth@100ms", self.book_place.native_symbol, (last,)))
        self._published_id = self.market.update_id
        if self._perp:
            self._jump += self._rng.choice((0, 1, 3, 12, 40, 700))
        self._last.append((first, last))
        if len(self._last) > 2 * KEPT_DIFFS:
            del self._last[: KEPT_DIFFS - 1]
        numbers = (first, last, before if self._perp else None)
        fact = self._fact(numbers, self._spelled(bids), self._spelled(asks), False)
        self._venue.publish((fact,), lambda micro: book_frame(fact, micro))

    def _burn(self) -> None:
        """Take ids and give them to nothing."""
        struck = self._venue.traps.spring(Prey.CHANGE, self.trade_place, kinds=("skip",))
        if struck is None:
            return
        fault, record = struck
        native = self.market.listing.native_symbol
        market = self.market.listing.market
        for stream, last in (("trade", self.market.match_id), ("aggTrade", self._aggregate_id)):
            ids = tuple(range(last + 1, last + fault.count + 1))
            self._venue.truth.add_burned(("binance", market, stream, native), ids)
            self._venue.truth.add_struck(record, Struck(None, stream, native, ids))
        self.market.match_id += fault.count
        self._aggregate_id += fault.count

    def _levels(self, lots: dict[int, int]) -> Levels:
        return self._spelled(sorted(lots.items()))

    def _spelled(self, levels: Sequence[tuple[int, int]]) -> Levels:
        listing = self.market.listing
        return tuple([(listing.price_text(price), listing.size_text(lots)) for price, lots in levels])

    def _trade(
        self,
        stream: str,
        number: int,
        side: str,
        price: int,
        lots: int,
        ts_us: int,
        *,
        first_id: int | None = None,
        cause: str = "",
    ) -> TradeFact:
        listing = self.market.listing
        fact = TradeFact(
            exchange="binance",
            market=listing.market,
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream=stream,
            id=number,
            price=listing.price_text(price),
            size=listing.size_text(lots),
            side=side,
            ts_us=ts_us,
            first_id=number if first_id is None else first_id,
            last_id=self.market.match_id,
            cause=cause,
        )
        self._venue.publish((fact,), lambda micro: trade_frame(fact, micro))
        return fact

    def _fact(
        self, numbers: tuple[int | None, int, int | None], bids: Levels, asks: Levels, snapshot: bool
    ) -> BookFact:
        listing = self.market.listing
        return BookFact(
            exchange="binance",
            market=listing.market,
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream="depth@100ms",
            first_seq=numbers[0],
            last_seq=numbers[1],
            prev_seq=numbers[2],
            snapshot=snapshot,
            bids=bids,
            asks=asks,
            ts_us=self._venue.clock.us(),
        )


def book_frame(fact: BookFact, micro: bool) -> bytes:
    """Print a diff as a combined stream does. `ts_us` is `E`; USD-M has a `T`, too, which is earlier."""
    native = fact.native_symbol
    bids, asks = (json.dumps(side, separators=(",", ":")) for side in (fact.bids, fact.asks))
    head = f'{{"stream":"{native.lower()}@{fact.stream}","data":{{"e":"depthUpdate",'
    if fact.market == "perp":
        times = f'"E":{fact.ts_us // 1000},"T":{(fact.ts_us - PUSH_DELAY_US) // 1000}'
        numbers = f'"U":{fact.first_seq},"u":{fact.last_seq},"pu":{fact.prev_seq}'
        return f'{head}{times},"s":"{native}",{numbers},"b":{bids},"a":{asks},"ps":"{native}","st":1}}}}'.encode()
    event_time = fact.ts_us if micro else fact.ts_us // 1000
    numbers = f'"U":{fact.first_seq},"u":{fact.last_seq}'
    return f'{head}"E":{event_time},"s":"{native}",{numbers},"b":{bids},"a":{asks}}}}}'.encode()


def trade_frame(fact: TradeFact, micro: bool) -> bytes:
    """Print a trade as a combined stream does."""
    unit = 1 if micro else 1000
    pushed, matched = (fact.ts_us + PUSH_DELAY_US) // unit, fact.ts_us // unit
    native = fact.native_symbol
    head = f'{{"stream":"{native.lower()}@{fact.stream}","data":{{"e":"{fact.stream}","E":{pushed}'
    numbers = f'"p":"{fact.price}","q":"{fact.size}"'
    maker = "true" if fact.side == "sell" else "false"  # m: the buyer was the maker, so the taker sold
    raw = f'"f":{fact.first_id},"l":{fact.last_id}'
    if fact.market == "perp" and fact.stream == "trade":
        body = f'"T":{matched},"s":"{native}","t":{fact.id},{numbers},"X":"{fact.cause}","m":{maker}'
    elif fact.market == "perp":
        body = f'"s":"{native}","a":{fact.id},{numbers},"nq":"{fact.size}",{raw},"T":{matched},"m":{maker},"st":1'
    elif fact.stream == "trade":
        body = f'"s":"{native}","t":{fact.id},{numbers},"T":{matched},"m":{maker},"M":true'
    else:
        body = f'"s":"{native}","a":{fact.id},{numbers},{raw},"T":{matched},"m":{maker},"M":true'
    return f"{head},{body}}}}}".encode()
