"""Faults: when they strike, whom, and what they do to a connection. Those that lie in wait are handed to `traps`."""

from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from collector_trio.sim.connection import Connection
from collector_trio.sim.fault import Fault, Prey
from collector_trio.sim.http import Answer
from collector_trio.sim.mishaps import Mishaps
from collector_trio.sim.truth import FaultRecord, Truth
from collector_trio.sim.venue import Venue

AGAIN_S = 1.0  # a fault that finds nobody looks again so much later: one who has data may subscribe to more
# These await something that is yet to come; the others a connection that was sent data.
AWAITING = (Prey.HANDSHAKE, Prey.REQUEST, Prey.SUBSCRIPTION)


@attrs.define(eq=False)
class Faults:
    """Strikes connections, refuses handshakes, and sets traps for the rest.

    `connections` are the open ones, kept by the server; `venues` are all exchanges.
    """

    truth: Truth
    now_ns: Callable[[], int]
    mishaps: Mishaps
    venues: Sequence[Venue]
    connections: set[Connection] = attrs.Factory(set)
    _news: trio.Event = attrs.Factory(trio.Event)
    _refusals: list[tuple[Fault, int]] = attrs.Factory(list)

    def strike(self, fault: Fault, conn: int | None = None) -> int:
        """Let `fault` happen now, whenever it was meant for; with `conn` to this connection only.

        Returns how many connections it strikes, or how many instruments (what an exchange publishes); none where that
        is yet to come, and none if it is by chance.
        """
        traps = self.mishaps.traps
        if fault.chance is not None:
            traps.set_by_chance(fault)
            return 0
        struck = [one for one in self._meant(fault) if conn in (None, one.record.conn)]
        record = FaultRecord(fault.kind, self.now_ns(), fault.target, [one.record.conn for one in struck])
        if fault.prey is Prey.CHANGE:
            record.conns = []
        self.truth.add_fault(record)
        if fault.prey is Prey.CHANGE:
            return self._trap_feeds(fault, record)
        if fault.prey is Prey.HANDSHAKE:
            self._refusals.append((fault, fault.count))
        elif fault.prey in AWAITING:
            traps.set(fault, record)
        for connection in struck:
            if fault.prey is Prey.FRAME:
                traps.set(fault, record, connection=connection)
            else:
                _end(connection, fault)
        return len(struck)

    def _trap_feeds(self, fault: Fault, record: FaultRecord) -> int:
        """Set a trap for each instrument whose time has begun, and hurry it."""
        number = 0
        for venue in self.venues:
            for feed in venue.feeds.values():
                place = next((place for place in feed.tape.places if fault.concerns(place)), None)
                if feed.begun and place is not None:
                    self.mishaps.traps.set(fault, record, place=place)
                    feed.poke()
                    number += 1
        return number

    def refusal(self, endpoint: str) -> Answer | None:
        """Return the answer for a handshake that is to be refused; None lets it through."""
        for index, (fault, left) in enumerate(self._refusals):
            if fault.strikes(endpoint):
                if left > 1:
                    self._refusals[index] = (fault, left - 1)
                else:
                    del self._refusals[index]
                headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
                self.truth.refused += 1
                return Answer(
                    {"code": -1003 if fault.status in (418, 429) else 0, "msg": "refused"}, fault.status, headers
                )
        return None

    def fed(self) -> None:
        """Take note that a connection was sent its first data."""
        self._news.set()
        self._news = trio.Event()

    async def run(self, faults: Iterable[Fault]) -> None:
        """Strike as scheduled, until cancelled."""
        async with trio.open_nursery() as nursery:
            for fault in faults:
                nursery.start_soon(self._schedule, fault, trio.current_time())

    async def _schedule(self, fault: Fault, started: float) -> None:
        first = fault.at_s if fault.at_s is not None else fault.every_s
        if first is None:
            return
        due = started + first
        while True:
            await trio.sleep_until(due)
            if fault.prey not in AWAITING and fault.chance is None:
                await self._somebody(fault)
            self.strike(fault)
            if fault.every_s is None:
                return
            due = max(due + fault.every_s, trio.current_time())

    async def _somebody(self, fault: Fault) -> None:
        """Wait until the fault would strike a connection that was sent data."""
        while not any(connection.record.data for connection in self._meant(fault)):
            with trio.move_on_after(AGAIN_S):
                await self._news.wait()

    def _meant(self, fault: Fault) -> list[Connection]:
        if fault.prey in AWAITING:
            return []
        meant = [
            one for one in self.connections if one.open and fault.strikes(one.endpoint) and self._hears(one, fault)
        ]
        return sorted(meant, key=lambda connection: connection.record.conn)

    def _hears(self, connection: Connection, fault: Fault) -> bool:
        """Tell whether a connection is subscribed to anything in the fault's scope, if the fault has one."""
        if fault.prey is Prey.CONNECTION:
            return True
        heard = [one for venue in self.venues for one in venue.audience.of_connection(connection)]
        return any(fault.concerns(subscription.place) for subscription in heard)


def _end(connection: Connection, fault: Fault) -> None:
    """Do to a connection what `fault` says."""
    if fault.kind == "stall":
        connection.stalled_until = trio.current_time() + fault.duration_s
    elif fault.kind == "close":
        okx = connection.endpoint.startswith("okx")
        default, reason = (4004, "No data received in 30s.") if okx else (1001, "")
        code = fault.code or default
        connection.end("close", code, reason if code == default else "")
    else:
        connection.end(fault.kind)
