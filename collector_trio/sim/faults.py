"""Faults: when they strike, whom, and what they do to a connection. Those that lie in wait are handed to `traps`."""

import json
from collections.abc import Callable, Iterable, Sequence
from math import ceil

import attrs
import trio

from collector_trio.sim.connection import Connection
from collector_trio.sim.fault import Fault, Prey
from collector_trio.sim.http import Answer
from collector_trio.sim.mishaps import Mishaps
from collector_trio.sim.police import WEIGHTS, Police
from collector_trio.sim.truth import FaultRecord, Truth
from collector_trio.sim.venue import Venue

AGAIN_S = 1.0  # a fault that finds nobody looks again so much later: one who has data may subscribe to more
# These await something that is yet to come; the others a connection that was sent data.
AWAITING = (Prey.HANDSHAKE, Prey.CALL, Prey.REQUEST, Prey.SUBSCRIPTION)
LEAD_S = 5.0  # between an exchange's notice and its close


@attrs.frozen
class Ban:
    """Who asks `target` of `fault` from `since` until `until` (trio time) is refused; handshakes alone if `dials`."""

    fault: Fault
    since: float
    until: float
    dials: bool


@attrs.define(eq=False)
class Faults:
    """Strikes connections, refuses handshakes, and sets traps for the rest.

    `connections` are the open ones, kept by the server; `venues` are all exchanges.
    """

    truth: Truth
    now_ns: Callable[[], int]
    mishaps: Mishaps
    venues: Sequence[Venue]
    police: Police
    connections: set[Connection] = attrs.Factory(set)
    _news: trio.Event = attrs.Factory(trio.Event)
    _refusals: list[tuple[Fault, int]] = attrs.Factory(list)
    bans: list[Ban] = attrs.Factory(list)

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
        if fault.kind in ("refuse", "deny"):
            self._refusals.append((fault, fault.count))
        elif fault.kind == "ban":
            now = trio.current_time()
            self.bans.append(Ban(fault, now, now + fault.duration_s, dials=False))
        elif fault.kind == "spend":
            for pool in WEIGHTS:
                if fault.strikes(f"{pool}.rest"):
                    self.police.spend(pool, fault.count)
        elif fault.prey in AWAITING:
            traps.set(fault, record)
        for connection in struck:
            if fault.prey is Prey.FRAME:
                traps.set(fault, record, connection=connection)
            elif fault.kind == "shutdown":
                self._shut_down(connection, fault)
            else:
                _end(connection, fault)
        if fault.kind == "shutdown":
            closed = trio.current_time() + self._lead_s(fault)
            self.bans.append(Ban(fault, closed, closed + fault.duration_s, dials=True))
        return len(struck)

    def _lead_s(self, fault: Fault) -> float:
        return LEAD_S if fault.delay_s is None else fault.delay_s

    def _shut_down(self, connection: Connection, fault: Fault) -> None:
        """Say what the exchange says before it closes a connection, and close it later."""
        if connection.endpoint.startswith("okx"):
            said = "The connection will soon be closed for a service upgrade. Please reconnect."
            notice: dict[str, object] = {
                "event": "notice",
                "code": "64008",
                "msg": said,
                "connId": f"{connection.record.conn:08x}",
            }
        else:
            event = {"e": "serverShutdown", "E": self.now_ns() // 1_000_000}
            notice = {"stream": "!serverShutdown", "data": event}
        if fault.told:
            connection.say(json.dumps(notice, separators=(",", ":")))
        self.mishaps.later.after(self._lead_s(fault), lambda: connection.end("close", 1001))

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

    def refusal(self, endpoint: str, prey: Prey) -> Answer | None:
        """Return the answer for a handshake or a REST request that is to be refused; None lets it through."""
        now = trio.current_time()
        self.bans = [ban for ban in self.bans if now < ban.until]
        for ban in self.bans:
            if ban.since <= now and ban.fault.strikes(endpoint) and (prey is Prey.HANDSHAKE or not ban.dials):
                self.truth.refused += 1
                return self._banned(ban, now)
        for index, (fault, left) in enumerate(self._refusals):
            if fault.prey is prey and fault.strikes(endpoint):
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

    def _banned(self, ban: Ban, now: float) -> Answer:
        if ban.dials:
            return Answer({"code": 0, "msg": "Service Unavailable."}, 503)
        if not ban.fault.told:
            return Answer({"code": -1003, "msg": "refused"}, ban.fault.status)
        until_ms = self.now_ns() // 1_000_000 + round((ban.until - now) * 1000)
        text = f"Way too much request weight used; IP banned until {until_ms}. Please use the websocket."
        return Answer({"code": -1003, "msg": text}, ban.fault.status, {"Retry-After": str(ceil(ban.until - now))})

    def maintained_ns(self, exchange: str) -> list[tuple[int, int]]:
        """Return from when to when an exchange says that it is in maintenance, where that is now."""
        now, now_ns = trio.current_time(), self.now_ns()
        return [
            (now_ns + round((ban.since - now) * 1e9), now_ns + round((ban.until - now) * 1e9))
            for ban in self.bans
            if ban.dials and ban.since <= now < ban.until and ban.fault.strikes(f"{exchange}.public")
        ]

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
