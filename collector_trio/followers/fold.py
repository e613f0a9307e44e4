"""From journal records to the tables' rows: a pure fold, the same for the live follower, `replay`, `decode` and `sql`.

Every segment opens with all that is current, so a fold begins afresh with each. Frames are decoded one by one and
classified (rows, control, ignored with its reason, reject); rows wait as the typed messages they are and become columns
`CHUNK` at a time. The counts per class always add up to the frames fed: the frame equation of the table `segments`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import attrs
import cattrs
import numpy as np
import pyarrow as pa

from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookDelta, Control, Ignored, Reject, Row, Trade
from collector_trio.followers.columns import BadSides, Levels, build, exact_texts, floats, micros
from collector_trio.instruments import Instrument
from collector_trio.journal.records import Batch, Damage, Letter, Note

CHUNK = 4096  # messages turned into columns at once: large enough to be fast, small enough to stay in the cache

# Which table, exchange and market a chunk of rows belongs to; each is a file of its own.
Place = tuple[str, str, str]
ALL = "all"


# What brought a row: session, frame number (-1: no frame, but a note), receive time in nanoseconds. A bare tuple: there
# is one per frame, and anything with names costs more than decoding does.
Line = tuple[int | None, int, int]


@attrs.define
class _Pending:
    """Messages of one table and market that wait to become columns."""

    rows: list[Any] = attrs.field(factory=list)
    instruments: list[Instrument] = attrs.field(factory=list)
    lines: list[Line] = attrs.field(factory=list)
    frames: list[bytes] = attrs.field(factory=list)  # whole, in case a level in one of them turns out to be none


@attrs.frozen
class _Slot:
    """Where the messages of one instrument and channel wait."""

    instrument: Instrument
    place: Place
    pending: _Pending


@attrs.frozen
class _Session:
    exchange: str
    markets: tuple[str, ...]

    @property
    def market(self) -> str:
        return self.markets[0] if len(self.markets) == 1 else ALL


class Naming:
    """Finds the instrument behind a native symbol.

    Made from the instruments notes of a segment, or from an exchange's own answer.
    """

    def __init__(self, *, unknown_market: str | None = None) -> None:
        """With `unknown_market`, a symbol nobody described is an instrument of that market under its native name."""
        self._known: dict[tuple[str, str], Instrument] = {}
        self._unknown_market = unknown_market
        self.made_up = 0

    def add(self, instruments: Iterable[Instrument]) -> None:
        """Learn `instruments`; of two with one native symbol the later wins."""
        for instrument in instruments:
            self._known[instrument.exchange, instrument.native_symbol] = instrument

    def find(self, exchange: str, native_symbol: str) -> Instrument | None:
        """Return the instrument, None where nobody described it."""
        found = self._known.get((exchange, native_symbol))
        if found is None and self._unknown_market is not None:
            found = Instrument(exchange, self._unknown_market, native_symbol, native_symbol, "", "", "", True)
            self._known[exchange, native_symbol] = found
            self.made_up += 1
        return found


class Fold:
    """Folds the records of one segment (or one pile of frames) into tables."""

    def __init__(self, naming: Naming, on_classified: Callable[[int, str, str], None] | None = None) -> None:
        """`on_classified(frame, class, text)` hears of every frame: its reason, or of each row its native symbol."""
        self.naming = naming
        self.counts: Counter[str] = Counter()  # frames by class
        self.ignored: Counter[str] = Counter()  # frames by reason
        self.damages: list[Damage] = []
        self.first_frame: int | None = None
        self.first_ns = 0
        self.last_ns = 0
        self._on_classified = on_classified
        self._sessions: dict[int, _Session] = {}
        self._used: set[_Session] = set()
        self._pending: dict[Place, _Pending] = {}
        self._slots: dict[str, dict[tuple[str, str], _Slot]] = {}  # by exchange, then native symbol and channel
        self._rejected: dict[_Session, list[tuple[Line, str, bytes]]] = {}
        self._done: dict[Place, list[pa.Table]] = {}

    # Feeding

    def feed(self, record: Batch | Note | Damage) -> None:
        """Take the next record."""
        if isinstance(record, Batch):
            self._feed_batch(record)
        elif isinstance(record, Note):
            self.first_ns = self.first_ns or record.ns
            self.last_ns = max(self.last_ns, record.ns)
            self._feed_note(record)
        else:
            self.damages.append(record)

    def _feed_batch(self, batch: Batch) -> None:
        self.last_ns = max(self.last_ns, batch.received_ns)
        session = self._sessions.get(batch.session)
        if session is None:  # its opening was damaged; nothing says which exchange spoke
            session = _Session(ALL, ())
            for number, frame in enumerate(batch.frames, batch.first_frame):
                self._reject(session, (batch.session, number, batch.received_ns), "unknown session", frame)
            return
        self._used.add(session)
        if self.first_frame is None:
            self.first_frame = batch.first_frame
        exchange, market = session.exchange, session.market
        self.feed_frames(exchange, market, batch.frames, batch.session, batch.first_frame, batch.received_ns)

    def feed_frames(
        self, exchange: str, market: str, frames: Sequence[bytes], session: int | None, first: int, received_ns: int
    ) -> None:
        """Decode and classify `frames`; the first has number `first`."""
        decode = EXCHANGES[exchange].decode
        counts, slots = self.counts, self._slots.setdefault(exchange, {})
        for number, frame in enumerate(frames, first):
            decoded = decode(frame)
            if isinstance(decoded, (tuple, list)):
                try:
                    found = [slots[row.native_symbol, row.channel] for row in decoded]
                except KeyError:
                    found = self._open_slots(exchange, decoded)
                if found:
                    counts["rows"] += 1
                    if self._on_classified is not None:
                        for row in decoded:
                            self._on_classified(number, "row", row.native_symbol)
                    line = (session, number, received_ns)
                    for row, slot in zip(decoded, found, strict=True):
                        pending = slot.pending
                        pending.rows.append(row)
                        pending.instruments.append(slot.instrument)
                        pending.lines.append(line)
                        pending.frames.append(frame)
                    for slot in found:
                        if len(slot.pending.rows) >= CHUNK:  # not within a frame: it may be withdrawn whole
                            self._flush(slot.place)
                else:
                    unknown = next(r.native_symbol for r in decoded if not self.naming.find(exchange, r.native_symbol))
                    reason = f"unknown instrument {unknown}"
                    self._reject(_Session(exchange, (market,)), (session, number, received_ns), reason, frame)
            elif isinstance(decoded, Control):
                counts["control"] += 1
                self._classified(number, "control", f"{decoded.kind}: {decoded.text}" if decoded.text else decoded.kind)
            elif isinstance(decoded, Ignored):
                counts["ignored"] += 1
                self.ignored[decoded.reason] += 1
                self._classified(number, "ignored", decoded.reason)
            elif isinstance(decoded, Reject):
                line = (session, number, received_ns)
                self._reject(_Session(exchange, (market,)), line, decoded.reason, frame)

    def _open_slots(self, exchange: str, rows: Sequence[Row]) -> list[_Slot]:
        """Find where each of `rows` is to wait; nowhere at all when the instrument of one of them is unknown."""
        slots = self._slots[exchange]
        for row in rows:
            instrument = self.naming.find(exchange, row.native_symbol)
            if instrument is None:
                return []
            place = (row.channel, exchange, instrument.market)
            pending = self._pending.setdefault(place, _Pending())
            slots[row.native_symbol, row.channel] = _Slot(instrument, place, pending)
        return [slots[row.native_symbol, row.channel] for row in rows]

    def _reject(self, session: _Session, line: Line, reason: str, frame: bytes) -> None:
        self.counts["rejected"] += 1
        rejected = self._rejected.setdefault(session, [])
        rejected.append((line, reason, frame))
        if len(rejected) >= CHUNK:
            self._flush_rejected(session)
        self._classified(line[1], "reject", reason)

    def _classified(self, frame: int, what: str, reason: str) -> None:
        if self._on_classified is not None:
            self._on_classified(frame, what, reason)

    # Notes

    def _feed_note(self, note: Note) -> None:
        value = note.value
        if note.letter is Letter.SEGMENT and self.first_frame is None:
            self.first_frame = value["next_frame"]
        elif note.letter is Letter.OPENED:
            self._sessions[value["session"]] = _Session(value["exchange"], tuple(value["markets"]))
        elif note.letter is Letter.INSTRUMENTS:
            instruments = cattrs.structure(value["instruments"], list[Instrument])
            self.naming.add(instruments)
            self._slots.clear()
            if "again" not in value:
                self._instruments(note, instruments)
        elif note.letter is Letter.ENDED:
            self._session_ended(note)

    def _instruments(self, note: Note, instruments: Sequence[Instrument]) -> None:
        for (exchange, market), group in _grouped(instruments).items():
            terms: dict[str, tuple[list[str], list[bool] | None]] = {}
            columns: dict[str, Any] = {}
            for name in ("tick_size", "lot_size", "contract_size"):
                texts = [getattr(instrument, name) for instrument in group]
                numbers = [None if text is None else float(text) for text in texts]
                inexact = floats([text or "0" for text in texts])[1]
                terms[name], columns[name] = (texts, inexact), numbers
            for name in ("symbol", "native_symbol", "base", "quote", "status"):
                columns[name] = [getattr(instrument, name) for instrument in group]
            columns["valid_from"] = micros([note.value["valid_from_ns"]] * len(group))
            columns["exact"] = exact_texts(len(group), terms)
            self._put("instruments", exchange, market, [_stamp(note)] * len(group), columns)

    def _session_ended(self, note: Note) -> None:
        value = note.value
        markets = value["markets"]
        columns = {
            "stream": [value["stream"]],
            "opened_at": micros([value["opened_ns"]]),
            "live_at": None if value["live_ns"] is None else micros([value["live_ns"]]),
            "closed_at": micros([value.get("closed_ns", note.ns)]),
            "reason": [value["reason"]],
            "detail": [value["detail"]],
            "frames": [value["frames"]],
            "bytes": [value["bytes"]],
            "peer": [value["peer"]],
        }
        market = markets[0] if len(markets) == 1 else ALL
        self._put("sessions", value["exchange"], market, [_stamp(note, value["session"])], columns)

    # Columns

    def _put(self, table: str, exchange: str, market: str, lines: Sequence[Line], columns: Mapping[str, Any]) -> None:
        sessions, frames, received = zip(*lines, strict=True)
        whole = {
            "exchange": exchange,
            "market": market,
            "recv": micros(received),
            "recv_ns": received,
            "session": sessions,
            "frame": [frame if frame >= 0 else None for frame in frames],
            **columns,
        }
        self._done.setdefault((table, exchange, market), []).append(build(table, whole, len(lines)))

    def _flush(self, place: Place) -> None:
        waiting = self._pending[place]
        pending = _Pending(waiting.rows, waiting.instruments, waiting.lines, waiting.frames)
        waiting.rows, waiting.instruments, waiting.lines, waiting.frames = [], [], [], []  # slots hold on to it
        if not pending.rows:
            return
        table, exchange, market = place
        if table == Trade.channel:
            self._put(table, exchange, market, pending.lines, _trade_columns(pending))
            return
        while pending.rows:
            try:
                columns = _book_columns(pending)
            except BadSides as bad:
                self._withdraw(place, pending, bad.problems)
            else:
                self._put(table, exchange, market, pending.lines, columns)
                return

    def _withdraw(self, place: Place, pending: _Pending, problems: Mapping[int, str]) -> None:
        """Turn frames that looked like rows into rejects: one of their levels is no price and size."""
        bad = {id(pending.lines[index]): (index, problem) for index, problem in problems.items()}  # once per frame
        for index, problem in bad.values():
            self.counts["rows"] -= 1
            self._reject(_Session(place[1], (place[2],)), pending.lines[index], problem, pending.frames[index])
        keep = [index for index, line in enumerate(pending.lines) if id(line) not in bad]
        pending.rows = [pending.rows[index] for index in keep]
        pending.instruments = [pending.instruments[index] for index in keep]
        pending.lines = [pending.lines[index] for index in keep]
        pending.frames = [pending.frames[index] for index in keep]

    def _flush_rejected(self, session: _Session) -> None:
        lines, reasons, frames = zip(*self._rejected.pop(session), strict=True)
        texts = [frame.decode("utf-8", "backslashreplace") for frame in frames]
        self._put("rejects", session.exchange, session.market, lines, {"reason": reasons, "text": texts})

    # Results

    @property
    def frames(self) -> int:
        """Frames fed so far."""
        return self.counts.total()

    def flush(self) -> None:
        """Turn everything that waits into columns."""
        for place in list(self._pending):
            self._flush(place)
        for session in list(self._rejected):
            self._flush_rejected(session)

    def take(self) -> dict[Place, pa.Table]:
        """Return all rows by place, and forget them."""
        self.flush()
        tables = {place: pa.concat_tables(chunks) for place, chunks in self._done.items()}
        self._done = {}
        return tables

    def note_segment(self, number: int) -> None:
        """Add the row of the table `segments`: its frames by class."""
        self.flush()
        exchanges = {session.exchange for session in self._used}
        markets = {session.market for session in self._used}
        columns = {
            "segment": [number],
            "first_frame": [self.first_frame],
            "frames": [self.frames],
            **{name: [self.counts[name]] for name in ("rows", "control", "duplicate", "ignored", "rejected")},
            "ignored_reasons": [json.dumps(dict(self.ignored)) if self.ignored else None],
        }
        exchange = exchanges.pop() if len(exchanges) == 1 else ALL
        market = markets.pop() if len(markets) == 1 else ALL
        self._put("segments", exchange, market, [(None, -1, self.last_ns)], columns)


def _stamp(note: Note, session: int | None = None) -> Line:
    """What a note's row has in place of a frame."""
    return session, -1, note.ns


