"""Our clock against the exchanges': receive times are worth what our clock is.

An exchange says its time now and then. It read its clock between our asking and its answer, so the middle of the two is
wrong by at most half of what lies between: the error is known, whatever the way. Connecting is not in between.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn

import attrs
import trio

from collector_trio.config import Config
from collector_trio.errors import BadAnswer, HttpFailed
from collector_trio.exchanges.protocol import Exchange, Request
from collector_trio.net.gate import host_of
from collector_trio.net.http import HttpAnswer
from collector_trio.streams.listing import heed_weight, weight_budget
from collector_trio.streams.markets import rest_url
from collector_trio.streams.supervisor import Surroundings

FIRST_S = 15.0  # after the start: instruments and snapshots come first
EVERY_S = 300.0
MISSES = 3  # in a row, then what was found says nothing any more
RESOLUTION_NS = 1_000_000  # they say milliseconds


@attrs.frozen
class Offset:
    """Our clock less theirs, in nanoseconds, right to `error_ns`; found `at` (trio time)."""

    offset_ns: int
    error_ns: int
    at: float


def offset(answer: HttpAnswer, theirs_ns: int, now: float, now_ns: int) -> Offset:
    """Return what follows from one answer that says `theirs_ns`; our clock says `now_ns` at `now` (trio time)."""
    middle_ns = now_ns - round((now - (answer.asked_at + answer.answered_at) / 2) * 1e9)
    error_ns = round((answer.answered_at - answer.asked_at) / 2 * 1e9) + RESOLUTION_NS
    return Offset(middle_ns - theirs_ns, error_ns, now)


def clocks(config: Config, exchanges: Mapping[str, Exchange]) -> list[tuple[Exchange, str, str]]:
    """Return who is asked: an exchange, a market of it, and what the answer is said to be of ("all": every market of
    the exchange).
    """
    askings: dict[tuple[str, Request], list[tuple[Exchange, str]]] = {}
    for name, market in dict.fromkeys((record.exchange, record.market) for record in config.record):
        exchange = exchanges[name]
        place = rest_url(config, exchange, market), exchange.time_request(market)
        askings.setdefault(place, []).append((exchange, market))
    return [(*asked[0], asked[0][1] if len(asked) == 1 else "all") for asked in askings.values()]


async def keep_offsets(
    config: Config,
    wanted: Sequence[tuple[Exchange, str, str]],
    around: Surroundings,
    offsets: MutableMapping[tuple[str, str], Offset],
) -> NoReturn:
    """Ask all of `wanted` rarely, and put what was found into `offsets` (by exchange and market), until cancelled. What
    could not be found anew `MISSES` times in a row is dropped.
    """
    await trio.sleep(FIRST_S)
    async with trio.open_nursery() as nursery:
        for exchange, market, named in wanted:  # each alone: one may have to wait until its ban is over
            nursery.start_soon(_keep_offset, config, exchange, market, named, around, offsets)
    raise AssertionError("the nursery ends by cancellation only")


async def _keep_offset(
    config: Config,
    exchange: Exchange,
    market: str,
    named: str,
    around: Surroundings,
    offsets: MutableMapping[tuple[str, str], Offset],
) -> NoReturn:
    misses = 0
    while True:
        begun, found = trio.current_time(), None
        try:
            with trio.move_on_after(EVERY_S):
                found = await _ask(config, exchange, market, around)
        except (HttpFailed, BadAnswer) as error:
            around.log.debug("no time", exchange=exchange.NAME, market=named, reason=str(error))
        except Exception:  # as with streams: a bug here must not end what others record
            around.log.exception("clock crashed", exchange=exchange.NAME, market=named)
        if found is not None:
            offsets[exchange.NAME, named], misses = found, 0
        else:
            misses += 1
            if misses >= MISSES:
                offsets.pop((exchange.NAME, named), None)
        await trio.sleep_until(begun + EVERY_S)


async def _ask(config: Config, exchange: Exchange, market: str, around: Surroundings) -> Offset:
    request = exchange.time_request(market)
    url, weight = rest_url(config, exchange, market), weight_budget(exchange, market, around)
    async with (
        around.gates.get(exchange.NAME).asking(host_of(url), weight, units=request.weight) as turn,
        around.open_client(url) as client,
    ):
        with turn.judged():
            answer = await client.ask(request.path)
        heed_weight(exchange, market, answer, weight)
    return offset(answer, exchange.parse_time(answer.body), trio.current_time(), around.clock())
