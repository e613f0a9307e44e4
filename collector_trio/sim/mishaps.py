"""What happens to single frames between their publication and a connection's outbox: lost, doubled, late, held back."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import attrs

from collector_trio.sim.audience import Subscription
from collector_trio.sim.facts import BookFact, TradeFact
from collector_trio.sim.fault import Prey
from collector_trio.sim.later import Later
from collector_trio.sim.traps import Traps
from collector_trio.sim.truth import Struck

DELAY_S = 1.0


class DataFrame(NamedTuple):
    """One data frame, as bytes for the wire, and what it says."""

    wire: bytes
    facts: tuple[TradeFact | BookFact, ...]


@attrs.define(eq=False)
class Mishaps:
    """The way from an exchange to its subscribers.

    A frame is lost, or waits until others have overtaken it, or is doubled; then it may be held with all that follow
    it in its stream. `_overtaken` counts down by stream, `_held` keeps what is held.
    """

    traps: Traps
    later: Later
    _overtaken: dict[Subscription, deque[tuple[int, DataFrame]]] = attrs.Factory(dict)
    _held: dict[Subscription, list[DataFrame]] = attrs.Factory(dict)

    def carry(self, subscription: Subscription, frame: DataFrame) -> None:
        """Bring a frame to its connection, or do not."""
        if self._held or self._overtaken or self.traps.waiting[Prey.FRAME]:
            self._carry(subscription, frame)
        else:
            subscription.connection.publish(subscription, *frame)

    def hold(self, subscription: Subscription) -> Callable[[], None]:
        """Keep back this stream's frames until the function that is returned is called."""
        held = self._held.setdefault(subscription, [])

        def release() -> None:
            if self._held.get(subscription) is held:
                del self._held[subscription]
                for frame in held:
                    _send(subscription, frame)

        return release

    def _carry(self, subscription: Subscription, frame: DataFrame) -> None:
        struck = self.traps.spring(Prey.FRAME, subscription.place, subscription.connection)
        if struck is None:
            self._pass(subscription, frame)
            return
        fault, record = struck
        conn = subscription.connection.record.conn
        ids = tuple(fact.number for fact in frame.facts)
        self.traps.truth.add_struck(record, Struck(conn, subscription.stream, subscription.native_symbol, ids))
        if fault.kind == "reorder":
            self._overtaken.setdefault(subscription, deque()).append((fault.by, frame))
        elif fault.kind == "double":
            self._pass(subscription, frame)
            if fault.delay_s:
                self.later.after(fault.delay_s, lambda: _send(subscription, frame))
            else:
                self._arrive(subscription, frame)
        elif fault.kind == "delay":
            if subscription not in self._held:
                self.later.after(fault.delay_s or DELAY_S, self.hold(subscription))
            self._pass(subscription, frame)

    def _pass(self, subscription: Subscription, frame: DataFrame) -> None:
        """Let a frame arrive, and behind it those that now have been overtaken often enough."""
        self._arrive(subscription, frame)
        overtaken = self._overtaken.pop(subscription, None)
        if overtaken is not None:
            waiting = deque((left - 1, late) for left, late in overtaken if left > 1)
            if waiting:
                self._overtaken[subscription] = waiting
            for left, late in overtaken:
                if left <= 1:
                    self._arrive(subscription, late)

    def _arrive(self, subscription: Subscription, frame: DataFrame) -> None:
        held = self._held.get(subscription)
        if held is None:
            _send(subscription, frame)
        else:
            held.append(frame)


def _send(subscription: Subscription, frame: DataFrame) -> None:
    if not subscription.over:
        subscription.connection.publish(subscription, *frame)
