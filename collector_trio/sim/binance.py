"""Simulated Binance spot: its WebSocket (protocols.md 1.1 to 1.5). REST is in `binance_rest`.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

import json
import re
from collections import deque
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trio

from collector_trio.sim.audience import Audience, Subscription
from collector_trio.sim.connection import Connection
from collector_trio.sim.feed import KEPT_TRADES, Clock
from collector_trio.sim.market import Fill, Market
from collector_trio.sim.truth import BookFact, Levels, TradeFact, Truth
from collector_trio.sim.venue import Venue

PING_EVERY_S = 20.0
PONG_WITHIN_S = 60.0
MESSAGES_PER_S = 5
MAX_STREAMS = 1024
# The stream server's clock is this much behind the matching engine's: `E` and `T` differ on the wire, too.
PUSH_DELAY_US = 2000

# What the real server takes for a stream's name, whether or not there is such a stream [M 2026-08-29].
STREAM = re.compile(r"(?:![A-Za-z]\w*|[^\s@#!/]+)(?:@[A-Za-z0-9_+:]+)*")


class BinanceTape:
    """Publishes a market as Binance does: `aggTrade`, `trade`, and `depth@100ms`.

    Ids are the market's, not a connection's: `U..u`, `a` and `t` chain over all connections and reconnects.
    """

    def __init__(self, market: Market, audience: Audience, truth: Truth, clock: Clock) -> None:
        self.market = market
        self.history: deque[TradeFact] = deque(maxlen=KEPT_TRADES)
        self._audience = audience
        self._truth = truth
        self._clock = clock
        self._aggregate_id = market.match_id // 2
        self._published_id = market.update_id

    def order(self, side: str, fills: list[Fill]) -> None:
        """Publish each match as a trade and each price as an aggregate."""
        now_us = self._clock.us()
        for fill in fills:
            first_id = self.market.match_id + 1
            for lots in fill.matches:
                self.market.match_id += 1
                self._trade("trade", self.market.match_id, side, fill.price, lots, now_us, self.market.match_id)
            self._aggregate_id += 1
            fact = self._trade("aggTrade", self._aggregate_id, side, fill.price, sum(fill.matches), now_us, first_id)
            self.history.append(fact)

    def flush(self) -> float:
        """Publish every level that changed, with its size now; nothing when nothing did."""
        bids, asks = self._levels(self.market.bids.changes()), self._levels(self.market.asks.changes())
        if self.market.update_id == self._published_id:
            return float("inf")
        listing = self.market.listing
        fact = BookFact(
            exchange="binance",
            market="spot",
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream="depth@100ms",
            first_seq=self._published_id + 1,
            last_seq=self.market.update_id,
            prev_seq=None,
            snapshot=False,
            bids=bids,
            asks=asks,
            ts_us=self._clock.us(),
        )
        self._published_id = self.market.update_id
        self._publish(fact)
        return float("inf")

    def book(self, depth: int) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the book as it is now.

        That may be in the midst of a diff not yet published: U <= lastUpdateId + 1 <= u.
        """
        bids, asks = self.market.bids, self.market.asks
        best_bids = [(price, bids.lots[price]) for price in reversed(bids.prices[-depth:])]
        best_asks = [(price, asks.lots[price]) for price in asks.prices[:depth]]
        return self.market.update_id, list(self._levels(best_bids)), list(self._levels(best_asks))

    def _levels(self, levels: list[tuple[int, int]]) -> Levels:
        listing = self.market.listing
        return tuple((listing.price_text(price), listing.size_text(lots)) for price, lots in levels)

    def _trade(
        self, stream: str, number: int, side: str, price: int, lots: int, ts_us: int, first_id: int
    ) -> TradeFact:
        listing = self.market.listing
        fact = TradeFact(
            exchange="binance",
            market="spot",
            symbol=listing.symbol,
            native_symbol=listing.native_symbol,
            stream=stream,
            id=number,
            price=listing.price_text(price),
            size=listing.size_text(lots),
            side=side,
            ts_us=ts_us,
            first_id=first_id,
            last_id=self.market.match_id,
        )
        self._publish(fact)
        return fact

    def _publish(self, fact: TradeFact | BookFact) -> None:
        self._truth.published["binance", fact.stream, fact.native_symbol] += 1
        frames: dict[bool, bytes] = {}
        for subscription in self._audience.of(fact.stream, fact.native_symbol):
            micro = subscription.micro
            if micro not in frames:
                frames[micro] = frame(fact, micro)
            subscription.connection.publish(subscription, frames[micro], fact)


def frame(fact: TradeFact | BookFact, micro: bool) -> bytes:
    """Print a fact as a combined stream does."""
    unit = 1 if micro else 1000
    event_time = (fact.ts_us + (PUSH_DELAY_US if isinstance(fact, TradeFact) else 0)) // unit
    head = f'{{"stream":"{fact.native_symbol.lower()}@{fact.stream}","data":{{"e":'
    if isinstance(fact, BookFact):
        bids, asks = (json.dumps(side, separators=(",", ":")) for side in (fact.bids, fact.asks))
        body = f'"depthUpdate","E":{event_time},"s":"{fact.native_symbol}","U":{fact.first_seq},"u":{fact.last_seq},'
        return f'{head}{body}"b":{bids},"a":{asks}}}}}'.encode()
    maker = "true" if fact.side == "sell" else "false"  # m: the buyer was the maker, so the taker sold
    tail = f'"T":{fact.ts_us // unit},"m":{maker},"M":true}}}}'
    body = f'"E":{event_time},"s":"{fact.native_symbol}"'
    numbers = f'"p":"{fact.price}","q":"{fact.size}"'
    if fact.stream == "trade":
        return f'{head}"trade",{body},"t":{fact.id},{numbers},{tail}'.encode()
    return f'{head}"aggTrade",{body},"a":{fact.id},{numbers},"f":{fact.first_id},"l":{fact.last_id},{tail}'.encode()


