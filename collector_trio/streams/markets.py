"""The markets of one exchange that share sockets: their instruments first, then their streams.

OKX's spot and perp are served by the same addresses, so their subscriptions are planned together, while Binance's
markets have sockets of their own (`plan.market_groups`). A market without instruments has no subscriptions, and the
others go on: a group begins when all of its markets are listed, or `TOGETHER_S` after the first. When a late listing
comes, the streams whose plan it changes are ended and begun again; the others keep their sockets.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

import attrs
import cattrs
import trio

from collector_trio.config import Config
from collector_trio.exchanges.protocol import Exchange
from collector_trio.journal.records import Letter
from collector_trio.plan import Plan, StreamPlan, make_plan
from collector_trio.streams.listing import Listing, keep_listing, load_listing, obtain_listing, rest_threads
from collector_trio.streams.supervisor import Stream, Surroundings, backoff, keep_stream
from collector_trio.threads import run_in_thread

REFRESH_EVERY_S = 3600.0
TOGETHER_S = 5.0
ASK_ONCE_S = 4.0  # less than the others wait, so that they begin together


async def keep_markets(
    config: Config, exchange: Exchange, markets: Sequence[str], around: Surroundings, streams: list[Stream]
) -> NoReturn:
    """Keep the streams of `markets`, a group, until cancelled; each is added to `streams` when it begins.

    A crash (a bug) is logged and what crashed begins again, after a delay: one market's instruments, or the streams of
    the group. Other groups go on.
    """
    await _begin_again(partial(_run_group, config, exchange, markets, around, streams), exchange, markets, around)


async def _begin_again(
    work: Callable[[], Awaitable[NoReturn]], exchange: Exchange, markets: Sequence[str], around: Surroundings
) -> NoReturn:
    for delay_s in backoff(around.random):
        try:
            await work()
        except Exception:  # as with streams: a bug in one market must not end the others
            around.log.exception("market crashed", exchange=exchange.NAME, market=" ".join(markets))
        await trio.sleep(delay_s)
    raise AssertionError("a backoff does not end")


async def _run_group(
    config: Config, exchange: Exchange, markets: Sequence[str], around: Surroundings, streams: list[Stream]
) -> NoReturn:
    """Take the listings as they come, and keep the streams that they amount to."""
    listings: dict[str, Listing] = {}
    running: dict[str, _Running] = {}
    listed, arrivals = trio.open_memory_channel[tuple[str, Listing]](len(markets))  # each sends one, unless it crashes
    async with trio.open_nursery() as nursery:
        for market in markets:
            work = partial(_run_market, config, exchange, market, around, listed)
            nursery.start_soon(_begin_again, work, exchange, [market], around)
        market, listings[market] = await arrivals.receive()
        with trio.move_on_after(TOGETHER_S):
            while len(listings) < len(markets):
                market, listings[market] = await arrivals.receive()
        while True:
            wanted = {stream.name: stream for stream in _plan(config, exchange, listings).streams}
            await _end([each for name, each in running.items() if wanted.get(name) != each.stream.plan])
            for name, plan in wanted.items():
                if name not in running or running[name].ended.is_set():
                    running[name] = _Running(_known_stream(plan, streams))
                    nursery.start_soon(_run_stream, running[name], exchange, around)
            market, listings[market] = await arrivals.receive()


@attrs.define
class _Running:
    """A stream that was begun, and the means to end it."""

    stream: Stream
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)


async def _run_stream(running: _Running, exchange: Exchange, around: Surroundings) -> None:
    try:
        with running.scope:
            await keep_stream(running.stream, exchange, around)
    finally:
        running.ended.set()


async def _end(outdated: Sequence[_Running]) -> None:
    """End these streams and wait for it: two sessions of one stream would be mistaken for each other."""
    for running in outdated:
        running.scope.cancel()
    for running in outdated:
        await running.ended.wait()


def _known_stream(plan: StreamPlan, streams: list[Stream]) -> Stream:
    """Return the stream of that name with its counters, or a new one: what begins again is not counted twice."""
    for stream in streams:
        if stream.plan.name == plan.name:
            stream.plan, stream.parked = plan, False
            return stream
    streams.append(Stream(plan))
    return streams[-1]


async def _run_market(
    config: Config,
    exchange: Exchange,
    market: str,
    around: Surroundings,
    listed: trio.MemorySendChannel[tuple[str, Listing]],
) -> NoReturn:
    """Find the instruments of one market and hand them on once; then see to it that their terms are written down.

    Instruments kept from an earlier run serve at once, and are asked for again beside; without any, REST must answer
    first.
    """
    data_dir = config.collector.data_dir
    base_url = rest_url(config, exchange, market)
    load = partial(load_listing, data_dir, exchange.NAME, market)
    listing = await run_in_thread("instruments", rest_threads(), load)
    fresh = listing is None
    if listing is None:
        listing = await obtain_listing(exchange, market, base_url, around)
        await _keep(config, exchange, market, listing, around)
    plan = _plan(config, exchange, {market: listing})
    if plan.unknown and not fresh:  # listed since: worth one question before the first dial
        with trio.move_on_after(ASK_ONCE_S):
            listing = await obtain_listing(exchange, market, base_url, around)
            fresh = True
            await _keep(config, exchange, market, listing, around)
        plan = _plan(config, exchange, {market: listing})
    for symbol in plan.unknown:
        around.log.error("not listed", symbol=symbol)
    around.unlisted[exchange.NAME, market] = plan.unknown
    _note_instruments(around, exchange, market, plan, listing)
    await listed.send((market, listing))
    while True:
        await trio.sleep(REFRESH_EVERY_S if fresh else 0)
        fresh = True
        newer = await obtain_listing(exchange, market, base_url, around)
        if newer.instruments != listing.instruments:
            await _keep(config, exchange, market, newer, around)
            listing, plan = newer, _note_changes(config, exchange, market, plan, newer, around)


def _note_changes(
    config: Config, exchange: Exchange, market: str, before: Plan, listing: Listing, around: Surroundings
) -> Plan:
    """Write down new terms of what is recorded, and say what a restart would change."""
    plan = _plan(config, exchange, {market: listing})
    around.unlisted[exchange.NAME, market] = plan.unknown
    if plan.instruments != before.instruments:
        log = around.log.bind(exchange=exchange.NAME, market=market)
        log.warning("instruments changed; symbols that came or went are taken up at the next start")
        _note_instruments(around, exchange, market, plan, listing)
    return plan


async def _keep(config: Config, exchange: Exchange, market: str, listing: Listing, around: Surroundings) -> None:
    """Keep `listing` for the next start; that it cannot be kept is said, and no reason to stop."""
    keep = partial(keep_listing, config.collector.data_dir, exchange.NAME, market, listing)
    try:
        await run_in_thread("instruments", rest_threads(), keep)
    except OSError as error:
        around.log.warning("instruments not kept", exchange=exchange.NAME, market=market, reason=str(error))


def rest_url(config: Config, exchange: Exchange, market: str) -> str:
    """Return the REST base of `market`."""
    channel = exchange.OFFERS.markets[market][0]
    return config.endpoints[exchange.endpoint(market, channel).section]["rest"]


def _plan(config: Config, exchange: Exchange, listings: Mapping[str, Listing]) -> Plan:
    instruments = {(exchange.NAME, market): listing.instruments for market, listing in listings.items()}
    return make_plan(config, {exchange.NAME: exchange}, instruments)


def _note_instruments(around: Surroundings, exchange: Exchange, market: str, plan: Plan, listing: Listing) -> None:
    """Write down the terms of what is recorded; every segment repeats them, so that it can be read alone."""
    value = {
        "exchange": exchange.NAME,
        "market": market,
        "valid_from_ns": listing.fetched_ns,
        "instruments": cattrs.unstructure(list(plan.instruments)),
    }
    around.journal.note(Letter.INSTRUMENTS, value, current=f"instruments {exchange.NAME} {market}")
