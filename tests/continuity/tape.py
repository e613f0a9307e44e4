"""One instrument's trades, as sessions bring them into a fold of their own."""

from itertools import count

import attrs

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import Cause, GapChange, State
from collector_trio.continuity.tracks import TradeTrack
from collector_trio.instruments import Instrument

BTC = Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "", True)
A, B, C = 1, 2, 3
SECOND = 1_000_000_000


@attrs.define
class Tape:
    """One instrument's trades in a fold of their own. Frames are numbered from 1, each a millisecond after the last."""

    fold: Continuity = attrs.field(factory=Continuity)
    frames: "count[int]" = attrs.field(factory=lambda: count(1))
    ns: int = 0
    rows: list[GapChange] = attrs.field(factory=list)

    @property
    def track(self) -> TradeTrack:
        return self.fold.trade_track(BTC)

    def take(self, session: int, first: int, last: int | None = None) -> bool:
        """Take the ids `first..last` (one, if only that is said), which have their number for a time."""
        self.ns += 1_000_000
        last = first if last is None else last
        return self.track.take(session, first, last, last, next(self.frames), self.ns, self.fold.rejected.get(session))

    def reject(self, session: int) -> None:
        self.fold.rejected[session] = next(self.frames), "no JSON"

    def end(self, session: int) -> None:
        self.fold.session_ended(session, "silent", "no data for 30 s")

    def tick(self, seconds: float = 1) -> None:
        self.ns += int(seconds * SECOND)
        self.fold.tick(self.ns)

    def ledger(self) -> list[tuple[str, int | None, int | None]]:
        """Return what is new in the ledger: state, first and last missing id."""
        rows = self.fold.changes()
        self.rows += rows
        return [(row.state.value, row.first_missing, row.last_missing) for row in rows]

    def cause(self) -> Cause:
        """Return why the newest gap is one."""
        self.ledger()
        return self.rows[-1].cause

    def in_ledger(self) -> set[int]:
        """Return the ids that the whole ledger calls missing: the last row of each gap."""
        self.ledger()
        gaps = {row.gap: row for row in self.rows}
        missing = [range(row.first_missing or 0, (row.last_missing or 0) + 1) for row in opened(gaps)]
        assert sum(map(len, missing)) == len(set().union(*missing)), "an id is missing twice"
        return set().union(*missing)


def opened(gaps: dict[str, GapChange]) -> list[GapChange]:
    return [row for row in gaps.values() if row.state is State.OPEN]
