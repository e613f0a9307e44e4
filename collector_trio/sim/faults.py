"""Faults: when they strike, whom, and what they do to a connection."""

from collections.abc import Callable, Iterable

import attrs
import trio

from collector_trio.sim.connection import Connection
from collector_trio.sim.http import Answer
from collector_trio.sim.scenario import Fault
from collector_trio.sim.truth import FaultRecord, Truth


@attrs.define(eq=False)
class Faults:
    """Strikes connections and refuses handshakes. `connections` are the open ones, kept by the server."""

    truth: Truth
    now_ns: Callable[[], int]
    connections: set[Connection] = attrs.Factory(set)
    _news: trio.Event = attrs.Factory(trio.Event)
    _refusals: list[tuple[Fault, int]] = attrs.Factory(list)

    def strike(self, fault: Fault) -> int:
        """Let `fault` happen now, whenever it was meant for.

        Returns how many connections it struck (none if it refuses).
        """
        struck = self._meant(fault)
        if fault.kind == "refuse":
            struck = []
            self._refusals.append((fault, fault.count))
        for connection in struck:
            if fault.kind == "stall":
                connection.stalled_until = trio.current_time() + fault.duration_s
            elif fault.kind == "close":
                default, reason = (
                    (4004, "No data received in 30s.") if connection.endpoint.startswith("okx") else (1001, "")
                )
                code = fault.code or default
                connection.end("close", code, reason if code == default else "")
            else:
                connection.end(fault.kind)
        conns = [connection.record.conn for connection in struck]
        self.truth.add_fault(FaultRecord(fault.kind, self.now_ns(), fault.target, conns))
        return len(struck)

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
            if fault.kind != "refuse":
                await self._somebody(fault)
            self.strike(fault)
            if fault.every_s is None:
                return
            due = max(due + fault.every_s, trio.current_time())

    async def _somebody(self, fault: Fault) -> None:
        """Wait until the fault would strike a connection that was sent data."""
        while not any(connection.record.data for connection in self._meant(fault)):
            await self._news.wait()

    def _meant(self, fault: Fault) -> list[Connection]:
        meant = [one for one in self.connections if one.open and fault.strikes(one.endpoint)]
        return sorted(meant, key=lambda connection: connection.record.conn)
