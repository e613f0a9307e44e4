"""Simulated OKX spot: its WebSockets (protocols.md 4.1 to 4.5). REST is in `okx_rest`.

https://www.okx.com/docs-v5/en/#overview-websocket
"""

import json
from collections import deque
from typing import Any

import trio

from collector_trio.sim.audience import Audience, Subscription
from collector_trio.sim.connection import Connection
from collector_trio.sim.feed import KEPT_TRADES, Clock
from collector_trio.sim.market import Fill, Ladder, Market
from collector_trio.sim.truth import BookFact, Levels, TradeFact, Truth
from collector_trio.sim.venue import Venue

DEPTH = 400
IDLE_S = 30.0
HEARTBEAT_S = 60.0
REQUESTS_PER_HOUR = 480

PUBLIC = frozenset({"books", "trades", "tickers", "bbo-tbt", "books5", "books-rpi", "instruments", "status"})
BUSINESS = frozenset({"trades-all", "candle1s", "candle1m", "candle5m", "candle1H", "candle1D"})
UNBOUND = frozenset({"instruments", "status"})
TIERED = frozenset({"books-l2-tbt", "books50-l2-tbt"})


class OkxTape:
    """Publishes a market as OKX does.

    `trades-all`, `trades`, and `books`: the best 400 levels a side, chained by seqId.
    """

    def __init__(self, market: Market, audience: Audience, truth: Truth, clock: Clock) -> None:
        self.market = market
        self.history: deque[TradeFact] = deque(maxlen=KEPT_TRADES)
        self._audience = audience
        self._truth = truth
        self._clock = clock
        self._seen_id = market.update_id
        self._seq = market.update_id
        self._bids = self._view(market.bids, best_last=True)
        self._asks = self._view(market.asks, best_last=False)
        self._published_at = trio.current_time()

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish each match in trades-all and each price in trades."""
        now_us = self._clock.us() // 1000 * 1000
        for fill in fills:
            first_id = self.market.match_id + 1
            for lots in fill.matches:
                self.market.match_id += 1
                fact = self._trade("trades-all", side, fill.price, lots, now_us, self.market.match_id)
                self.history.append(fact)
            self._trade("trades", side, fill.price, sum(fill.matches), now_us, first_id)

    def flush(self) -> float:
        """Publish how the best 400 levels changed, or a heartbeat after a minute without change.

        New subscribers get them whole.
        """
        self.market.bids.changes()
        self.market.asks.changes()
        now = trio.current_time()
        fact = None
        if self.market.update_id != self._seen_id:
            fact = self._change()
        elif now - self._published_at >= HEARTBEAT_S - 0.001:  # what is left may be too little for a clock to show
            fact = self._fact(self._seq, (), ())
        if fact is not None:
            self._published_at = now
            self._truth.published["okx", "books", fact.native_symbol] += 1
        self._send(fact)
        return self._published_at + HEARTBEAT_S - now

    def book(self, depth: int) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the book as last published; REST shares the WebSocket's numbers and is answered from a cache."""
        return self._seq, list(self._levels(self._bids))[:depth], list(self._levels(self._asks))[:depth]

    def _change(self) -> BookFact | None:
        bids, asks = self._view(self.market.bids, best_last=True), self._view(self.market.asks, best_last=False)
        bid_changes, ask_changes = _difference(self._bids, bids), _difference(self._asks, asks)
        # Real numbers step by 3 to 960, never by 1 (measured 2026-09-05): the counter also counts what nobody sees.
        step = 3 * (self.market.update_id - self._seen_id)
        self._seen_id = self.market.update_id
        self._bids, self._asks = bids, asks
        if not bid_changes and not ask_changes:
            return None
        before, self._seq = self._seq, self._seq + step
        return self._fact(before, self._levels(bid_changes), self._levels(ask_changes))

    def _send(self, fact: BookFact | None) -> None:
        update = None if fact is None else book_frame(fact)
        for subscription in self._audience.of("books", self.market.listing.native_symbol):
            if not subscription.started:
                if not subscription.connection.stalled:
                    subscription.started = True
                    whole = self._fact(-1, self._levels(self._bids), self._levels(self._asks), snapshot=True)
                    subscription.connection.publish(subscription, book_frame(whole), whole)
            elif fact is not None and update is not None:
                subscription.connection.publish(subscription, update, fact)

    def _trade(self, stream: str, side: str, price: int, lots: int, ts_us: int, first_id: int) -> TradeFact:
        listing = self.market.listing
        fact = TradeFact(
            exchange="okx",
            market="spot",
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
        )
        self._truth.published["okx", stream, fact.native_symbol] += 1
        subscriptions = self._audience.of(stream, fact.native_symbol)
        if subscriptions:
            text = trade_frame(fact, self._seq)
            for subscription in subscriptions:
                subscription.connection.publish(subscription, text, fact)
        return fact

    def _fact(self, prev_seq: int, bids: Levels, asks: Levels, *, snapshot: bool = False) -> BookFact:
        listing = self.market.listing
        return BookFact(
            exchange="okx",
            market="spot",
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream="books",
            first_seq=None,
            last_seq=self._seq,
            prev_seq=prev_seq,
            snapshot=snapshot,
            bids=bids,
            asks=asks,
            ts_us=self._clock.us() // 1000 * 1000,
        )

    def _levels(self, levels: dict[int, int]) -> Levels:
        listing = self.market.listing
        return tuple((listing.price_text(price), listing.size_text(lots)) for price, lots in levels.items())

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


