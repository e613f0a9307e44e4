"""Simulated OKX's WebSockets, for spot and swaps alike (protocols.md 4.1 to 4.3).

How it publishes is in `okx_tape`, REST in `okx_rest`.
https://www.okx.com/docs-v5/en/#overview-websocket
"""

import json
from collections import deque
from typing import Any

import trio

from collector_trio.sim.connection import Connection
from collector_trio.sim.venue import Venue

IDLE_S = 30.0
REQUESTS_PER_HOUR = 480

PUBLIC = frozenset({"books", "trades", "tickers", "bbo-tbt", "books5", "books-rpi", "instruments", "status"})
BUSINESS = frozenset({"trades-all", "candle1s", "candle1m", "candle5m", "candle1H", "candle1D"})
UNBOUND = frozenset({"instruments", "status"})
TIERED = frozenset({"books-l2-tbt", "books50-l2-tbt"})


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
        listed = native in self._venue.listings
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
                self._venue.subscribe(self._connection, channel, native)
            elif op == "unsubscribe":
                self._venue.audience.remove(self._connection, channel, native)

    def _refuse(self, code: str, msg: str, number: str | None) -> None:
        self._say({"id": number, "event": "error", "code": code, "msg": msg, "connId": self.conn_id})

    def _say(self, answer: dict[str, Any]) -> None:
        if answer["id"] is None:
            del answer["id"]
        self._connection.say(json.dumps(answer, separators=(",", ":")))
