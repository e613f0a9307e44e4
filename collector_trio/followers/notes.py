"""What no frame says becomes rows too: terms of instruments, ends of sessions and requests, changes of the ledger."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import pyarrow as pa

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import GapChange
from collector_trio.continuity.tracks import BookTrack, TradeTrack
from collector_trio.followers.chunks import ALL, Finished, Line
from collector_trio.followers.columns import exact_texts, floats, micros
from collector_trio.instruments import Instrument
from collector_trio.journal.records import Note


@attrs.define
class LedgerRows:
    """Writes down what changes in the ledger. `news`: something may have, since it was last written."""

    continuity: Continuity | None
    finished: Finished
    news: bool = False

    def look(self, track: TradeTrack | BookTrack) -> None:
        """Take note of what `track` has to say."""
        self.news = self.news or track.dirty

    def write(self, line: Line) -> None:
        """Add a row for each change, as brought by `line`."""
        self.news = False
        changes = [] if self.continuity is None else self.continuity.changes()
        for (exchange, market), group in _by_market(changes):
            columns = {
                "symbol": [change.symbol for change in group],
                "from_ts": _times([change.from_ns for change in group]),
                "to_ts": _times([change.to_ns for change in group]),
            }
            for name in ("table", "gap", "state", "first_missing", "last_missing", "missing", "cause", "detail"):
                columns[name] = [getattr(change, name) for change in group]
            self.finished.put("gaps", exchange, market, [line] * len(group), columns)


def put_instruments(finished: Finished, note: Note, instruments: Iterable[Instrument]) -> None:
    """Add a row for each of the `instruments` a note describes."""
    for (exchange, market), group in _by_market(instruments):
        exact: dict[str, Mapping[int, str]] = {}
        columns: dict[str, Any] = {}
        for name in ("tick_size", "lot_size", "contract_size"):
            texts = [getattr(instrument, name) for instrument in group]
            columns[name] = [None if text is None else float(text) for text in texts]
            exact[name] = floats([text or "0" for text in texts])[1]
        for name in ("symbol", "native_symbol", "base", "quote", "status"):
            columns[name] = [getattr(instrument, name) for instrument in group]
        columns["valid_from"] = micros([note.value["valid_from_ns"]] * len(group))
        columns["exact"] = exact_texts(len(group), exact)
        finished.put("instruments", exchange, market, [(None, -1, note.ns)] * len(group), columns)


def put_session(finished: Finished, ns: int, value: Mapping[str, Any]) -> None:
    """Add the row of a session that has ended, at `ns` if the note's `value` does not know better."""
    columns = {
        "stream": [value["stream"]],
        "opened_at": micros([value["opened_ns"]]),
        "live_at": None if value["live_ns"] is None else micros([value["live_ns"]]),
        "closed_at": micros([value.get("closed_ns", ns)]),
        "reason": [value["reason"]],
        "detail": [value["detail"]],
        "frames": [value["frames"]],
        "bytes": [value["bytes"]],
        "peer": [value["peer"]],
    }
    markets = value["markets"]
    market = markets[0] if len(markets) == 1 else ALL
    finished.put("sessions", value["exchange"], market, [(value["session"], -1, ns)], columns)


def put_request(
    finished: Finished, ns: int, request: Mapping[str, Any], reason: str, detail: str = "",
    facts: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Add the row of a REST request that has ended: it was a connection of its own, with `facts` received."""
    exchange, market = request["exchange"], request["market"]
    value = {
        "session": request["session"], "stream": f"{exchange}.{market}.rest", "exchange": exchange, "markets": [market],
        "opened_ns": request["opened_ns"], "live_ns": None, "reason": reason, "detail": detail, "peer": request["url"],
    }  # fmt: skip
    put_session(finished, ns, {**value, **(facts or {"frames": 0, "bytes": 0})})


def _times(ns: Sequence[int | None]) -> pa.Array:
    return pa.array([None if value is None else value // 1000 for value in ns], pa.int64()).cast(
        pa.timestamp("us", tz="UTC")
    )


_Of = TypeVar("_Of", Instrument, GapChange)


def _by_market(items: Iterable[_Of]) -> Iterable[tuple[tuple[str, str], list[_Of]]]:
    groups: dict[tuple[str, str], list[_Of]] = {}
    for item in items:
        groups.setdefault((item.exchange, item.market), []).append(item)
    return groups.items()
