"""OKX v5 spot and swaps: addresses, limits, instruments, subscriptions, the rules of order books.

The facts are from https://www.okx.com/docs-v5/en/ (August 2026) and its change log. What frames mean is in
`okx_frames`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import msgspec
from msgspec import Struct

from collector_trio.config import Offers
from collector_trio.errors import BadAnswer
from collector_trio.exchanges.okx_frames import CHANNELS
from collector_trio.exchanges.okx_frames import decode as decode
from collector_trio.exchanges.okx_frames import decode_together as decode_together
from collector_trio.exchanges.okx_frames import decode_trades as decode_trades
from collector_trio.exchanges.protocol import BookRules, BookSnapshot, Ignored, Reject, Request
from collector_trio.exchanges.wire import exchange_ns, is_number, number_or_none
from collector_trio.instruments import Instrument
from collector_trio.plan import Endpoint, Limits, Rate, Subscription

NAME = "okx"

# Addresses. Port 443: the older 8443 was announced to close on 2026-10-31.
OFFERS = Offers(
    markets={"spot": ("trades", "book"), "perp": ("trades", "book")},
    endpoints={
        "okx": {
            "ws_public": "wss://ws.okx.com/ws/v5/public",
            "ws_business": "wss://ws.okx.com/ws/v5/business",
            "rest": "https://www.okx.com",
        }
    },
)

# A connection without a push for 30 s is closed; only a message of ours resets that: the text "ping", answered "pong".
PING: str | None = "ping"
PING_EVERY_S = 15.0

# Limits: 3 dials per second and address, 480 subscribe and unsubscribe requests per hour and connection, 20 requests
# for instruments per 2 s. Fewer than 30 of the deep books are advised per connection.
_LIMITS = Limits(dials=Rate(2, 1.0), messages=Rate(400, 3600.0), weight=Rate(10, 2.0), pool="okx")
_PER_SOCKET = {"book": 25, "trades": 100}
_ARGUMENTS_PER_MESSAGE = 200  # about 70 bytes each, of 64 KB allowed


def limits(market: str) -> Limits:
    """Return the documented limits, with a margin."""
    return _LIMITS


def used_weight(headers: Mapping[str, str]) -> int | None:
    """OKX's answers say nothing about limits."""
    return None


# https://www.okx.com/docs-v5/en/#status-get-status: asked without a state it lists what is scheduled, ongoing or about
# to open again. Services: 0 WebSocket, 1 spot, 2 futures, 3 perpetuals, 4 options, 5 trading, 9 trading in batches of
# products, 99 others; accounts, blocks, bots, spreads and copied trades do not concern us. It may be asked once in 5 s.
_STATUS = Request("/api/v5/system/status", 1)
_SERVICES = {"0", "1", "2", "3", "4", "5", "9", "99"}


class _Status(Struct):
    title: str = ""
    state: str = ""
    begin: str = ""
    end: str = ""
    serviceType: str = "99"


class _Statuses(Struct):
    code: str
    msg: str = ""
    data: list[_Status] = []


def maintenance_request() -> Request | None:
    """Ask for the system's status."""
    return _STATUS


def parse_maintenance(body: bytes, now_ms: int) -> str:
    """Read `system/status`. The state may lag behind the times, and the times behind the state."""
    try:
        answer = msgspec.json.decode(body, type=_Statuses)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(f"status: {error}: {body[:200]!r}") from None
    if answer.code != "0":
        raise BadAnswer(f"status: code {answer.code}: {answer.msg}")
    now = [each for each in answer.data if each.serviceType in _SERVICES and _is_on(each, now_ms)]
    return "; ".join(dict.fromkeys(each.title or "maintenance" for each in now))


def _is_on(status: _Status, now_ms: int) -> bool:
    if status.state in ("ongoing", "pre_open"):
        return True
    bounds = status.begin, status.end
    if status.state != "scheduled" or not all(bound.isascii() and bound.isdigit() for bound in bounds):
        return False
    return int(status.begin) <= now_ms <= int(status.end)


def endpoint(market: str, channel: str) -> Endpoint:
    """`trades-all` is served on /business only, `books` on /public only; all markets share both."""
    if channel == "trades":
        return Endpoint("okx.business", "okx", "ws_business", _PER_SOCKET[channel])
    return Endpoint("okx.public", "okx", "ws_public", _PER_SOCKET[channel])


# Instruments

_INSTRUMENT_TYPES = {"spot": "SPOT", "perp": "SWAP"}
# Which side of BASE-QUOTE the worth of one contract is in, by contract type.
_WORTH_IN = {"linear": 0, "inverse": 1}


class _Instrument(Struct):
    instId: str
    instType: str
    state: str
    baseCcy: str = ""
    quoteCcy: str = ""
    instFamily: str = ""
    uly: str = ""
    tickSz: str = ""
    lotSz: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    ctType: str = ""


class _Instruments(Struct):
    code: str
    msg: str = ""
    data: list[_Instrument] = []


def instruments_request(market: str) -> Request:
    """Ask for all instruments of one type."""
    return Request(f"/api/v5/public/instruments?instType={_INSTRUMENT_TYPES[market]}", 1)


