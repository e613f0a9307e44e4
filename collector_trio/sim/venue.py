"""What the simulated exchanges have in common: listings, an audience, and the feeds that talk to it."""

from collections.abc import Callable, Iterable

from collector_trio.sim.audience import Audience, Subscription, kind_of
from collector_trio.sim.connection import Connection, text_frame
from collector_trio.sim.facts import BookFact, TradeFact
from collector_trio.sim.fault import Place
from collector_trio.sim.feed import Clock, Feed
from collector_trio.sim.market import Listing
from collector_trio.sim.mishaps import DataFrame, Mishaps
from collector_trio.sim.truth import Truth


class Venue:
    """What shares sockets: Binance spot, Binance USD-M, or all of OKX. In a replay there are listings but no feeds."""

    def __init__(self, listings: Iterable[Listing], clock: Clock, truth: Truth, mishaps: Mishaps) -> None:
        self.listings = {listing.native_symbol: listing for listing in listings}
        self.clock = clock
        self.truth = truth
        self.mishaps = mishaps
        self.traps = mishaps.traps
        self.audience = Audience()
        self.feeds: dict[str, Feed] = {}

    def add_feed(self, feed: Feed) -> None:
        """Let this feed publish its instrument."""
        self.feeds[feed.listing.native_symbol] = feed

    def subscribe(self, connection: Connection, stream: str, native_symbol: str, *, micro: bool = False) -> None:
        """Add a subscription to a listed instrument, and see that its time runs."""
        place = place_of(connection.endpoint, self.listings[native_symbol], stream)
        self.audience.add(Subscription(connection, stream, native_symbol, place, micro))
        feed = self.feeds.get(native_symbol)
        if feed is not None:
            feed.poke()

    def publish(
        self, facts: tuple[TradeFact | BookFact, ...], spelled: Callable[[bool], bytes], *, begun: bool = False
    ) -> None:
        """Tell facts of one stream to the truth and, as one frame, to whoever listens.

        `spelled` makes the frame's text, told whether its times are in microseconds. `begun`: only to subscriptions
        that had their snapshot.
        """
        for fact in facts:
            self.truth.add_published(fact)
        frames: dict[bool, DataFrame] = {}
        for subscription in self.audience.of(facts[0].stream, facts[0].native_symbol):
            if begun and not subscription.started:
                continue
            frame = frames.get(subscription.micro)
            if frame is None:
                frame = frames[subscription.micro] = DataFrame(text_frame(spelled(subscription.micro)), facts)
            self.mishaps.carry(subscription, frame)


def place_of(endpoint: str, listing: Listing, stream: str) -> Place:
    """Say where faults find a stream of an instrument."""
    return Place(endpoint, listing.market, listing.symbol, kind_of(stream), stream, listing.native_symbol)