def trade_frame(fact: TradeFact, seq: int) -> bytes:
    """Print one trade; `trades` says how many matches it covers and where the book was."""
    more = f',"count":"{fact.last_id - fact.first_id + 1}"' if fact.stream == "trades" else ""
    tail = f',"seqId":{seq}' if fact.stream == "trades" else ""
    return (
        f'{{"arg":{{"channel":"{fact.stream}","instId":"{fact.native_symbol}"}},"data":[{{'
        f'"instId":"{fact.native_symbol}","tradeId":"{fact.id}","px":"{fact.price}","sz":"{fact.size}",'
        f'"side":"{fact.side}","ts":"{fact.ts_us // 1000}"{more},"source":"0"{tail}}}]}}'
    ).encode()


class OkxSession:
    """One connection to /public or /business: control messages, limits and the idle rule."""

    MAX_MESSAGE_BYTES = 64 * 1024

    def __init__(self, venue: Venue, connection: Connection) -> None:
        self._venue = venue
        self._connection = connection
        self._business = connection.endpoint == "okx.business"
        self._requests: deque[float] = deque(maxlen=REQUESTS_PER_HOUR)
        self.conn_id = f"{connection.record.conn:08x}"

    def heard(self) -> None:
        """OKX has no limit on messages as such."""

    def ponged(self, payload: bytes) -> None:
        """OKX sends no protocol pings, so there is nothing to compare with."""

    async def keep(self) -> None:
        """Close when nothing was pushed for 30 s, be it data, an ack or a pong in words.

        A stall (the fault) is not held against the client.
        """
        while True:
            quiet_since = max(self._connection.last_push, self._connection.stalled_until)
            if trio.current_time() >= quiet_since + IDLE_S:
                self._connection.end("close", 4004, "No data received in 30s.")
                return
            await trio.sleep_until(quiet_since + IDLE_S)

    def left(self) -> None:
        """Forget the subscriptions."""
        self._venue.audience.leave(self._connection)

    def received(self, text: str) -> None:
        """Answer a request: https://www.okx.com/docs-v5/en/#overview-websocket-subscribe"""
        if text == "ping":
            self._connection.say("pong")
            return
        try:
            request = json.loads(text)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            self._refuse("60012", f"Invalid request: {text[:200]}", None)
            return
        number, op, args = request.get("id"), request.get("op"), request.get("args")
        if number is not None and not (isinstance(number, str) and number.isalnum() and len(number) <= 32):
            self._refuse("60033", "Parameter id error", None)
        elif op not in ("subscribe", "unsubscribe"):
            self._refuse("60019" if isinstance(op, str) else "60012", f"Invalid op: {op}", number)
        elif not isinstance(args, list) or not args or not all(isinstance(arg, dict) for arg in args):
            self._refuse("60013", "Invalid args", number)
        elif self._too_often():
            self._refuse("60014", "Requests too frequent", number)
        else:
            for arg in args:
                self._serve(op, arg, number)

    def _too_often(self) -> bool:
        now = trio.current_time()
        if len(self._requests) == REQUESTS_PER_HOUR and now - self._requests[0] < 3600:
            return True
        self._requests.append(now)
        return False

    def _serve(self, op: str, arg: dict[str, Any], number: str | None) -> None:
        """Answer for one arg: each has its own ack or error."""
        channel, native = str(arg.get("channel", "")), str(arg.get("instId", ""))
        here, there = (BUSINESS, PUBLIC) if self._business else (PUBLIC, BUSINESS)
        listed = native in self._venue.native_symbols
        if channel in there | TIERED and self._business and channel not in here:
            self._refuse("64002", 'This channel is not supported by "/business" URL. Please use "/public" URL.', number)
        elif channel in there:
            self._refuse(
                "64001", 'This channel has been migrated to the "/business" URL. Please use the new URL.', number
            )
        elif channel in TIERED:
            self._refuse("64003", "Your trading fee tier doesn't meet the requirement to access this channel", number)
        elif channel not in here or not (listed or ("instId" not in arg and channel in UNBOUND)):
            about = f"Wrong URL or channel:{channel},instId:{native} doesn't exist."
            self._refuse(
                "60018",
                f"{about} Please use the correct URL, channel and parameters referring to API document.",
                number,
            )
        else:
            # The ack comes first: a snapshot must not overtake it.
            self._say({"id": number, "event": op, "arg": arg, "connId": self.conn_id})
            if op == "subscribe" and listed:
                self._venue.subscribe(Subscription(self._connection, channel, native))
            elif op == "unsubscribe":
                self._venue.audience.remove(self._connection, channel, native)

    def _refuse(self, code: str, msg: str, number: str | None) -> None:
        self._say({"id": number, "event": "error", "code": code, "msg": msg, "connId": self.conn_id})

    def _say(self, answer: dict[str, Any]) -> None:
        if answer["id"] is None:
            del answer["id"]
        self._connection.say(json.dumps(answer, separators=(",", ":")))
