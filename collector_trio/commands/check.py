"""`check`: what a config means, before anything is opened."""

import json
import os
import random
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import click
import trio

from collector_trio import app
from collector_trio.clock import Clock
from collector_trio.commands.options import config_option, json_option, load
from collector_trio.config import Config
from collector_trio.errors import CollectorError, ConnectionEnded
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.space import find_floor, free_bytes
from collector_trio.net.budgets import Budget
from collector_trio.net.gate import Gates
from collector_trio.net.proxies import choose_proxy, parse_proxy
from collector_trio.plan import Plan, StreamPlan, make_plan
from collector_trio.streams.clocks import EVERY_S, clocks
from collector_trio.streams.listing import Listing, fetch_listing, keep_listing, load_listing
from collector_trio.streams.maintenance import ASK_EVERY_S
from collector_trio.streams.markets import REFRESH_EVERY_S, rest_url

MAINTENANCE = "maintenance"

Market = tuple[str, str]


@click.command(epilog="Example: python -m collector_trio check --config config.toml --online")
@config_option
@click.option("--online", is_flag=True, help="Fetch the instruments now, and open each socket once.")
@json_option
def check(config_path: Path, online: bool, as_json: bool) -> None:
    """Validate the config and print the plan: every socket it would open, and the budgets they use.

    Without --online it uses the instruments last seen; where there are none, symbols cannot be checked, and it says so.
    """
    config = load(config_path)
    markets: list[Market] = list(dict.fromkeys((r.exchange, r.market) for r in config.record))
    problems: list[str] = []
    listings = trio.run(_fetch, config, markets, problems) if online else _kept(config, markets)
    plan = make_plan(config, EXCHANGES, {market: listing.instruments for market, listing in listings.items()})
    problems += [f"{symbol} is not listed" for symbol in plan.unknown]
    if config.collector.data_dir.exists() and not config.collector.data_dir.is_dir():
        problems.append(f"{config.collector.data_dir} is not a folder; [collector] data_dir names where data goes")
    problems += _space_problems(config)
    problems += _share_problems(config, plan)
    problems += _proxy_problems(config, plan)
    if online:
        problems += trio.run(_probe, config, plan)
    unknown = [market for market in markets if market not in listings]
    if as_json:
        json.dump(_document(config, plan, listings, unknown, problems), sys.stdout)
        click.echo()
    else:
        _print(config, plan, listings, unknown, problems, online=online)
    if problems:
        raise SystemExit(1)


def _space_problems(config: Config) -> list[str]:
    """Say what is wrong with the space where data goes, before the journal would refuse to begin."""
    data_dir = config.collector.data_dir
    floor, free = find_floor(data_dir, config.store.min_free_bytes), free_bytes(data_dir)
    problems = [] if floor.problem is None else [floor.problem]
    if free < floor.bytes:
        problems.append(f"{floor.shortage(free)}; kept journals go first, then nothing is recorded until there is more")
    return problems


def _share_problems(config: Config, plan: Plan) -> list[str]:
    """Say where this process's share is less than one dial or one request at a time: several processes that ask in the
    same moment may then be too many.
    """
    share, problems = config.limits.share, []
    for name, market in dict.fromkeys((one.exchange, one.market) for one in plan.instruments):
        exchange, limits = EXCHANGES[name], EXCHANGES[name].limits(market)
        instrument = next(one for one in plan.instruments if (one.exchange, one.market) == (name, market))
        requests = (exchange.instruments_request(market), exchange.snapshot_request(instrument))
        largest = max(request.weight for request in requests if request is not None)
        least = max(1 / limits.dials.limit, largest / limits.weight.limit)
        if share < least:
            problems.append(
                f"limits.share is {share:g}; below {least:.3g} the limits of {name} {market} cannot be shared out: one "
                f"request weighs up to {largest} of {limits.weight}, and dials are {limits.dials}"
            )
    return problems


def _proxy_problems(config: Config, plan: Plan) -> list[str]:
    problems = []
    urls = [stream.url for stream in plan.streams] + [poll["url"] for poll in _polls(config)]
    for url in [*urls, *filter(None, [config.alerts.webhook])]:
        try:
            _through(config, url)
        except ConnectionEnded as ended:
            problems.append(str(ended))
    return list(dict.fromkeys(problems))


