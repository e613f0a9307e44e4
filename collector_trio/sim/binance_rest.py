"""Simulated Binance spot REST (protocols.md 1.6 to 1.8).

https://developers.binance.com/docs/binance-spot-api-docs/rest-api
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from collector_trio.sim.http import Answer, Request
from collector_trio.sim.market import Listing
from collector_trio.sim.truth import TradeFact
from collector_trio.sim.venue import Venue


class BinanceRest:
    """Answers under /api/v3/.

    Weights are counted per minute of the exchange's clock and told in a header, never enforced.
    """

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._minute = 0
        self._used = 0
        self._calls: Mapping[str, Callable[[Request], Answer]] = {
            "/api/v3/ping": self._ping,
            "/api/v3/time": self._time,
            "/api/v3/exchangeInfo": self._exchange_info,
            "/api/v3/depth": self._depth,
            "/api/v3/aggTrades": self._agg_trades,
        }

    def answer(self, request: Request) -> Answer:
        """Answer one request; an unknown path gets 404."""
        call = self._calls.get(request.path)
        if call is None:
            return Answer({"code": -1000, "msg": f"No such path: {request.path}"}, 404)
        answer = call(request)
        self._count(_weight(request))
        return Answer(answer.body, answer.status, {**answer.headers, "X-MBX-USED-WEIGHT-1M": str(self._used)})

    def _count(self, weight: int) -> None:
        minute = self._venue.clock.ms() // 60_000
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += weight

    def _ping(self, request: Request) -> Answer:
        return Answer({})

    def _time(self, request: Request) -> Answer:
        return Answer({"serverTime": self._venue.clock.us() // _unit(request)})

    def _exchange_info(self, request: Request) -> Answer:
        wanted = request.query.get("symbol")
        if wanted is not None and wanted not in self._venue.native_symbols:
            return _bad_symbol()
        return Answer(
            {
                "timezone": "UTC",
                "serverTime": self._venue.clock.us() // _unit(request),
                "rateLimits": [
                    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
                    {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300000},
                ],
                "exchangeFilters": [],
                "symbols": [_symbol(one) for one in self._venue.listings if wanted in (None, one.native_symbol)],
            }
        )

    def _depth(self, request: Request) -> Answer:
        feed = self._venue.feeds.get(request.query.get("symbol", ""))
        if feed is None:
            return _bad_symbol() if request.query.get("symbol") else _missing("symbol")
        limit = _number(request.query, "limit", 100)
        if limit is None or limit < 1:
            return _malformed("limit")
        last, bids, asks = feed.tape.book(min(limit, 5000))
        return Answer({"lastUpdateId": last, "bids": bids, "asks": asks})

    def _agg_trades(self, request: Request) -> Answer:
        feed = self._venue.feeds.get(request.query.get("symbol", ""))
        if feed is None:
            return _bad_symbol() if request.query.get("symbol") else _missing("symbol")
        numbers = {key: _number(request.query, key, 0) for key in ("fromId", "startTime", "endTime", "limit")}
        for key, number in numbers.items():
            if number is None or number < 0:
                return _malformed(key)
        limit = min(numbers["limit"] or 500, 1000)
        return Answer([_agg_trade(fact, request) for fact in _page(feed.tape.history, request, limit)])


def _page(history: deque[TradeFact], request: Request, limit: int) -> list[TradeFact]:
    """Choose trades: from an id or a time upwards, else the newest."""
    query = request.query
    found = [
        fact
        for fact in history
        if fact.id >= int(query.get("fromId", 0))
        and fact.ts_us >= int(query.get("startTime", 0)) * 1000
        and ("endTime" not in query or fact.ts_us // 1000 <= int(query["endTime"]))
    ]
    return found[:limit] if "fromId" in query or "startTime" in query else found[-limit:]


def _agg_trade(fact: TradeFact, request: Request) -> dict[str, Any]:
    return {
        "a": fact.id,
        "p": fact.price,
        "q": fact.size,
        "f": fact.first_id,
        "l": fact.last_id,
        "T": fact.ts_us // _unit(request),
        "m": fact.side == "sell",
        "M": True,
    }


def _symbol(listing: Listing) -> dict[str, Any]:
    tick, lot = listing.least(listing.tick_digits), listing.least(listing.lot_digits)
    return {
        "symbol": listing.native_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000.00000000", "stepSize": lot},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
    }


def _weight(request: Request) -> int:
    if request.path == "/api/v3/depth":
        limit = _number(request.query, "limit", 100) or 0
        return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250
    return {"/api/v3/exchangeInfo": 20, "/api/v3/aggTrades": 4}.get(request.path, 1)


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