class BinanceSession:
    """One connection to `/stream`: control messages, limits and pings."""

    MAX_MESSAGE_BYTES = 2**20

    def __init__(self, venue: Venue, connection: Connection, target: str) -> None:
        self._venue = venue
        self._connection = connection
        self._streams: dict[str, None] = {}
        self._heard: deque[float] = deque(maxlen=MESSAGES_PER_S)
        self._unanswered: dict[bytes, float] = {}
        query = dict(parse_qsl(urlsplit(target).query))
        self._micro = query.get("timeUnit", "").upper() == "MICROSECOND"
        self._subscribe([name for name in query.get("streams", "").split("/") if name], None)

    def heard(self) -> None:
        """Close when more than five messages come within a second; pings and pongs count."""
        now = trio.current_time()
        if len(self._heard) == MESSAGES_PER_S and now - self._heard[0] < 1:
            self._connection.end("close", 1008, "Too many requests")
        self._heard.append(now)

    def ponged(self, payload: bytes) -> None:
        """Take a pong; only one with the payload of a ping counts, and then for the earlier ones, too."""
        if payload in self._unanswered:
            for earlier in list(self._unanswered):
                del self._unanswered[earlier]
                if earlier == payload:
                    break

    async def keep(self) -> None:
        """Ping every 20 s, and close when a ping is without its pong for 60 s."""
        next_ping = trio.current_time() + PING_EVERY_S
        while True:
            oldest = min(self._unanswered.values(), default=float("inf"))
            await trio.sleep_until(min(next_ping, oldest + PONG_WITHIN_S))
            now = trio.current_time()
            if any(sent + PONG_WITHIN_S <= now for sent in self._unanswered.values()):
                self._connection.end("close", 1008, "Pong timeout")
            if now >= next_ping:
                payload = str(self._venue.clock.ms()).encode()
                self._unanswered[payload] = now
                self._connection.ping(payload)
                next_ping += PING_EVERY_S

    def left(self) -> None:
        """Forget the subscriptions."""
        self._venue.audience.leave(self._connection)

    def received(self, text: str) -> None:
        """Answer a request.

        https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#live-subscribingunsubscribing-to-streams
        """
        try:
            request = json.loads(text)
        except ValueError:
            self._refuse(3, "Invalid JSON: expected value at line 1 column 1", None)
            return
        if not isinstance(request, dict):
            self._refuse(2, "Invalid request: request must be an object", None)
            return
        number, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if not (number is None or isinstance(number, (int, str))) or len(str(number)) > 36:
            self._refuse(2, "Invalid request: request ID must be an unsigned integer, string or null", None)
        elif method == "LIST_SUBSCRIPTIONS":
            self._answer(list(self._streams), number)
        elif method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            known = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`"
            self._refuse(2, f"Invalid request: unknown variant `{method}`, expected one of {known}", number)
        elif not isinstance(params, list) or not params or not all(isinstance(name, str) for name in params):
            self._refuse(2, "Invalid request: invalid stream", number)
        elif method == "UNSUBSCRIBE":
            self._unsubscribe(params)
            self._answer(None, number)
        elif self._subscribe(params, number):
            self._answer(None, number)

    def _subscribe(self, names: list[str], number: int | str | None) -> bool:
        """Subscribe to well-formed names, real or not; anything else costs the connection."""
        if not all(STREAM.fullmatch(name) for name in names):
            self._refuse(2, "Invalid request: invalid stream", number)
            self._connection.end("close", 1008, "Invalid request")
            return False
        if len(self._streams.keys() | set(names)) > MAX_STREAMS:
            self._refuse(4, "Too many subscriptions", number)
            self._connection.end("close", 1008, "Too many subscriptions")
            return False
        for name in names:
            self._streams[name] = None
            symbol, stream = self._split(name)
            if symbol:
                self._venue.subscribe(Subscription(self._connection, stream, symbol, self._micro))
        return True

    def _unsubscribe(self, names: list[str]) -> None:
        for name in names:
            self._streams.pop(name, None)
            symbol, stream = self._split(name)
            self._venue.audience.remove(self._connection, stream, symbol)

    def _split(self, name: str) -> tuple[str, str]:
        """Split "btcusdt@depth@100ms" into the listed symbol and the stream.

        No symbol where it is not listed or in capitals.
        """
        lower, _, stream = name.partition("@")
        symbol = lower.upper() if lower == lower.lower() else ""
        return (symbol if symbol in self._venue.native_symbols else ""), stream

    def _answer(self, result: Any, number: int | str | None) -> None:
        self._connection.say(json.dumps({"result": result, "id": number}, separators=(",", ":")))

    def _refuse(self, code: int, msg: str, number: int | str | None) -> None:
        """Send an error in the nested shape, which is what the wire has (protocols.md 1.3)."""
        error = {"error": {"code": code, "msg": msg}}
        answer = error if number is None else {**error, "id": number}
        self._connection.say(json.dumps(answer, separators=(",", ":")))