def _grouped(instruments: Iterable[Instrument]) -> dict[tuple[str, str], list[Instrument]]:
    groups: dict[tuple[str, str], list[Instrument]] = {}
    for instrument in instruments:
        groups.setdefault((instrument.exchange, instrument.market), []).append(instrument)
    return groups


_trade_fields = attrgetter("id", "price", "size", "side", "exchange_ns", "first_id", "last_id")


def _trade_columns(pending: _Pending) -> dict[str, Any]:
    fields = zip(*map(_trade_fields, pending.rows), strict=True)
    ids, price_texts, size_texts, sides, stamps, first_ids, last_ids = fields
    prices, inexact_prices = floats(price_texts)
    sizes, inexact_sizes = floats(size_texts)
    columns: dict[str, Any] = {}
    if any(row.derivative for row in pending.rows):
        contracts = [float(row.size) if row.derivative else None for row in pending.rows]
        ones = np.ones(len(pending.rows), dtype=np.int64)
        sizes = pa.array(_base_units(sizes.to_numpy(), prices.to_numpy(), pending, ones))
        columns["contracts"] = contracts
    return columns | {
        "symbol": [instrument.symbol for instrument in pending.instruments],
        "ts": micros(stamps),
        "id": ids,
        "price": prices,
        "size": sizes,
        "side": sides,
        "first_id": first_ids,
        "last_id": last_ids,
        "source": "ws",
        "exact": exact_texts(len(ids), {"price": (price_texts, inexact_prices), "size": (size_texts, inexact_sizes)}),
    }