def _through(config: Config, url: str) -> str:
    """Name the proxy that `url` is reached through, without its password; "" for none. Raises ConnectionEnded."""
    proxy = choose_proxy(url, config.net.proxy, os.environ)
    return "" if proxy is None else str(parse_proxy(proxy))


def _through_or_none(config: Config, url: str) -> str:
    """Name the proxy where it can be used; where not, that is among the problems."""
    with suppress(ConnectionEnded):
        return _through(config, url)
    return ""


def _webhook(config: Config) -> dict[str, str | None] | None:
    """Name the webhook by its host: what stands behind is often a secret. None where nobody is told of alerts."""
    url = config.alerts.webhook
    return {"host": urlsplit(url).hostname, "proxy": _through_or_none(config, url) or None} if url else None


def _kept(config: Config, markets: list[Market]) -> dict[Market, Listing]:
    kept = {market: load_listing(config.collector.data_dir, *market) for market in markets}
    return {market: listing for market, listing in kept.items() if listing is not None}


async def _fetch(config: Config, markets: list[Market], problems: list[str]) -> dict[Market, Listing]:
    network, clock, found = app.open_network(config), Clock(), {}
    gates = Gates(clock.now, random.Random())
    for name, market in markets:
        exchange = EXCHANGES[name]
        try:
            async with app.open_rest(network, rest_url(config, exchange, market)) as client:
                weight = Budget(exchange.limits(market).weight)
                listing = await fetch_listing(exchange, market, client, gates.get(name), weight, clock.now)
        except CollectorError as error:
            problems.append(f"{name} {market}: no instruments: {error}")
        else:
            keep_listing(config.collector.data_dir, name, market, listing)
            found[name, market] = listing
    return found


class _Nobody:
    """A sink that drops what comes while an endpoint is only probed."""

    def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
        return True

    async def room(self) -> None:
        raise AssertionError("nothing is ever refused")


async def _probe(config: Config, plan: Plan) -> list[str]:
    network, clock, problems = app.open_network(config), Clock(), []
    for url in dict.fromkeys(stream.url for stream in plan.streams):
        try:
            async with app.open_socket(network, clock.now, url, _Nobody()):
                pass
        except ConnectionEnded as ended:
            problems.append(f"{url}: {ended}")
    return problems


def _document(
    config: Config, plan: Plan, listings: Mapping[Market, Listing], unknown: list[Market], problems: list[str]
) -> dict[str, Any]:
    return {
        "config": config.source,
        "data_dir": str(config.collector.data_dir),
        "instruments": {f"{name} {market}": listing.fetched for (name, market), listing in listings.items()},
        "unchecked": [f"{name} {market}" for name, market in unknown],
        "sockets": [
            {
                "stream": stream.name,
                "exchange": stream.exchange,
                "markets": list(stream.markets),
                "url": stream.url,
                "proxy": _through_or_none(config, stream.url) or None,
                "subscriptions": [attrs.asdict(subscription) for subscription in stream.subscriptions],
                "budgets": _budgets(stream),
            }
            for stream in plan.streams
        ],
        "snapshots": _snapshots(config, plan),
        "polls": _polls(config),
        "webhook": _webhook(config),
        "problems": problems,
    }


def _budgets(stream: StreamPlan) -> dict[str, str]:
    """Say what the stream may spend: dials and REST weight are the process's, messages the connection's."""
    limits = stream.limits
    return {"dials": str(limits.dials), "messages": str(limits.messages), "weight": str(limits.weight)}


def _snapshots(config: Config, plan: Plan) -> list[dict[str, Any]]:
    """Say for each market with order books where whole ones come from, and what one costs of which budget."""
    found: dict[Market, dict[str, Any]] = {}
    for stream in plan.streams:
        books = {s.native_symbol for s in stream.subscriptions if s.channel == "book"}
        for instrument in stream.instruments:
            exchange, market = EXCHANGES[stream.exchange], instrument.market
            if instrument.native_symbol not in books or (stream.exchange, market) in found:
                continue
            limits, request = exchange.limits(market), exchange.snapshot_request(instrument)
            found[stream.exchange, market] = {
                "exchange": stream.exchange,
                "market": market,
                "weight": None if request is None else request.weight,
                "budget": None if request is None else str(limits.weight.share(config.limits.share)),
                "pool": None if request is None else limits.pool,
            }
    return list(found.values())


