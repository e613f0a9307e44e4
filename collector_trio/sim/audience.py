"""Who is subscribed to what on one simulated exchange."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs
import trio

from collector_trio.sim.fault import Place

if TYPE_CHECKING:
    from collector_trio.sim.connection import Connection


@attrs.define(eq=False)
class Subscription:
    """One stream of one instrument on one connection.

    `started`: the snapshot it begins with has been sent. `over`: it was taken back, or its connection is no more.
    """

    connection: "Connection"
    stream: str
    native_symbol: str
    place: Place
    micro: bool = False
    started: bool = False
    over: bool = False

    @property
    def kind(self) -> str:
        """Return "trades", "book" or "other"."""
        return self.place.channel


def kind_of(stream: str) -> str:
    """Say what a stream of either exchange carries: "trades", "book" or "other"."""
    if stream in ("trade", "aggTrade", "trades", "trades-all"):
        return "trades"
    return "book" if stream.startswith(("depth", "books")) else "other"


@attrs.define(eq=False)
class Audience:
    """All subscriptions of an exchange, in the order in which they were made; `version` grows with every change."""

    _by_key: dict[tuple[str, str], dict["Connection", Subscription]] = attrs.Factory(dict)
    _changed: trio.Event = attrs.Factory(trio.Event)
    version: int = 0

    def add(self, subscription: Subscription) -> None:
        """Subscribe; doing so twice on a connection changes nothing."""
        key = (subscription.stream, subscription.native_symbol)
        self._by_key.setdefault(key, {}).setdefault(subscription.connection, subscription)
        self._wake()

    def remove(self, connection: "Connection", stream: str, native_symbol: str) -> None:
        """Unsubscribe; from nothing, too."""
        self._remove(self._by_key.get((stream, native_symbol), {}), connection)
        self._wake()

    def leave(self, connection: "Connection") -> None:
        """Forget a connection."""
        for subscriptions in self._by_key.values():
            self._remove(subscriptions, connection)
        self._wake()

    def of(self, stream: str, native_symbol: str) -> Collection[Subscription]:
        """List who hears this stream of this instrument."""
        subscriptions = self._by_key.get((stream, native_symbol))
        return tuple(subscriptions.values()) if subscriptions else ()

    def of_symbol(self, native_symbol: str) -> list[Subscription]:
        """List every subscription to this instrument, whatever the stream."""
        return [
            subscription
            for (_, native), subscriptions in self._by_key.items()
            if native == native_symbol
            for subscription in subscriptions.values()
        ]

    def of_connection(self, connection: "Connection") -> list[Subscription]:
        """List what a connection hears."""
        return [subscriptions[connection] for subscriptions in self._by_key.values() if connection in subscriptions]

    async def change(self) -> None:
        """Wait until somebody subscribes, unsubscribes or leaves."""
        await self._changed.wait()

    @staticmethod
    def _remove(subscriptions: dict["Connection", Subscription], connection: "Connection") -> None:
        subscription = subscriptions.pop(connection, None)
        if subscription is not None:
            subscription.over = True

    def _wake(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = trio.Event()
