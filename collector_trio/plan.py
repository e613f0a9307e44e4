"""From a config and the instruments to the sockets that will be opened: pure, so that `check` can print it and `run`
just does it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import attrs

from collector_trio.config import Config, Offers
from collector_trio.instruments import Instrument, select


@attrs.frozen
class Subscription:
    """One channel of one instrument on one socket.

    `argument` is what the exchange's subscribe message names. `prompt` subscriptions must bring data within
    `first_data_s`; after that a silence of `silence_s` is a fault (None: silence means nothing, as for a symbol that
    trades once an hour).
    """

    channel: str
    native_symbol: str
    argument: str
    prompt: bool
    first_data_s: float
    silence_s: float | None

    @property
    def key(self) -> tuple[str, str]:
        """What decoded messages name it by."""
        return self.channel, self.native_symbol


@attrs.frozen
class Rate:
    """At most `limit` in any `period_s` seconds."""

    limit: float
    period_s: float

    def share(self, part: float) -> "Rate":
        """Return this process's part of the rate: where that is less than one in a period, one in a longer period."""
        limit = self.limit * part
        return Rate(limit, self.period_s) if limit >= 1 else Rate(1.0, self.period_s / limit)

    def __str__(self) -> str:
        return f"{self.limit:g} per {self.period_s:g} s"


@attrs.frozen
class Limits:
    """What a venue allows, with a margin. `dials` and `weight` are per IP address, so the whole process shares them.

    Markets with the same `pool` spend the same `weight`.
    """

    dials: Rate
    messages: Rate  # on one connection, from us
    weight: Rate  # of REST requests
    pool: str


@attrs.frozen
class Endpoint:
    """Where a channel is served: the stream name it gives ("okx.public"), the config section and key of its URL, and
    how many subscriptions of one channel may share a socket.
    """

    name: str
    section: str
    key: str
    per_socket: int


class Plannable(Protocol):
    """What planning needs to know of an exchange."""

    NAME: str
    OFFERS: Offers

    def limits(self, market: str) -> Limits:
        """Return the venue's limits."""

    def endpoint(self, market: str, channel: str) -> Endpoint:
        """Return where `channel` of `market` is served."""

    def subscription(self, instrument: Instrument, channel: str) -> Subscription:
        """Return what to ask for, and what to expect of it."""


E = TypeVar("E", bound=Plannable)


@attrs.frozen
class StreamPlan:
    """One socket that is to be kept open: its name ("binance.spot/1"), URL, markets and subscriptions."""

    name: str
    exchange: str
    markets: tuple[str, ...]
    url: str
    subscriptions: tuple[Subscription, ...]
    instruments: tuple[Instrument, ...]
    limits: Limits


@attrs.frozen
class Plan:
    """All streams, the instruments they carry, and the configured symbols and patterns that match nothing listed."""

    streams: tuple[StreamPlan, ...]
    instruments: tuple[Instrument, ...]
    unknown: tuple[str, ...]  # such as "binance spot FOO-USDT"


def make_plan(
    config: Config,
    exchanges: Mapping[str, Plannable],
    instruments: Mapping[tuple[str, str], Sequence[Instrument]],
) -> Plan:
    """Say which sockets carry which subscriptions. Markets without `instruments` are left out.

    Subscriptions of one endpoint are dealt to as few sockets as its limits allow, in the order of the config; a symbol
    keeps its socket as long as the config and the listing stay as they are.
    """
    carried: dict[Endpoint, dict[tuple[str, str], tuple[str, Instrument, Subscription]]] = {}
    unknown: list[str] = []
    for record in config.record:
        listed = instruments.get((record.exchange, record.market))
        if listed is None:
            continue
        exchange = exchanges[record.exchange]
        chosen, missing = select(record.symbols, listed)
        unknown += [f"{record.exchange} {record.market} {symbol}" for symbol in missing]
        for channel in record.channels:
            place = carried.setdefault(exchange.endpoint(record.market, channel), {})
            for instrument in chosen:
                subscription = exchange.subscription(instrument, channel)
                place.setdefault(subscription.key, (record.exchange, instrument, subscription))
    streams = []
    for endpoint, wanted in carried.items():
        for index, start in enumerate(range(0, len(wanted), endpoint.per_socket), 1):
            part = list(wanted.values())[start : start + endpoint.per_socket]
            markets = tuple(dict.fromkeys(instrument.market for _, instrument, _ in part))
            exchange_name = part[0][0]
            streams.append(
                StreamPlan(
                    name=f"{endpoint.name}/{index}",
                    exchange=exchange_name,
                    markets=markets,
                    url=config.endpoints[endpoint.section][endpoint.key],
                    subscriptions=tuple(subscription for _, _, subscription in part),
                    instruments=tuple(dict.fromkeys(instrument for _, instrument, _ in part)),
                    limits=_shared(exchanges[exchange_name].limits(markets[0]), config.limits.share),
                )
            )
    used = dict.fromkeys(instrument for stream in streams for instrument in stream.instruments)
    return Plan(tuple(streams), tuple(used), tuple(dict.fromkeys(unknown)))


def market_groups(config: Config, exchanges: Mapping[str, E]) -> list[tuple[E, tuple[str, ...]]]:
    """Return the recorded markets in groups that share sockets, which are therefore planned together.

    Binance's spot and perp have sockets of their own, OKX's spot and perp share theirs.
    """
    used: dict[tuple[str, str], set[Endpoint]] = {}
    for record in config.record:
        of_market = used.setdefault((record.exchange, record.market), set())
        of_market |= {exchanges[record.exchange].endpoint(record.market, channel) for channel in record.channels}
    groups: list[tuple[str, list[str], set[Endpoint]]] = []
    for (exchange, market), endpoints in used.items():
        joined = [group for group in groups if group[0] == exchange and group[2] & endpoints]
        groups = [group for group in groups if group not in joined]
        markets = [each for group in joined for each in group[1]]
        groups.append((exchange, [*markets, market], endpoints.union(*(group[2] for group in joined))))
    return [(exchanges[exchange], tuple(markets)) for exchange, markets, _ in groups]


def _shared(limits: Limits, share: float) -> Limits:
    """Apply this process's share to what is counted per IP address; a connection's own messages are not."""
    return attrs.evolve(limits, dials=limits.dials.share(share), weight=limits.weight.share(share))