def parse_instruments(market: str, body: bytes) -> list[Instrument]:
    """Read `public/instruments`; an HTTP 200 whose code is not "0" is an error."""
    try:
        answer = msgspec.json.decode(body, type=_Instruments)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(f"instruments: {error}: {body[:200]!r}") from None
    if answer.code != "0":
        raise BadAnswer(f"instruments: code {answer.code}: {answer.msg}")
    return [_instrument(market, terms) for terms in answer.data if market != "perp" or _is_perpetual(terms)]


def _is_perpetual(terms: _Instrument) -> bool:
    """Take the swaps whose contracts we can turn into base units: all that exist, of the types that exist today."""
    worth_in = _WORTH_IN.get(terms.ctType)
    if terms.instType != "SWAP" or worth_in is None:
        return False
    if not is_number(terms.ctVal) or not is_number(terms.ctMult or "1"):
        return False
    return terms.ctValCcy in ("", _assets(terms)[worth_in])


def _assets(terms: _Instrument) -> tuple[str, str]:
    """Return base and quote; derivatives name their family, such as BTC-USDT."""
    if terms.baseCcy:
        return terms.baseCcy, terms.quoteCcy
    base, _, quote = (terms.instFamily or terms.uly).partition("-")
    return base, quote


def _instrument(market: str, terms: _Instrument) -> Instrument:
    base, quote = _assets(terms)
    return Instrument(
        exchange=NAME,
        market=market,
        symbol=f"{base}-{quote}",
        native_symbol=terms.instId,
        base=base,
        quote=quote,
        status=terms.state,
        tradable=terms.state == "live",
        tick_size=number_or_none(terms.tickSz),
        lot_size=number_or_none(terms.lotSz),
        contract_size=_times(terms.ctVal, terms.ctMult or "1") if terms.ctVal else None,
        inverse=terms.ctType == "inverse",
    )


def _times(value: str, multiplier: str) -> str:
    if not is_number(value) or not is_number(multiplier):
        raise BadAnswer(f"instruments: ctVal {value!r} or ctMult {multiplier!r} is not a number")
    return format((Decimal(value) * Decimal(multiplier)).normalize(), "f")


# Time


class _Stamp(Struct):
    ts: str


class _Time(Struct):
    code: str
    msg: str = ""
    data: list[_Stamp] = []


def time_request(market: str) -> Request:
    """Ask for the time, which is one for all markets."""
    return Request("/api/v5/public/time", 1)


def parse_time(body: bytes) -> int:
    """Read `public/time`, which is in milliseconds."""
    try:
        answer = msgspec.json.decode(body, type=_Time)
        if answer.code != "0" or not answer.data:
            raise BadAnswer(f"time: code {answer.code}: {answer.msg}")
        return exchange_ns(int(answer.data[0].ts))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadAnswer(f"time: {error}: {body[:200]!r}") from None


# Subscriptions

_BUSY = {"BTC-USDT", "ETH-USDT"}


def subscription(instrument: Instrument, channel: str) -> Subscription:
    """Name the channel. Books begin with a snapshot and say something at least once a minute: never silent for 70 s."""
    busy = instrument.symbol in _BUSY
    silence_s: float | None
    if channel == "book":
        prompt, first_data_s, silence_s = True, 10.0, 15.0 if busy else 70.0
    else:
        prompt, first_data_s, silence_s = busy, 30.0, 60.0 if busy else None
    return Subscription(
        channel=channel,
        native_symbol=instrument.native_symbol,
        argument=CHANNELS[channel],
        prompt=prompt,
        first_data_s=first_data_s,
        silence_s=silence_s,
    )


def batches(subscriptions: Sequence[Subscription]) -> Iterator[Sequence[Subscription]]:
    """Many arguments in one request: requests are what the hourly limit counts."""
    for start in range(0, len(subscriptions), _ARGUMENTS_PER_MESSAGE):
        yield subscriptions[start : start + _ARGUMENTS_PER_MESSAGE]


def subscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one subscribe request."""
    return _operation("subscribe", subscriptions, request)


def unsubscribe(subscriptions: Sequence[Subscription], request: int) -> str:
    """Return one unsubscribe request."""
    return _operation("unsubscribe", subscriptions, request)


def _operation(operation: str, subscriptions: Sequence[Subscription], request: int) -> str:
    arguments = [{"channel": s.argument, "instId": s.native_symbol} for s in subscriptions]
    return json.dumps({"id": str(request), "op": operation, "args": arguments}, ensure_ascii=False)


# Order books

# The channel keeps 400 levels a side. Sequence numbers chain, but begin again lower after maintenance.
# https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel
_BOOK_RULES = BookRules(in_band=True, overlap=False, resets=True, depth=400)


def book_rules(market: str) -> BookRules:
    """Return how the books are kept: those of all markets alike."""
    return _BOOK_RULES


def snapshot_request(instrument: Instrument) -> Request | None:
    """There is nothing to ask for: every subscription begins with a whole book."""
    return None


def decode_snapshot(market: str, native_symbol: str, body: bytes) -> BookSnapshot | Ignored | Reject:
    """Whatever it is, nobody asked for it."""
    return Reject("snapshots are in-band")
