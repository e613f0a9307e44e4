"""Simulated OKX REST (protocols.md 4.6 to 4.8).

Errors come as HTTP 200 with a code: https://www.okx.com/docs-v5/en/#overview-rest
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from collector_trio.sim.facts import TradeFact
from collector_trio.sim.http import Answer, Request
from collector_trio.sim.market import Listing
from collector_trio.sim.okx_tape import DEPTH, order_count
from collector_trio.sim.police import Police
from collector_trio.sim.venue import Venue

MARKETS = {"SPOT": "spot", "SWAP": "perp"}
INST_TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS")


class OkxRest:
    """Answers under /api/v5/."""

    def __init__(self, venue: Venue, police: Police, maintained_ns: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """`maintained_ns` tells from when to when there is maintenance, in nanoseconds since the epoch."""
        self._venue = venue
        self._maintained_ns = maintained_ns
        self._police = police
        self._calls: Mapping[str, Callable[[Request], Answer]] = {
            "/api/v5/public/time": self._time,
            "/api/v5/system/status": self._status,
            "/api/v5/public/instruments": self._instruments,
            "/api/v5/market/books": self._books,
            "/api/v5/market/history-trades": self._history_trades,
        }

    def answer(self, request: Request) -> Answer:
        """Answer one request; an unknown path gets 404."""
        call = self._calls.get(request.path)
        if call is None:
            return Answer({"code": "404", "msg": f"Not Found: {request.path}", "data": []}, 404)
        refused = self._police.ask("okx.rest", 1)
        if refused is not None:
            return attrs.evolve(refused, body={"code": "50011", "msg": "Too Many Requests", "data": []}, headers={})
        return call(request)

    def _status(self, request: Request) -> Answer:
        """Tell of maintenance: https://www.okx.com/docs-v5/en/#status-get-status"""
        terms = {"title": "WebSocket upgrade", "serviceType": "0", "system": "unified", "maintType": "1", "env": "1"}
        empty = dict.fromkeys(("href", "preOpenBegin", "scheDesc"), "")
        return _data(
            [
                {**terms, **empty, "state": "ongoing", "begin": str(begin // 10**6), "end": str(end // 10**6)}
                for begin, end in self._maintained_ns()
            ]
        )

    def _time(self, request: Request) -> Answer:
        return _data([{"ts": str(self._venue.clock.ms())}])

    def _instruments(self, request: Request) -> Answer:
        """List instruments of one type; only spot and swaps have any."""
        kind = request.query.get("instType", "")
        if kind not in INST_TYPES:
            return (
                _error("51000", "Parameter instType error")
                if kind
                else _error("50014", "Parameter instType can not be empty.")
            )
        wanted = request.query.get("instId")
        listings = [one for one in self._venue.listings.values() if one.market == MARKETS.get(kind)]
        if wanted is not None and not any(listing.native_symbol == wanted for listing in listings):
            return _error("51001", "Instrument ID doesn't exist.")
        return _data([_instrument(listing) for listing in listings if wanted in (None, listing.native_symbol)])

    def _books(self, request: Request) -> Answer:
        feed = self._venue.feeds.get(request.query.get("instId", ""))
        if feed is None:
            return _error("51001", "Instrument ID doesn't exist.")
        size = request.query.get("sz", "1")
        if not size.isdigit() or not 1 <= int(size) <= DEPTH:
            return _error("51000", "Parameter sz error")
        seq, bids, asks = feed.tape.book(int(size))
        sides = {
            name: [[price, lots, "0", order_count(lots)] for price, lots in side]
            for name, side in (("asks", asks), ("bids", bids))
        }
        return _data([{**sides, "ts": str(self._venue.clock.ms()), "seqId": seq}])

    def _history_trades(self, request: Request) -> Answer:
        """Page backwards from `after`, newest first.

        By trade id, or with type=2 by time. `before` alone is the newest page.
        """
        feed = self._venue.feeds.get(request.query.get("instId", ""))
        if feed is None:
            return _error("51001", "Instrument ID doesn't exist.")
        after, limit = request.query.get("after", ""), request.query.get("limit", "100")
        if (after and not after.isdigit()) or not limit.isdigit():
            return _error("51000", "Parameter limit error" if not limit.isdigit() else "Parameter after error")
        by_time = request.query.get("type") == "2"
        found = [
            fact
            for fact in reversed(feed.tape.history)
            if not after or (fact.ts_us // 1000 if by_time else fact.id) < int(after)
        ]
        return _data([_trade(fact) for fact in found[: min(int(limit), 100)]])


def _trade(fact: TradeFact) -> dict[str, str]:
    return {
        "instId": fact.native_symbol,
        "side": fact.side,
        "sz": fact.size,
        "source": "0",
        "px": fact.price,
        "tradeId": str(fact.id),
        "ts": str(fact.ts_us // 1000),
    }


def _instrument(listing: Listing) -> dict[str, Any]:
    swap = listing.market == "perp"
    return {
        "instType": "SWAP" if swap else "SPOT",
        "instId": listing.native_symbol,
        "instFamily": listing.symbol if swap else "",
        "uly": listing.symbol if swap else "",
        "baseCcy": "" if swap else listing.base,
        "quoteCcy": "" if swap else listing.quote,
        "settleCcy": listing.quote if swap else "",
        "ctVal": listing.contract_size or "",
        "ctMult": "1" if swap else "",
        "ctValCcy": listing.base if swap else "",
        "ctType": "linear" if swap else "",
        "listTime": "1548133413000",
        "expTime": "",
        "lever": "100" if swap else "10",
        "tickSz": listing.tick,
        "lotSz": listing.lot,
        "minSz": listing.lot,
        "state": "live",
        "ruleType": "normal",
        "upcChg": [],
    }


def _data(data: list[Any]) -> Answer:
    return Answer({"code": "0", "msg": "", "data": data})


def _error(code: str, msg: str) -> Answer:
    return Answer({"code": code, "msg": msg, "data": []})
