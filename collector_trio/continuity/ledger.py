"""The words of the gap ledger: one row is one change of state of one gap."""

from enum import StrEnum
from hashlib import blake2b

import attrs


class State(StrEnum):
    """What became of a gap; the last row of its id says it."""

    OPEN = "open"  # missing, and may still be had
    REPAIRED = "repaired"  # it came after all
    LOST = "lost"  # it cannot be had any more
    BENIGN = "benign"  # there never was anything


class Cause(StrEnum):
    """Why something is missing."""

    DISCONNECT = "disconnect"  # a session ended
    MAINTENANCE = "maintenance"  # a session ended, as the exchange had announced
    PROCESS_DOWN = "process down"  # no collector was running
    BACKPRESSURE = "backpressure"  # the disk was full, and reading stopped
    REJECT = "reject"  # a frame could not be used
    DAMAGE = "journal damaged"
    SKIPPED = "skipped"  # the exchange left it out, in the midst of a session


@attrs.frozen
class Reason:
    """A cause, and what there is to say about it. `earlier` is the lighter one that it has taken the place of."""

    cause: Cause
    detail: str = ""
    earlier: str = ""

    def outweighing(self, before: "Reason") -> "Reason":
        """Return this with what went before it: the first of all, for an outage can be longer than what ended it."""
        if before.earlier or before.cause is self.cause:
            return attrs.evolve(self, earlier=before.earlier)
        return attrs.evolve(self, earlier="after " + ": ".join(filter(None, (before.cause, before.detail))))

    @property
    def told(self) -> "Reason":
        """The same as it is in the ledger: what went before is part of the detail."""
        return Reason(self.cause, "; ".join(filter(None, (self.detail, self.earlier))))


@attrs.frozen
class GapChange:
    """One row of the ledger.

    `missing` ids from `first_missing` to `last_missing` (both included); of books their number is unknown. `from_ns` to
    `to_ns` is exchange time, in nanoseconds since the epoch: from the last thing before the gap to the first behind it;
    None where there is none yet.
    """

    table: str
    exchange: str
    market: str
    symbol: str
    gap: str
    state: State
    first_missing: int | None
    last_missing: int | None
    missing: int | None
    from_ns: int | None
    to_ns: int | None
    cause: Cause
    detail: str


def gap_id(table: str, exchange: str, market: str, symbol: str, first_missing: int) -> str:
    """Name a gap by what it is of and where it begins: the same wherever and whenever it is found."""
    text = f"{table} {exchange} {market} {symbol} {first_missing}"
    return blake2b(text.encode(), digest_size=8).hexdigest()
