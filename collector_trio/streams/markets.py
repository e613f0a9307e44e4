"""One market: its instruments first, then its streams. Without instruments nothing of it is dialled, and other markets
go on.
"""

from functools import partial
from typing import NoReturn

import cattrs
import trio

from collector_trio.config import Config
from collector_trio.exchanges.protocol import Exchange
from collector_trio.journal.records import Letter
from collector_trio.plan import Plan, StreamPlan, make_plan
from collector_trio.streams.listing import Listing, keep_listing, listing_threads, load_listing, obtain_listing
from collector_trio.streams.supervisor import Stream, Surroundings, backoff, keep_stream

REFRESH_EVERY_S = 3600.0
ASK_ONCE_S = 5.0


async def keep_market(
    config: Config, exchange: Exchange, market: str, around: Surroundings, streams: list[Stream]
) -> NoReturn:
    """Keep the streams of one market until cancelled; each is added to `streams` when it begins.

    A crash (a bug) is logged and this market begins again, after a delay; other markets go on.
    """
    for delay_s in backoff(around.random):
        try:
            await _run_market(config, exchange, market, around, streams)
        except Exception:  # as with streams: a bug in one market must not end the others
            around.log.exception("market crashed", exchange=exchange.NAME, market=market)
        await trio.sleep(delay_s)
    raise AssertionError("a backoff does not end")


async def _run_market(
    config: Config, exchange: Exchange, market: str, around: Surroundings, streams: list[Stream]
) -> NoReturn:
    """Find the instruments, then keep the streams.

    Instruments kept from an earlier run begin at once, and are asked for again beside; without any, REST must answer
    first.
    """
    data_dir = config.collector.data_dir
    base_url = rest_url(config, exchange, market)
    listing = await trio.to_thread.run_sync(load_listing, data_dir, exchange.NAME, market, limiter=listing_threads())
    fresh = listing is None
    if listing is None:
        listing = await obtain_listing(exchange, market, base_url, around)
        await _keep(config, exchange, market, listing, around)
    plan = _plan(config, exchange, market, listing)
    if plan.unknown and not fresh:  # listed since: worth one question before the first dial
        with trio.move_on_after(ASK_ONCE_S):
            listing = await obtain_listing(exchange, market, base_url, around)
            await _keep(config, exchange, market, listing, around)
        plan = _plan(config, exchange, market, listing)
    for symbol in plan.unknown:
        around.log.error("not listed", symbol=symbol)
    _note_instruments(around, exchange, market, plan, listing)
    async with trio.open_nursery() as nursery:
        for stream_plan in plan.streams:
            nursery.start_soon(keep_stream, _known_stream(stream_plan, streams), exchange, around)
        while True:
            await trio.sleep(REFRESH_EVERY_S if fresh else 0)
            fresh = True
            newer = await obtain_listing(exchange, market, base_url, around)
            if newer.instruments != listing.instruments:
                await _keep(config, exchange, market, newer, around)
                listing, plan = newer, _note_changes(config, exchange, market, plan, newer, around)


def _known_stream(plan: StreamPlan, streams: list[Stream]) -> Stream:
    """Return the stream of that name with its counters, or a new one: a market that begins again adds none twice."""
    for stream in streams:
        if stream.plan.name == plan.name:
            stream.plan = plan
            return stream
    streams.append(Stream(plan))
    return streams[-1]


def _note_changes(
    config: Config, exchange: Exchange, market: str, before: Plan, listing: Listing, around: Surroundings
) -> Plan:
    """Write down new terms of what is recorded, and say what a restart would change."""
    plan = _plan(config, exchange, market, listing)
    if plan.instruments != before.instruments:
        log = around.log.bind(exchange=exchange.NAME, market=market)
        log.warning("instruments changed; symbols that came or went are taken up at the next start")
        _note_instruments(around, exchange, market, plan, listing)
    return plan


async def _keep(config: Config, exchange: Exchange, market: str, listing: Listing, around: Surroundings) -> None:
    """Keep `listing` for the next start; that it cannot be kept is said, and no reason to stop."""
    keep = partial(keep_listing, config.collector.data_dir, exchange.NAME, market, listing)
    try:
        await trio.to_thread.run_sync(keep, limiter=listing_threads())
    except OSError as error:
        around.log.warning("instruments not kept", exchange=exchange.NAME, market=market, reason=str(error))


def rest_url(config: Config, exchange: Exchange, market: str) -> str:
    """Return the REST base of `market`."""
    channel = exchange.OFFERS.markets[market][0]
    return config.endpoints[exchange.endpoint(market, channel).section]["rest"]


def _plan(config: Config, exchange: Exchange, market: str, listing: Listing) -> Plan:
    return make_plan(config, {exchange.NAME: exchange}, {(exchange.NAME, market): listing.instruments})


def _note_instruments(around: Surroundings, exchange: Exchange, market: str, plan: Plan, listing: Listing) -> None:
    """Write down the terms of what is recorded; every segment repeats them, so that it can be read alone."""
    value = {
        "exchange": exchange.NAME,
        "market": market,
        "valid_from_ns": listing.fetched_ns,
        "instruments": cattrs.unstructure(list(plan.instruments)),
    }
    around.journal.note(Letter.INSTRUMENTS, value, current=f"instruments {exchange.NAME} {market}")
