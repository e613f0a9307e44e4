"""One market: its instruments first, then its streams. Without instruments nothing of it is dialled, and other markets
go on.
"""

from typing import NoReturn

import cattrs
import trio

from collector_trio.config import Config
from collector_trio.exchanges.protocol import Exchange
from collector_trio.journal.records import Letter
from collector_trio.plan import Plan, make_plan
from collector_trio.streams.listing import Listing, keep_listing, load_listing, obtain_listing
from collector_trio.streams.supervisor import Stream, Surroundings, keep_stream

REFRESH_EVERY_S = 3600.0
ASK_ONCE_S = 5.0


async def keep_market(
    config: Config, exchange: Exchange, market: str, around: Surroundings, streams: list[Stream]
) -> NoReturn:
    """Keep the streams of one market until cancelled; each is added to `streams` when it begins.

    Instruments kept from an earlier run begin at once, and are asked for again beside; without any, REST must answer
    first.
    """
    data_dir = config.collector.data_dir
    base_url = rest_url(config, exchange, market)
    listing = load_listing(data_dir, exchange.NAME, market)
    fresh = listing is None
    if listing is None:
        listing = await obtain_listing(exchange, market, base_url, around)
        keep_listing(data_dir, exchange.NAME, market, listing)
    plan = _plan(config, exchange, market, listing)
    if plan.unknown and not fresh:  # listed since: worth one question before the first dial
        listing = await _ask_once(exchange, market, base_url, around, listing)
        keep_listing(data_dir, exchange.NAME, market, listing)
        plan = _plan(config, exchange, market, listing)
    for symbol in plan.unknown:
        around.log.error("not listed", symbol=symbol)
    _note_instruments(around, exchange, market, plan, listing)
    async with trio.open_nursery() as nursery:
        for stream_plan in plan.streams:
            stream = Stream(stream_plan)
            streams.append(stream)
            nursery.start_soon(keep_stream, stream, exchange, around)
        while True:
            await trio.sleep(REFRESH_EVERY_S if fresh else 0)
            fresh = True
            newer = await obtain_listing(exchange, market, base_url, around)
            if newer.instruments != listing.instruments:
                keep_listing(data_dir, exchange.NAME, market, newer)
                again = _plan(config, exchange, market, newer)
                if again.instruments != plan.instruments:
                    around.log.warning("instruments changed", exchange=exchange.NAME, market=market)
                    _note_instruments(around, exchange, market, again, newer)
                    plan = again
                listing = newer


def rest_url(config: Config, exchange: Exchange, market: str) -> str:
    """Return the REST base of `market`."""
    channel = exchange.OFFERS.markets[market][0]
    return config.endpoints[exchange.endpoint(market, channel).section]["rest"]


async def _ask_once(exchange: Exchange, market: str, base_url: str, around: Surroundings, kept: Listing) -> Listing:
    with trio.move_on_after(ASK_ONCE_S):
        return await obtain_listing(exchange, market, base_url, around)
    return kept


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