def _polls(config: Config) -> list[dict[str, Any]]:
    """Say what is asked of REST again and again, how often at most, and what of which budget it takes."""
    markets = list(dict.fromkeys((record.exchange, record.market) for record in config.record))
    wanted = [
        ("instruments", EXCHANGES[name], market, market, EXCHANGES[name].instruments_request(market), REFRESH_EVERY_S)
        for name, market in markets
    ]
    wanted += [
        ("time", exchange, market, named, exchange.time_request(market), EVERY_S)
        for exchange, market, named in clocks(config, EXCHANGES)
    ]
    wanted += [
        (MAINTENANCE, EXCHANGES[name], market, "all", request, ASK_EVERY_S)
        for name, market in {record.exchange: record.market for record in config.record}.items()
        if (request := EXCHANGES[name].maintenance_request()) is not None
    ]
    return [
        {
            "what": what,
            "exchange": exchange.NAME,
            "market": named,
            "url": rest_url(config, exchange, market) + request.path,
            "proxy": _through_or_none(config, rest_url(config, exchange, market)) or None,
            "every_s": every_s,
            "weight": request.weight,
            "budget": str(exchange.limits(market).weight.share(config.limits.share)),
            "pool": exchange.limits(market).pool,
        }
        for what, exchange, market, named, request, every_s in wanted
    ]


def _print(
    config: Config,
    plan: Plan,
    listings: Mapping[Market, Listing],
    unknown: list[Market],
    problems: list[str],
    *,
    online: bool,
) -> None:
    click.echo(f"{config.source} is valid. Data goes to {config.collector.data_dir}.")
    for (name, market), listing in listings.items():
        click.echo(f"{name} {market}: {len(listing.instruments)} instruments, as of {listing.fetched}")
    for name, market in unknown:
        symbols = ", ".join(s for r in config.record if (r.exchange, r.market) == (name, market) for s in r.symbols)
        click.echo(
            f"{name} {market}: instruments are not known yet, so {symbols} and their sockets could not be checked"
            + ("" if online else "; use --online, or run once")
        )
    for stream in plan.streams:
        through = _through_or_none(config, stream.url)
        click.echo(f"\n{stream.name}  {stream.url}" + (f"  through {through}" if through else ""))
        width = max(len(subscription.native_symbol) for subscription in stream.subscriptions)
        for subscription in stream.subscriptions:
            expected = f"data within {subscription.first_data_s:g} s" if subscription.prompt else "may be quiet"
            silence = "" if subscription.silence_s is None else f", silent at most {subscription.silence_s:g} s"
            named = f"{subscription.channel:7} {subscription.native_symbol:{width}} {subscription.argument}"
            click.echo(f"  {named} ({expected}{silence})")
        click.echo("  budgets: " + ", ".join(f"{name} {rate}" for name, rate in _budgets(stream).items()))
    snapshots = _snapshots(config, plan)
    if snapshots:
        click.echo("\norder book snapshots:")
    for one in snapshots:
        cost = f"REST, weight {one['weight']} each, of {one['budget']} in the pool {one['pool']}"
        named = f"{one['exchange']} {one['market']}"
        click.echo(f"  {named:13} {'on the socket, no REST' if one['weight'] is None else cost}")
    polls = _polls(config)
    click.echo("\npolls:")
    for poll in polls:
        every = f"every {poll['every_s']:g} s" + (" at most, when sessions end" if poll["what"] == MAINTENANCE else "")
        cost = f"weight {poll['weight']} {every}, of {poll['budget']} in the pool {poll['pool']}"
        named = f"{poll['exchange']} {poll['market']}"
        through = f"  through {poll['proxy']}" if poll["proxy"] else ""
        click.echo(f"  {named:13} {poll['what']:11} {poll['url']} ({cost}){through}")
    webhook = _webhook(config)
    if webhook is None:
        click.echo("\nno webhook: alerts are in the log, in `status` and in the metrics only")
    else:
        click.echo(f"\nwebhook: {webhook['host']}" + (f"  through {webhook['proxy']}" if webhook["proxy"] else ""))
    known = "" if not unknown else " for the markets whose instruments are known"
    click.echo(f"\n{len(plan.streams)} sockets{known}, {len(polls)} polls.")
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