_book_fields = attrgetter("exchange_ns", "first_seq", "last_seq", "prev_seq", "snapshot", "stride")


def _book_columns(pending: _Pending) -> dict[str, Any]:
    rows: list[BookDelta] = pending.rows
    stamps, first_seqs, last_seqs, prev_seqs, snapshots, strides = zip(*map(_book_fields, rows), strict=True)
    columns: dict[str, Any] = {}
    texts: dict[str, tuple[Sequence[Any], list[bool] | None]] = {}
    for name, sides in (("bid", [bytes(row.bids) for row in rows]), ("ask", [bytes(row.asks) for row in rows])):
        levels = Levels(sides, strides[0])
        sizes = levels.sizes
        if any(row.derivative for row in rows):
            sizes = _base_units(sizes, levels.prices, pending, np.diff(levels.offsets))
        columns[f"{name}_price"], columns[f"{name}_size"] = levels.lists(levels.prices), levels.lists(sizes)
        texts[f"{name}_price"] = levels.inexact(levels.price_texts)
        texts[f"{name}_size"] = levels.inexact(levels.size_texts)
    return columns | {
        "symbol": [instrument.symbol for instrument in pending.instruments],
        "ts": micros(stamps),
        "first_seq": first_seqs,
        "last_seq": last_seqs,
        "prev_seq": prev_seqs,
        "snapshot": snapshots,
        "exact": exact_texts(len(rows), texts),
    }


def _base_units(sizes: Any, prices: Any, pending: _Pending, counts: Any) -> Any:
    """Turn contracts into base units where an instrument says how; `counts` values belong to each message.

    The product of two short decimals is rounded to 15 digits, which is what it would be exactly. An inverse contract at
    price 0 has no worth in base units and stays as it is.
    """
    worth = np.array(
        [
            float(instrument.contract_size) if row.derivative and instrument.contract_size else 1.0
            for row, instrument in zip(pending.rows, pending.instruments, strict=True)
        ]
    )
    inverse = np.array([row.derivative and i.inverse for row, i in zip(pending.rows, pending.instruments, strict=True)])
    products = sizes * np.repeat(worth, counts)
    divided = np.repeat(inverse, counts) & (prices > 0)
    products = np.divide(products, prices, out=products, where=divided)
    return np.array([float(f"{product:.15g}") for product in products], dtype=np.float64)
