"""Simulated Binance's WebSockets: spot (protocols.md 1.1 to 1.3) and USD-M futures (2.1, 2.2).

How it publishes is in `binance_tape`, REST in `binance_rest`.
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs
import trio

from collector_trio.sim.connection import Connection
from collector_trio.sim.venue import Venue

MAX_STREAMS = 1024

# What the real server takes for a stream's name, whether or not there is such a stream [M 2026-08-29].
STREAM = re.compile(r"(?:![A-Za-z]\w*|[^\s@#!/]+)(?:@[A-Za-z0-9_+:]+)*")
# What USD-M sends on /public; everything else is on /market.
PUBLIC = ("depth", "bookTicker", "rpiDepth", "trade")


@attrs.frozen
class Rules:
    """What holds on one endpoint. `carries` tells whether a stream is ever sent there; any is acknowledged."""

    ping_every_s: float
    pong_within_s: float
    messages_per_s: int
    micro: bool
    carries: Callable[[str], bool]


RULES: Mapping[str, Rules] = {
    "binance.spot": Rules(20.0, 60.0, 5, True, lambda stream: True),
    "binance.perp.public": Rules(180.0, 600.0, 10, False, lambda stream: stream.startswith(PUBLIC)),
    "binance.perp.market": Rules(180.0, 600.0, 10, False, lambda stream: not stream.startswith(PUBLIC)),
}


class BinanceSession:
    """One connection to a `…/stream`: control messages, limits and pings."""

    MAX_MESSAGE_BYTES = 2**20

    def __init__(self, venue: Venue, connection: Connection, target: str) -> None:
        self._venue = venue
        self._connection = connection
        self._rules = RULES[connection.endpoint]
        self._streams: dict[str, None] = {}
        self._heard: deque[float] = deque(maxlen=self._rules.messages_per_s)
        self._unanswered: dict[bytes, float] = {}
        query = dict(parse_qsl(urlsplit(target).query))
        self._micro = self._rules.micro and query.get("timeUnit", "").upper() == "MICROSECOND"
        self._subscribe([name for name in query.get("streams", "").split("/") if name], None)

    def heard(self) -> None:
        """Close when more messages come within a second than the rules allow; pings and pongs count."""
        now = trio.current_time()
        if len(self._heard) == self._heard.maxlen and now - self._heard[0] < 1:
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
        """Ping as often as the rules say, and close when a ping is without its pong for too long."""
        every_s, within_s = self._rules.ping_every_s, self._rules.pong_within_s
        next_ping = trio.current_time() + every_s
        while True:
            oldest = min(self._unanswered.values(), default=float("inf"))
            await trio.sleep_until(min(next_ping, oldest + within_s))
            now = trio.current_time()
            if any(sent + within_s <= now for sent in self._unanswered.values()):
                self._connection.end("close", 1008, "Pong timeout")
            if now >= next_ping:
                payload = str(self._venue.clock.ms()).encode()
                self._unanswered[payload] = now
                self._connection.ping(payload)
                next_ping += every_s

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
            if symbol and self._rules.carries(stream):
                self._venue.subscribe(self._connection, stream, symbol, micro=self._micro)
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
        return (symbol if symbol in self._venue.listings else ""), stream

    def _answer(self, result: Any, number: int | str | None) -> None:
        self._connection.say(json.dumps({"result": result, "id": number}, separators=(",", ":")))

    def _refuse(self, code: int, msg: str, number: int | str | None) -> None:
        """Send an error in the nested shape, which is what the wire has (protocols.md 1.3)."""
        error = {"error": {"code": code, "msg": msg}}
        answer = error if number is None else {**error, "id": number}
        self._connection.say(json.dumps(answer, separators=(",", ":")))
