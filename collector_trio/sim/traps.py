"""Faults that lie in wait: for a frame, for a change of a market, for a request, for a subscription."""

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

import attrs

from collector_trio.sim.fault import Fault, Place, Prey
from collector_trio.sim.market import seeded
from collector_trio.sim.truth import FaultRecord, Truth

if TYPE_CHECKING:
    from collector_trio.sim.connection import Connection


@attrs.define(eq=False)
class Trap:
    """A fault in wait. It strikes `left` times, and notes that in `record`; without a record it strikes by chance
    and `number` tells it from others like it.

    `connection` and `place`: it waits there only.
    """

    fault: Fault
    left: int
    record: FaultRecord | None
    connection: "Connection | None" = None
    place: Place | None = None
    number: int = 0
    draws: dict[Place, Random] = attrs.Factory(dict)


@attrs.define(eq=False)
class Traps:
    """All faults in wait on one server. What is drawn depends on the seed and the place, not on other places."""

    seed: object
    truth: Truth
    now_ns: Callable[[], int]
    waiting: dict[Prey, list[Trap]] = attrs.Factory(lambda: {prey: [] for prey in Prey})
    _by_chance: int = 0

    def set(
        self,
        fault: Fault,
        record: FaultRecord,
        *,
        connection: "Connection | None" = None,
        place: Place | None = None,
    ) -> None:
        """Let `fault` strike the next times."""
        left = 1 if fault.kind in ("skip", "delay") else fault.count
        self.waiting[fault.prey].append(Trap(fault, left, record, connection, place))

    def set_by_chance(self, fault: Fault) -> None:
        """Let `fault` strike by chance from now on."""
        self._by_chance += 1
        self.waiting[fault.prey].append(Trap(fault, 0, None, number=self._by_chance))

    def forget(self, connection: "Connection") -> None:
        """Take away what waits for this connection alone: it is over."""
        traps = self.waiting[Prey.FRAME]
        traps[:] = [trap for trap in traps if trap.connection is not connection]

    def spring(
        self, prey: Prey, place: Place, connection: "Connection | None" = None, kinds: Sequence[str] | None = None
    ) -> tuple[Fault, FaultRecord] | None:
        """Say which fault strikes here, if one does: the one that was set first.

        `kinds` are those that could. The caller does it, and notes what it did in the record (`Truth.add_struck`).
        """
        for trap in self.waiting[prey]:
            fault = trap.fault
            if (
                (trap.connection is not None and trap.connection is not connection)
                or (trap.place is not None and trap.place != place)
                or (kinds is not None and fault.kind not in kinds)
                or not fault.concerns(place)
            ):
                continue
            if trap.record is not None:
                trap.left -= 1
                if not trap.left:
                    self.waiting[prey].remove(trap)
                return fault, trap.record
            if self._drawn(trap, place):
                conns = [] if connection is None else [connection.record.conn]
                record = FaultRecord(fault.kind, self.now_ns(), fault.target, conns)
                self.truth.add_fault(record)
                if fault.count > 1 and fault.kind not in ("skip", "delay"):
                    again = Trap(fault, fault.count - 1, record, connection, place)
                    self.waiting[prey].insert(0, again)  # it goes on before anything else is drawn for
                return fault, record
        return None

    def _drawn(self, trap: Trap, place: Place) -> bool:
        if place not in trap.draws:
            names = (place.endpoint, place.market, place.native_symbol, place.stream)
            trap.draws[place] = seeded(self.seed, "fault", trap.fault.kind, trap.number, *names)
        return trap.draws[place].random() < (trap.fault.chance or 0.0)
