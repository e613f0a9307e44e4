"""How OKX publishes a market (protocols.md 4.4, 4.5): `trades-all`, `trades`, and `books`, 400 levels a side.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel
"""

import json
from collections.abc import Sequence
from random import Random

import trio

from collector_trio.sim.connection import text_frame
from collector_trio.sim.facts import BookFact, Levels, TradeFact
from collector_trio.sim.fault import Fault, Place, Prey
from collector_trio.sim.feed import BookText, remember
from collector_trio.sim.market import Fill, Ladder, Market
from collector_trio.sim.mishaps import DataFrame
from collector_trio.sim.truth import FaultRecord, Struck
from collector_trio.sim.venue import Venue, place_of

DEPTH = 400
HEARTBEAT_S = 60.0
TOGETHER = 0.25  # how often the matches of one taker come in one frame

CHANGES = ("skip", "reset", "reset_unchained", "snapshot_unsolicited")  # faults that need a change to strike


class OkxTape:
    """Publishes one market. Its book is chained by seqId, on all connections alike."""

    def __init__(self, market: Market, venue: Venue, rng: Random) -> None:
        self.market = market
        self.history: list[TradeFact] = []
        self._venue = venue
        self._rng = rng
        self._seen_id = market.update_id
        self._seq = market.update_id
        self._bids = self._view(market.bids, best_last=True)
        self._asks = self._view(market.asks, best_last=False)
        self._published_at = trio.current_time()
        self._heals = False  # a snapshot is to follow the next update
        self.book_place = place_of("okx.public", market.listing, "books")
        self._trade_places = (
            place_of("okx.business", market.listing, "trades-all"),
            place_of("okx.public", market.listing, "trades"),
        )

    @property
    def places(self) -> Sequence[Place]:
        """Where faults may strike."""
        return self.book_place, *self._trade_places

    def begin(self) -> None:
        """Tell the truth the whole book."""
        self._venue.truth.add_start(self._whole())

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish each match in trades-all, now and then several in one frame, and each price in trades."""
        now_us = self._venue.clock.us() // 1000 * 1000
        if self._venue.traps.waiting[Prey.CHANGE]:
            self._burn()
        together = self._rng.random() < TOGETHER
        matches: list[TradeFact] = []
        aggregates: list[TradeFact] = []
        for fill in fills:
            first_id = self.market.match_id + 1
            for lots in fill.matches:
                self.market.match_id += 1
                matches.append(self._trade("trades-all", side, fill.price, lots, now_us, self.market.match_id))
            aggregates.append(self._trade("trades", side, fill.price, sum(fill.matches), now_us, first_id))
        for fact in matches:
            remember(self.history, fact)
        for frame in [matches] if together else [[fact] for fact in matches]:
            self._publish_trades(tuple(frame))
        for fact in aggregates:
            self._publish_trades((fact,))

    def flush(self) -> float:
        """Publish how the best 400 levels changed, or a heartbeat after a minute without change.

        New subscribers get them whole.
        """
        self.market.bids.changes()
        self.market.asks.changes()
        now = trio.current_time()
        facts: list[BookFact] = []
        if self.market.update_id != self._seen_id:
            facts = self._change()
        elif now - self._published_at >= HEARTBEAT_S - 0.001:  # what is left may be too little for a clock to show
            facts = [self._fact(self._seq, (), ())]
        if self._venue.traps.waiting[Prey.CHANGE] and (struck := self._struck("heartbeat")) is not None:
            facts.append(self._fact(self._seq, (), ()))
            self._note(struck[1])
        if facts:
            self._published_at = now
        for fact in facts:
            self._publish_book(fact)
        self._begin_subscriptions()
        return self._published_at + HEARTBEAT_S - now

    def book(self, depth: int) -> BookText:
        """Return the book as last published; REST shares the WebSocket's numbers and is answered from a cache."""
        return self._seq, list(self._levels(self._bids))[:depth], list(self._levels(self._asks))[:depth]

    def _change(self) -> list[BookFact]:
        """Say how the best 400 levels changed. Nothing where they did not, or where a fault keeps it from everybody."""
        bids, asks = self._view(self.market.bids, best_last=True), self._view(self.market.asks, best_last=False)
        bid_changes, ask_changes = _difference(self._bids, bids), _difference(self._asks, asks)
        # Real numbers step by 3 to 960, never by 1 (measured 2026-09-05): the counter also counts what nobody sees.
        step = 3 * (self.market.update_id - self._seen_id)
        self._seen_id = self.market.update_id
        self._bids, self._asks = bids, asks
        if not bid_changes and not ask_changes:
            return []
        before, self._seq = self._seq, self._seq + step
        struck = self._struck(*CHANGES) if self._venue.traps.waiting[Prey.CHANGE] else None
        if struck is None:
            facts = [self._fact(before, self._levels(bid_changes), self._levels(ask_changes))]
            if self._heals:
                facts.append(self._whole())
                self._heals = False
            return facts
        fault, record = struck
        if fault.kind == "skip":
            self._seq += fault.count
        elif fault.kind.startswith("reset"):
            self._seq = self._rng.randint(before * 99 // 100, before * 999 // 1000)
        self._note(record)
        if fault.kind == "snapshot_unsolicited":
            return [self._whole()]
        if fault.kind == "reset_unchained":
            self._heals = fault.snapshot
            self._venue.truth.add_start(self._whole())
            return []
        return [self._fact(before, self._levels(bid_changes), self._levels(ask_changes))]

    def _begin_subscriptions(self) -> None:
        """Send the whole book to whoever does not have it yet, or let a fault withhold it."""
        frame = None
        for subscription in self._venue.audience.of("books", self.market.listing.native_symbol):
            if subscription.started or subscription.connection.stalled:
                continue
            subscription.started = True
            struck = self._venue.traps.spring(Prey.SUBSCRIPTION, self.book_place, subscription.connection)
            if struck is not None:
                self._note(struck[1], subscription.connection.record.conn)
                continue
            if frame is None:
                whole = self._whole()
                frame = DataFrame(text_frame(book_frame(whole)), (whole,))
            self._venue.mishaps.carry(subscription, frame)

    def _burn(self) -> None:
        """Take ids and give them to nothing."""
        for place in self._trade_places:
            struck = self._venue.traps.spring(Prey.CHANGE, place, kinds=("skip",))
            if struck is None:
                continue
            fault, record = struck
            native, market = place.native_symbol, place.market
            ids = tuple(range(self.market.match_id + 1, self.market.match_id + fault.count + 1))
            self.market.match_id += fault.count
            for stream in ("trades-all", "trades"):
                self._venue.truth.add_burned(("okx", market, stream, native), ids)
                self._venue.truth.add_struck(record, Struck(None, stream, native, ids))

    def _struck(self, *kinds: str) -> tuple[Fault, FaultRecord] | None:
        return self._venue.traps.spring(Prey.CHANGE, self.book_place, kinds=kinds)

    def _note(self, record: FaultRecord, conn: int | None = None) -> None:
        self._venue.truth.add_struck(record, Struck(conn, "books", self.book_place.native_symbol, (self._seq,)))

    def _publish_book(self, fact: BookFact) -> None:
        self._venue.publish((fact,), lambda micro: book_frame(fact), begun=True)

    def _publish_trades(self, facts: tuple[TradeFact, ...]) -> None:
        self._venue.publish(facts, lambda micro: trade_frame(facts, self._seq))

    def _trade(self, stream: str, side: str, price: int, lots: int, ts_us: int, first_id: int) -> TradeFact:
        listing = self.market.listing
        return TradeFact(
            exchange="okx",
            market=listing.market,
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream=stream,
            id=self.market.match_id,
            price=listing.price_text(price),
            size=listing.size_text(lots),
            side=side,
            ts_us=ts_us,
            first_id=first_id,
            last_id=self.market.match_id,
            contract_size=listing.contract_size,
        )

    def _whole(self) -> BookFact:
        return self._fact(-1, self._levels(self._bids), self._levels(self._asks), snapshot=True)

    def _fact(self, prev_seq: int, bids: Levels, asks: Levels, *, snapshot: bool = False) -> BookFact:
        listing = self.market.listing
        return BookFact(
            exchange="okx",
            market=listing.market,
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream="books",
            first_seq=None,
            last_seq=self._seq,
            prev_seq=prev_seq,
            snapshot=snapshot,
            bids=bids,
            asks=asks,
            ts_us=self._venue.clock.us() // 1000 * 1000,
            contract_size=listing.contract_size,
        )

    def _levels(self, levels: dict[int, int]) -> Levels:
        listing = self.market.listing
        return tuple([(listing.price_text(price), listing.size_text(lots)) for price, lots in levels.items()])

    @staticmethod
    def _view(ladder: Ladder, *, best_last: bool) -> dict[int, int]:
        prices = ladder.prices[-DEPTH:][::-1] if best_last else ladder.prices[:DEPTH]
        return {price: ladder.lots[price] for price in prices}


def _difference(old: dict[int, int], new: dict[int, int]) -> dict[int, int]:
    """Say what leads from `old` to `new`: prices with their size.

    That is sizes that are new or other, and 0 for what is no longer among the best 400.
    """
    changed = {price: lots for price, lots in new.items() if old.get(price) != lots}
    changed.update((price, 0) for price in old.keys() - new.keys())
    return dict(sorted(changed.items()))


def book_frame(fact: BookFact) -> bytes:
    """Print a book message; the number of orders in a level is made up from its size."""
    sides = [
        json.dumps([[price, size, "0", order_count(size)] for price, size in side], separators=(",", ":"))
        for side in (fact.asks, fact.bids)
    ]
    action = "snapshot" if fact.snapshot else "update"
    return (
        f'{{"arg":{{"channel":"books","instId":"{fact.native_symbol}"}},"action":"{action}","data":[{{'
        f'"asks":{sides[0]},"bids":{sides[1]},"ts":"{fact.ts_us // 1000}","checksum":0,'
        f'"seqId":{fact.last_seq},"prevSeqId":{fact.prev_seq}}}]}}'
    ).encode()


def order_count(size: str) -> str:
    """Make up how many orders there are in a level."""
    return "0" if size == "0" else str(1 + ord(size[-1]) % 7)


def trade_frame(facts: Sequence[TradeFact], seq: int) -> bytes:
    """Print trades; `trades` says how many matches each covers and where the book was."""
    data = ",".join([_trade_text(fact, seq) for fact in facts])
    one = facts[0]
    return f'{{"arg":{{"channel":"{one.stream}","instId":"{one.native_symbol}"}},"data":[{data}]}}'.encode()


def _trade_text(fact: TradeFact, seq: int) -> str:
    more = f',"count":"{fact.last_id - fact.first_id + 1}"' if fact.stream == "trades" else ""
    tail = f',"seqId":{seq}' if fact.stream == "trades" else ""
    return (
        f'{{"instId":"{fact.native_symbol}","tradeId":"{fact.id}","px":"{fact.price}","sz":"{fact.size}",'
        f'"side":"{fact.side}","ts":"{fact.ts_us // 1000}"{more},"source":"0"{tail}}}'
    )
