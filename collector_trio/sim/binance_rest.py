"""Simulated Binance REST: spot under /api/v3/ (protocols.md 1.6 to 1.8), USD-M under /fapi/v1/ (2.6 to 2.8).

https://developers.binance.com/docs/binance-spot-api-docs/rest-api
https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from collector_trio.sim import snapshots
from collector_trio.sim.binance_listed import perp_symbols, spot_symbol
from collector_trio.sim.facts import TradeFact
from collector_trio.sim.feed import BookText
from collector_trio.sim.http import Answer, Request, Slow
from collector_trio.sim.police import Police
from collector_trio.sim.venue import Venue

FUTURES_DEPTHS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}


@attrs.frozen
class Terms:
    """What differs between the two: the path, the weight a minute may have, and how much a call weighs."""

    prefix: str
    endpoint: str
    perp: bool
    limit: int
    weight: Callable[[str, int | None], int]


def _spot_weight(call: str, limit: int | None) -> int:
    if call == "depth":
        depth = 100 if limit is None else limit
        return 5 if depth <= 100 else 25 if depth <= 500 else 50 if depth <= 1000 else 250
    return {"exchangeInfo": 20, "aggTrades": 4}.get(call, 1)


def _futures_weight(call: str, limit: int | None) -> int:
    """A depth without limit has 500 levels and costs 1 [M 2026-10-07]."""
    if call == "depth":
        return 1 if limit is None else FUTURES_DEPTHS.get(limit, 1)
    return 20 if call == "aggTrades" else 1


SPOT = Terms("/api/v3/", "binance.spot.rest", False, 6000, _spot_weight)
FUTURES = Terms("/fapi/v1/", "binance.perp.rest", True, 2400, _futures_weight)


class BinanceRest:
    """Answers for one market.

    Weights are counted per minute of the exchange's clock and told in a header.
    """

    def __init__(self, venue: Venue, terms: Terms, police: Police) -> None:
        self._venue = venue
        self._terms = terms
        self._police = police
        self._calls: Mapping[str, Callable[[Request], Answer | Slow]] = {
            "ping": self._ping,
            "time": self._time,
            "exchangeInfo": self._exchange_info,
            "depth": self._depth,
            "aggTrades": self._agg_trades,
        }

    def answer(self, request: Request) -> Answer | Slow:
        """Answer one request; an unknown path gets 404."""
        name = request.path.removeprefix(self._terms.prefix)
        call = self._calls.get(name)
        if call is None:
            return Answer({"code": -1000, "msg": f"No such path: {request.path}"}, 404)
        limit = _number(request.query, "limit", 0) if "limit" in request.query else None
        refused = self._police.ask(self._terms.endpoint, self._terms.weight(name, limit))
        answer = refused or call(request)
        if isinstance(answer, Slow):
            later = answer.answer
            return attrs.evolve(answer, answer=lambda: self._weighed(later()))
        return self._weighed(answer)

    def _weighed(self, answer: Answer) -> Answer:
        used = self._police.used(self._terms.endpoint)
        return attrs.evolve(answer, headers={**answer.headers, "X-MBX-USED-WEIGHT-1M": str(used)})

    def _unit(self, request: Request) -> int:
        """Return how many microseconds the request's time unit has; futures know milliseconds only."""
        return 1000 if self._terms.perp else _unit(request)

    def _ping(self, request: Request) -> Answer:
        return Answer({})

    def _time(self, request: Request) -> Answer:
        return Answer({"serverTime": self._venue.clock.us() // self._unit(request)})

    def _exchange_info(self, request: Request) -> Answer:
        wanted = request.query.get("symbol")
        if wanted is not None and wanted not in self._venue.listings and not self._terms.perp:
            return _bad_symbol()
        listings = self._venue.listings.values()
        limits = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._terms.limit}
        ]
        body: dict[str, Any] = {
            "timezone": "UTC",
            "serverTime": self._venue.clock.us() // self._unit(request),
            "exchangeFilters": [],
        }
        if self._terms.perp:  # `symbol` is no parameter there
            symbols = perp_symbols(listings)
            return Answer({**body, "futuresType": "U_MARGINED", "rateLimits": limits, "assets": [], "symbols": symbols})
        limits.append({"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300000})
        symbols = [spot_symbol(one) for one in listings if wanted in (None, one.native_symbol)]
        return Answer({**body, "rateLimits": limits, "symbols": symbols})

    def _depth(self, request: Request) -> Answer | Slow:
        feed = self._venue.feeds.get(request.query.get("symbol", ""))
        if feed is None:
            return _bad_symbol() if request.query.get("symbol") else _missing("symbol")
        limit = _number(request.query, "limit", 500 if self._terms.perp else 100)
        if limit is None or limit < 1:
            return _malformed("limit")
        if self._terms.perp and limit not in FUTURES_DEPTHS:
            return Answer({"code": -4021, "msg": f"{limit} is not valid depth limit."}, 400)
        return snapshots.answer(self._venue, feed.tape, min(limit, 5000), self._whole)

    def _whole(self, book: BookText) -> Answer:
        last, bids, asks = book
        if not self._terms.perp:
            return Answer({"lastUpdateId": last, "bids": bids, "asks": asks})
        now = self._venue.clock.ms()
        return Answer({"lastUpdateId": last, "E": now, "T": now - 2, "bids": bids, "asks": asks})

    def _agg_trades(self, request: Request) -> Answer:
        feed = self._venue.feeds.get(request.query.get("symbol", ""))
        if feed is None:
            return _bad_symbol() if request.query.get("symbol") else _missing("symbol")
        numbers = {key: _number(request.query, key, 0) for key in ("fromId", "startTime", "endTime", "limit")}
        for key, number in numbers.items():
            if number is None or number < 0:
                return _malformed(key)
        limit = min(numbers["limit"] or 500, 1000)
        unit = self._unit(request)
        return Answer([self._agg_trade(fact, unit) for fact in _page(feed.tape.history, request, limit)])

    def _agg_trade(self, fact: TradeFact, unit: int) -> dict[str, Any]:
        row = {
            "a": fact.id,
            "p": fact.price,
            "q": fact.size,
            "f": fact.first_id,
            "l": fact.last_id,
            "T": fact.ts_us // unit,
            "m": fact.side == "sell",
        }
        return {**row, "nq": fact.size} if self._terms.perp else {**row, "M": True}


def _page(history: list[TradeFact], request: Request, limit: int) -> list[TradeFact]:
    """Choose trades: from an id or a time upwards, else the newest."""
    query = request.query
    found = history[bisect_left(history, int(query.get("fromId", 0)), key=lambda fact: fact.id) :]
    if "startTime" in query or "endTime" in query:
        since, until = int(query.get("startTime", 0)), int(query.get("endTime", 10**18))
        found = [fact for fact in found if since <= fact.ts_us // 1000 <= until]
    return found[:limit] if "fromId" in query or "startTime" in query else found[-limit:]


def _unit(request: Request) -> int:
    """Return how many microseconds the request's time unit has."""
    return 1 if request.headers.get("x-mbx-time-unit", "").upper() == "MICROSECOND" else 1000


def _number(query: Mapping[str, str], key: str, default: int) -> int | None:
    """Read a parameter. None: it is no whole number."""
    text = query.get(key, str(default))
    return int(text) if text.isascii() and text.isdigit() else None


def _bad_symbol() -> Answer:
    return Answer({"code": -1121, "msg": "Invalid symbol."}, 400)


def _missing(key: str) -> Answer:
    return Answer(
        {"code": -1102, "msg": f"Mandatory parameter '{key}' was not sent, was empty/null, or malformed."}, 400
    )


def _malformed(key: str) -> Answer:
    return Answer({"code": -1100, "msg": f"Illegal characters found in parameter '{key}'."}, 400)
