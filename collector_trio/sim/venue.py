"""What the two simulated exchanges have in common: their listings, their audience, and the feeds that talk to it."""

from collections.abc import Iterable
from random import Random

from collector_trio.sim.audience import Audience, Subscription
from collector_trio.sim.feed import Clock, Feed
from collector_trio.sim.market import Listing


class Venue:
    """One exchange. In a replay there are listings but no feeds."""

    def __init__(self, listings: Iterable[Listing], clock: Clock) -> None:
        self.listings = tuple(listings)
        self.native_symbols = frozenset(listing.native_symbol for listing in self.listings)
        self.clock = clock
        self.audience = Audience()
        self.feeds: dict[str, Feed] = {}

    def add_feed(self, feed: Feed) -> None:
        """Let this feed publish its instrument."""
        self.feeds[feed.listing.native_symbol] = feed

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription and see that its instrument's time runs."""
        self.audience.add(subscription)
        feed = self.feeds.get(subscription.native_symbol)
        if feed is not None:
            feed.poke()


def seeded(*names: object) -> Random:
    """Return a generator that depends on these names alone: one symbol's walk does not depend on the others."""
    return Random("/".join(map(str, names)))
