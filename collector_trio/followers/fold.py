"""From journal records to the tables' rows: a pure fold, the same for the live follower, `replay`, `decode` and `sql`.

Records are fed in the order of the journal. Each frame is decoded and classified: rows, control, duplicate, ignored
with its reason, reject; the counts always add up to the frames fed, which is the frame equation of the table
`segments`. Rows wait as the typed messages they are and become columns `CHUNK` at a time.

With a `Continuity` the fold also says what is missing (`gaps`), leaves out what was seen before, and keeps the order
books. A change that just continues a synced book is applied with its chunk, many at once; anything else that happens
to a book first brings its levels up to date. So what comes out does not depend on where chunks end.

A fold goes on over segments; `dump` and `load` let another process go on from the end of any record.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import cattrs
import numpy as np
import pyarrow as pa

from collector_trio.continuity.book import Book
from collector_trio.continuity.chain import Answer, Link, Verdict
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import Cause, GapChange, Reason
from collector_trio.continuity.tracks import BookTrack, TradeTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookDelta, BookRules, BookSnapshot, Control, Ignored, Reject, Row, Trade
from collector_trio.followers.columns import BadSides, build, exact_texts, floats, is_exact, micros
from collector_trio.followers.rows import Line, Side, Waiting, book_columns, book_sides, trade_columns
from collector_trio.followers.state import FoldState, book_of, book_state
from collector_trio.instruments import Instrument
from collector_trio.journal.meaning import take_note
from collector_trio.journal.records import Batch, Damage, Letter, Note

CHUNK = 4096  # messages turned into columns at once: large enough to be fast, small enough to stay in the cache
SNAPSHOT_EVERY_NS = 600_000_000_000
MOST_HELD = 10_000  # changes kept for a book that is not synced, before those of no more use are looked for

# Which table, exchange and market a chunk of rows belongs to; each is a file of its own.
Place = tuple[str, str, str]
ALL = "all"


@attrs.define(eq=False)
class _TradeSlot:
    """Where the trades of one instrument go."""

    waiting: Waiting
    place: Place
    track: TradeTrack | None


@attrs.define(eq=False)
class _BookSlot:
    """Where the changes of one book go, and the book. `held`: changes that cannot be applied yet, by their link;
    `snapshot`: a whole book that waits for changes up to it.
    """

    waiting: Waiting
    place: Place
    instrument: Instrument
    rules: BookRules
    track: BookTrack | None
    index: int
    book: Book = attrs.field(factory=Book)
    held: dict[Link, BookDelta] = attrs.field(factory=dict)
    snapshot: BookSnapshot | None = None
    unapplied: bool = False  # changes wait with their chunk
    stored_ns: int | None = None  # when the book was last stored whole


@attrs.define(eq=False)
class _Slots:
    """The slots of the markets a session speaks of, by native symbol, and all that waits in them."""

    trades: dict[str, _TradeSlot] = attrs.field(factory=dict)
    books: dict[str, _BookSlot] = attrs.field(factory=dict)
    waiting: dict[Place, Waiting] = attrs.field(factory=dict)


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
        self._known: dict[tuple[str, str, str], Instrument] = {}
        self._unknown_market = unknown_market
        self.made_up = 0

    def add(self, instruments: Iterable[Instrument]) -> None:
        """Learn `instruments`; of two with one native symbol in one market the later wins."""
        for instrument in instruments:
            self._known[instrument.exchange, instrument.market, instrument.native_symbol] = instrument

    def find(self, exchange: str, markets: Sequence[str], native_symbol: str) -> Instrument | None:
        """Return the instrument of one of `markets`, None where nobody described it."""
        for market in markets:
            found = self._known.get((exchange, market, native_symbol))
            if found is not None:
                return found
        if self._unknown_market is None:
            return None
        made_up = Instrument(exchange, self._unknown_market, native_symbol, native_symbol, "", "", "", True)
        self.add([made_up])
        self.made_up += 1
        return made_up

    @property
    def instruments(self) -> list[Instrument]:
        """All that are known."""
        return list(self._known.values())


class Fold:
    """Folds the records of a journal (or one pile of frames) into tables."""

    def __init__(
        self,
        naming: Naming,
        on_classified: Callable[[int, str, str], None] | None = None,
        *,
        continuity: Continuity | None = None,
    ) -> None:
        """`on_classified(frame, class, text)` hears of every frame: its reason, or of each row its native symbol."""
        self.naming = naming
        self.continuity = continuity
        self.divergence = 0  # instruments, over all segments, of which the recorder said something else
        self.totals: dict[str, Counter[str]] = {name: Counter() for name in ("rows", "gaps", "missing", "rejects")}
        self._on_classified = on_classified
        self._sessions: dict[int, _Session] = {}
        self._requests: dict[int, dict[str, Any]] = {}  # REST requests without an answer, by session
        self._snapshot_every_ns = SNAPSHOT_EVERY_NS
        self._slots: dict[_Session, _Slots] = {}
        self._waiting: dict[Place, Waiting] = {}
        self._books: dict[str, _BookSlot] = {}  # by exchange, market and native symbol
        self._owners: list[_BookSlot] = []  # the same, by index
        self._now: tuple[int | None, int] = (None, 0)  # session and receive time of what is being fed
        self._rejected: dict[_Session, list[tuple[Line, str, bytes]]] = {}
        self._done: dict[Place, list[pa.Table]] = {}
        self._news = False  # a track may have changes for the ledger
        self.begin()

    def begin(self) -> None:
        """Begin a segment: what is counted per segment is 0."""
        self.counts: Counter[str] = Counter()  # frames by class
        self.ignored: Counter[str] = Counter()  # frames by reason
        self.damages: list[Damage] = []
        self.first_frame: int | None = None
        self.first_ns = 0
        self.last_ns = 0
        self._used: set[_Session] = set()

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
            if self.continuity is not None:
                self.continuity.damaged(record.problem)

    def _feed_batch(self, batch: Batch) -> None:
        self.last_ns = max(self.last_ns, batch.received_ns)
        if self.first_frame is None:
            self.first_frame = batch.first_frame
        request = self._requests.get(batch.session)
        if request is not None:
            self._feed_answer(request, batch)
            return
        session = self._sessions.get(batch.session)
        if session is None:  # its opening was damaged; nothing says which exchange spoke
            for number, frame in enumerate(batch.frames, batch.first_frame):
                line = (batch.session, number, batch.received_ns)
                self._reject(_Session(ALL, ()), line, "unknown session", frame)
            return
        self._used.add(session)
        self._feed_frames(session, batch.frames, batch.session, batch.first_frame, batch.received_ns)

    def feed_frames(
        self, exchange: str, market: str, frames: Sequence[bytes], session: int | None, first: int, received_ns: int
    ) -> None:
        """Decode and classify `frames`; the first has number `first`."""
        self._feed_frames(_Session(exchange, (market,)), frames, session, first, received_ns)

    def _feed_frames(
        self, speaker: _Session, frames: Sequence[bytes], session: int | None, first: int, received_ns: int
    ) -> None:
        decode = EXCHANGES[speaker.exchange].decode
        slots = self._slots.get(speaker)
        if slots is None:
            slots = self._slots[speaker] = _Slots()
        trades = slots.trades
        watched = self._on_classified is not None
        self._now = session, received_ns
        rejected = None if self.continuity is None or session is None else self.continuity.rejected.get(session)
        rows = duplicates = 0
        for number, frame in enumerate(frames, first):
            decoded = decode(frame)
            if isinstance(decoded, (tuple, list)):
                if len(decoded) == 1 and not watched:
                    row = decoded[0]
                    if type(row) is Trade and (slot := trades.get(row.native_symbol)) is not None:
                        track = slot.track
                        if track is None or session is None or row.covers is None:
                            new = True
                        else:
                            id_ = row.id
                            first_id = id_ - row.covers + 1
                            new = track.take(session, first_id, id_, row.exchange_ns, number, received_ns, rejected)
                            self._news = self._news or track.dirty
                        if new:
                            rows += 1
                            slot.waiting.rows.append(row)
                            slot.waiting.numbers.append(number)
                        else:
                            duplicates += 1
                        continue
                new_rows = self._take_rows(speaker, slots, decoded, session, number, received_ns, frame)
                if new_rows is not None:
                    rows, duplicates = rows + new_rows, duplicates + 1 - new_rows
            elif isinstance(decoded, Control):
                self.counts["control"] += 1
                self._classified(number, "control", f"{decoded.kind}: {decoded.text}" if decoded.text else decoded.kind)
            elif isinstance(decoded, Ignored):
                self.counts["ignored"] += 1
                self.ignored[decoded.reason] += 1
                self._classified(number, "ignored", decoded.reason)
                if decoded.trade_id is not None and decoded.native_symbol is not None:
                    self._take_number(speaker, slots, decoded, session, number, received_ns)
            elif isinstance(decoded, Reject):
                self._reject(speaker, (session, number, received_ns), decoded.reason, frame)
                if session is not None and self.continuity is not None:
                    rejected = self.continuity.rejected[session] = number, decoded.reason
        if rows:
            self.counts["rows"] += rows
        if duplicates:
            self.counts["duplicate"] += duplicates
        for place, waiting in slots.waiting.items():
            waiting.end_stretch(session, received_ns)
            if len(waiting.rows) >= CHUNK:
                self._flush(place, waiting)
        if self._news:
            self._write_ledger((session, first + len(frames) - 1, received_ns))

    def _take_rows(
        self, speaker: _Session, slots: _Slots, rows: Sequence[Row], session: int | None, number: int,
        received_ns: int, frame: bytes,
    ) -> int | None:  # fmt: skip
        """Take the rows of one frame: 1 if any is new, 0 if none is, None if the frame is rejected."""
        found = []
        for row in rows:
            slot = self._slot(speaker, slots, row)
            if slot is None:
                reason = f"unknown instrument {row.native_symbol}"
                self._reject(speaker, (session, number, received_ns), reason, frame)
                return None
            found.append(slot)
        kept = 0
        for row, slot in zip(rows, found, strict=True):
            if isinstance(row, Trade):
                assert isinstance(slot, _TradeSlot)
                new = self._take_trade(slot, row, session, number, received_ns)
                if new:
                    slot.waiting.rows.append(row)
                    slot.waiting.numbers.append(number)
            else:
                assert isinstance(slot, _BookSlot)
                new = self._take_change(slot, row, session, number, received_ns, frame)
            kept += new
            if self._on_classified is not None:
                self._on_classified(number, "row", row.native_symbol)
        return min(kept, 1)

    def _slot(self, speaker: _Session, slots: _Slots, row: Row) -> _TradeSlot | _BookSlot | None:
        """Find where a row goes; None when its instrument is unknown."""
        known: Mapping[str, _TradeSlot | _BookSlot] = slots.trades if isinstance(row, Trade) else slots.books
        slot = known.get(row.native_symbol)
        return slot or self._open_slot(speaker, slots, row.channel, row.native_symbol)

    def _open_slot(
        self, speaker: _Session, slots: _Slots, channel: str, native_symbol: str
    ) -> _TradeSlot | _BookSlot | None:
        instrument = self.naming.find(speaker.exchange, speaker.markets, native_symbol)
        if instrument is None:
            return None
        place = (channel, instrument.exchange, instrument.market)
        waiting = slots.waiting[place] = self._waiting.setdefault(place, Waiting())
        waiting.instruments[native_symbol] = instrument
        if channel == Trade.channel:
            track = None if self.continuity is None else self.continuity.trade_track(instrument)
            slots.trades[native_symbol] = _TradeSlot(waiting, place, track)
            return slots.trades[native_symbol]
        slots.books[native_symbol] = self._keep_book(instrument, place, waiting)
        return slots.books[native_symbol]

    def _keep_book(self, instrument: Instrument, place: Place, waiting: Waiting) -> _BookSlot:
        """Return the book of `instrument`, the same for all sessions."""
        key = f"{instrument.exchange} {instrument.market} {instrument.native_symbol}"
        slot = self._books.get(key)
        if slot is None:
            rules = EXCHANGES[instrument.exchange].book_rules(instrument.market)
            track = None if self.continuity is None else self.continuity.book_track(instrument, rules)
            slot = self._books[key] = _BookSlot(waiting, place, instrument, rules, track, len(self._owners))
            self._owners.append(slot)
        slot.instrument = instrument
        return slot

    def _take_trade(self, slot: _TradeSlot, row: Trade, session: int | None, number: int, received_ns: int) -> bool:
        if slot.track is None or session is None or self.continuity is None or row.covers is None:
            return True
        first_id = row.id - row.covers + 1
        rejected = self.continuity.rejected.get(session)
        new = slot.track.take(session, first_id, row.id, row.exchange_ns, number, received_ns, rejected)
        self._news = self._news or slot.track.dirty
        return new

    def _take_number(
        self, speaker: _Session, slots: _Slots, ignored: Ignored, session: int | None, number: int, received_ns: int
    ) -> None:
        """A number in the sequence of trades was no trade: it is not missing."""
        if session is None or self.continuity is None or ignored.trade_id is None or ignored.native_symbol is None:
            return
        instrument = self.naming.find(speaker.exchange, speaker.markets, ignored.native_symbol)
        if instrument is not None:
            track = self.continuity.trade_track(instrument)
            track.take(
                session, ignored.trade_id, ignored.trade_id, track.coverage.mark_ns or 0, number, received_ns, None
            )
            self._news = self._news or track.dirty

    # Books

    def _take_change(
        self, slot: _BookSlot, row: BookDelta, session: int | None, number: int, received_ns: int, frame: bytes
    ) -> bool:
        track = slot.track
        if track is None or session is None or self.continuity is None:
            self._append_change(slot, row, number, frame, -1)
            return True
        if row.snapshot:
            return self._take_whole(slot, track, row, session, number, received_ns, frame)
        chain = track.chain
        if slot.unapplied and not (chain.synced and row.prev_seq == chain.tip):
            self._flush_slot(slot)  # one of the levels that wait may be none, and the book broken already
        was_synced = chain.synced
        rejected = self.continuity.rejected.get(session)
        verdict = track.take(session, row.prev_seq, row.last_seq, row.exchange_ns, number, received_ns, rejected)
        self._news = self._news or track.dirty
        if verdict is Verdict.SEEN:
            return False
        if verdict is Verdict.NEXT and was_synced and not chain.apply:
            self._append_change(slot, row, number, frame, slot.index)
            slot.unapplied = True
            if slot.stored_ns is None or received_ns - slot.stored_ns >= self._snapshot_every_ns:
                self._flush_slot(slot)
                self._store_book(slot, track, session, number, received_ns)
            return True
        self._append_change(slot, row, number, frame, -1)
        if row.prev_seq is not None and row.last_seq is not None:
            slot.held[row.prev_seq, row.last_seq] = row
        if chain.synced:
            if not was_synced and verdict is not Verdict.LATE and slot.snapshot is not None:
                self._load(slot, track, slot.snapshot, slot.snapshot.depth)
            self._apply_held(slot, track)
            if not was_synced:
                self._store_book(slot, track, session, number, received_ns)
        self._forget_held(slot, track)
        return True

    def _append_change(self, slot: _BookSlot, row: BookDelta, number: int, frame: bytes, owner: int) -> None:
        waiting = slot.waiting
        waiting.rows.append(row)
        waiting.numbers.append(number)
        waiting.frames.append(frame)
        waiting.owners.append(owner)

    def _take_whole(
        self, slot: _BookSlot, track: BookTrack, row: BookDelta, session: int, number: int, received_ns: int,
        frame: bytes,
    ) -> bool:  # fmt: skip
        """Take an in-band snapshot."""
        assert self.continuity is not None
        self._flush_slot(slot)
        rejected = self.continuity.rejected.get(session)
        verdict = track.take_whole(session, row.last_seq, row.exchange_ns, number, rejected)
        self._news = self._news or track.dirty
        if verdict is Verdict.SEEN:
            return False
        self._append_change(slot, row, number, frame, -1)
        self._load(slot, track, row, None)
        self._apply_held(slot, track)
        self._store_book(slot, track, session, number, received_ns)
        self._forget_held(slot, track)
        return True

    def _load(self, slot: _BookSlot, track: BookTrack, whole: BookDelta | BookSnapshot, depth: int | None) -> None:
        """Let the book be a snapshot's. One of its levels may be none: then the book is broken."""
        slot.snapshot = None
        slot.book.clear()
        if self._change_levels(slot, track, whole, track.chain.tip):
            slot.book.bound(depth)

    def _apply_held(self, slot: _BookSlot, track: BookTrack) -> None:
        """Apply what the chain says can be applied now."""
        links, track.chain.apply = track.chain.apply, []
        for link in links:
            change = slot.held.pop(link, None)
            if change is not None and not self._change_levels(slot, track, change, change.prev_seq):
                return

    def _change_levels(
        self, slot: _BookSlot, track: BookTrack, change: BookDelta | BookSnapshot, before: int | None
    ) -> bool:
        """Apply the levels of one message; where one is none the book is broken since number `before`."""
        try:
            sides = book_sides(Waiting({change.native_symbol: slot.instrument}, [change]))
        except BadSides as bad:
            track.spoil(before, track.tip_ns, Reason(Cause.REJECT, next(iter(bad.problems.values()))))
            self._news = True
            return False
        for name, side in sides.items():
            _apply_part(slot.book, name, side, slice(None))
        return True

    def _forget_held(self, slot: _BookSlot, track: BookTrack) -> None:
        if track.chain.synced and not track.chain.ahead:
            slot.held.clear()
        elif len(slot.held) > MOST_HELD:
            kept = track.chain.kept
            for link in [link for link in slot.held if link not in kept]:
                del slot.held[link]

    def _feed_answer(self, request: Mapping[str, Any], batch: Batch) -> None:
        """Take what REST said."""
        session = _Session(request["exchange"], (request["market"],))
        self._used.add(session)
        exchange, number = EXCHANGES[session.exchange], batch.first_frame
        line = (batch.session, number, batch.received_ns)
        for frame in batch.frames:
            decoded = exchange.decode_snapshot(request["market"], request["native_symbol"], frame)
            if isinstance(decoded, Reject):
                self._reject(session, line, decoded.reason, frame)
            elif isinstance(decoded, Ignored):
                self._ignore(number, decoded.reason)
            else:
                self._take_snapshot(session, decoded, line, frame)
        facts = {"frames": len(batch.frames), "bytes": sum(map(len, batch.frames))}
        self._request_ended(batch.session, batch.received_ns, "answered", "", facts)
        if self._news:
            self._write_ledger(line)

    def _take_snapshot(self, session: _Session, snapshot: BookSnapshot, line: Line, frame: bytes) -> None:
        slots = self._slots.setdefault(session, _Slots())
        slot = slots.books.get(snapshot.native_symbol)
        opened = slot or self._open_slot(session, slots, BookDelta.channel, snapshot.native_symbol)
        if opened is None:
            self._reject(session, line, f"unknown instrument {snapshot.native_symbol}", frame)
            return
        assert isinstance(opened, _BookSlot)
        track = opened.track
        if track is None:
            self._ignore(line[1], "a whole book, not a change of one")
            return
        if opened.unapplied:
            self._flush_slot(opened)
        answer = track.take_snapshot(snapshot.last_seq)
        self._news = self._news or track.dirty
        if answer is not Answer.SYNCED:
            opened.snapshot = snapshot if answer is Answer.WAITS else None
            self._ignore(line[1], f"snapshot {answer}")
            return
        self.counts["rows"] += 1
        self._classified(line[1], "row", snapshot.native_symbol)
        self._load(opened, track, snapshot, snapshot.depth)
        self._apply_held(opened, track)
        self._store_book(opened, track, *line)
        self._forget_held(opened, track)

    def _ignore(self, number: int, reason: str) -> None:
        self.counts["ignored"] += 1
        self.ignored[reason] += 1
        self._classified(number, "ignored", reason)

    def _store_book(
        self, slot: _BookSlot, track: BookTrack, session: int | None, number: int, received_ns: int
    ) -> None:
        """Add a row of the whole book as it is."""
        if not track.chain.synced:
            return
        book, depth = slot.book, slot.rules.depth
        bids, asks = book.sorted_bids(), book.sorted_asks()
        bounds = [book.bid_bound, book.ask_bound]
        if depth is not None:
            bounds = [side[0][depth - 1] if len(side[0]) >= depth else None for side in (bids, asks)]
        columns = {
            "symbol": [slot.instrument.symbol],
            "ts": None if track.tip_ns is None else micros([track.tip_ns]),
            "last_seq": [track.chain.tip],
            "bid_price": [bids[0]],
            "bid_size": [bids[1]],
            "ask_price": [asks[0]],
            "ask_size": [asks[1]],
            "bid_bound": [bounds[0]],
            "ask_bound": [bounds[1]],
            "exact": [_exact_levels(book)],
        }
        self._put("book_snapshots", slot.place[1], slot.place[2], [(session, number, received_ns)], columns)
        slot.stored_ns = received_ns

    # Rejects

    def _reject(self, session: _Session, line: Line, reason: str, frame: bytes) -> None:
        self.counts["rejected"] += 1
        self.totals["rejects"][reason] += 1
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
        value, letter = note.value, note.letter
        if letter is Letter.SEGMENT and self.first_frame is None:
            self.first_frame = value["next_frame"]
        elif letter is Letter.OPENED:
            self._sessions[value["session"]] = _Session(value["exchange"], tuple(value["markets"]))
        elif letter is Letter.INSTRUMENTS:
            self._describe(note)
        elif letter is Letter.CONFIG and "snapshot_every_s" in value:
            self._snapshot_every_ns = int(value["snapshot_every_s"] * 1e9)
        elif letter is Letter.REQUEST and "session" in value:
            self._requests[value["session"]] = {"opened_ns": note.ns} | value
        elif letter is Letter.FAILED and value.get("session") in self._requests:
            facts = {"frames": 0, "bytes": 0}
            self._request_ended(value["session"], note.ns, "failed", value["reason"], facts)
        elif letter is Letter.ENDED:
            self._session_ended(note.ns, value)
            self._sessions.pop(value["session"], None)
        elif letter is Letter.PROCESS and value["event"] == "start" and "again" not in value:
            for session in list(self._requests):
                self._request_ended(session, note.ns, "process died", "", {"frames": 0, "bytes": 0})
        elif letter is Letter.STATE and self.continuity is not None:
            self.flush()
            self.divergence += self.continuity.divergence(value)
        if self.continuity is not None:
            take_note(self.continuity, note)
            self._write_ledger((None, -1, note.ns))

    def _describe(self, note: Note) -> None:
        instruments = cattrs.structure(note.value["instruments"], list[Instrument])
        known = {(i.exchange, i.market, i.native_symbol): i for i in self.naming.instruments}
        if any(known.get((i.exchange, i.market, i.native_symbol)) != i for i in instruments):
            self.flush()
            self.naming.add(instruments)
            self._slots.clear()
        if "again" not in note.value:
            self._instruments(note, instruments)

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
            self._put("instruments", exchange, market, [(None, -1, note.ns)] * len(group), columns)

    def _session_ended(self, ns: int, value: Mapping[str, Any]) -> None:
        markets = value["markets"]
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
        market = markets[0] if len(markets) == 1 else ALL
        self._put("sessions", value["exchange"], market, [(value["session"], -1, ns)], columns)

    def _request_ended(self, session: int, ns: int, reason: str, detail: str, facts: Mapping[str, int]) -> None:
        """A REST request is a connection of its own: one row of `sessions`."""
        request = self._requests.pop(session)
        exchange, market = request["exchange"], request["market"]
        self._session_ended(
            ns,
            {
                "session": session, "stream": f"{exchange}.{market}.rest", "exchange": exchange, "markets": [market],
                "opened_ns": request["opened_ns"], "live_ns": None, "reason": reason, "detail": detail,
                "peer": request["url"], **facts,
            },
        )  # fmt: skip

    def _write_ledger(self, line: Line) -> None:
        """Add what has changed in the ledger."""
        self._news = False
        if self.continuity is None:
            return
        for (exchange, market), changes in _by_market(self.continuity.changes()).items():
            columns = {
                "symbol": [change.symbol for change in changes],
                "from_ts": _times([change.from_ns for change in changes]),
                "to_ts": _times([change.to_ns for change in changes]),
            }
            for name in ("table", "gap", "state", "first_missing", "last_missing", "missing", "cause", "detail"):
                columns[name] = [getattr(change, name) for change in changes]
            self._put("gaps", exchange, market, [line] * len(changes), columns)

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

    def _flush_slot(self, slot: _BookSlot) -> None:
        """Bring a book's levels up to date."""
        if slot.unapplied:
            self._flush(slot.place, slot.waiting)

    def _flush(self, place: Place, waiting: Waiting) -> None:
        waiting.end_stretch(*self._now)
        taken = waiting.take()
        if place[0] == Trade.channel:
            if taken.rows:
                self._finish(place, taken, trade_columns(taken))
            return
        while taken.rows:
            try:
                sides = book_sides(taken)
            except BadSides as bad:
                taken = self._withdraw(place, taken, bad.problems)
            else:
                self._apply(taken, sides)
                self._finish(place, taken, book_columns(taken, sides))
                return

    def _finish(self, place: Place, waiting: Waiting, columns: Mapping[str, Any]) -> None:
        whole = {"exchange": place[1], "market": place[2], **waiting.stamps(), **columns}
        self._done.setdefault(place, []).append(build(place[0], whole, len(waiting.rows)))

    def _apply(self, waiting: Waiting, sides: Mapping[str, Side]) -> None:
        """Apply the changes that continue their books, book by book."""
        owners = np.array(waiting.owners, dtype=np.int32)
        touched = np.unique(owners[owners >= 0])
        for name, side in sides.items():
            whose = np.repeat(owners, np.diff(side.levels.offsets))
            order = np.argsort(whose, kind="stable")
            ordered = whose[order]
            starts, ends = np.searchsorted(ordered, touched), np.searchsorted(ordered, touched, side="right")
            for owner, start, end in zip(touched.tolist(), starts.tolist(), ends.tolist(), strict=True):
                _apply_part(self._owners[owner].book, name, side, order[start:end])
        for owner in touched.tolist():
            self._owners[owner].unapplied = False

    def _withdraw(self, place: Place, waiting: Waiting, problems: Mapping[int, str]) -> Waiting:
        """Turn frames that looked like rows into rejects: one of their levels is no price and size.

        Their books are broken from there on; what follows of them is stored, but not applied.
        """
        bad_frames = {waiting.numbers[index]: problem for index, problem in problems.items()}
        bad = {index for index, number in enumerate(waiting.numbers) if number in bad_frames}
        lines, told = waiting.lines(), set()
        broken: set[int] = set()
        for index in range(len(waiting.rows)):
            owner = waiting.owners[index]
            if index in bad:
                number = waiting.numbers[index]
                if number not in told:
                    told.add(number)
                    self.counts["rows"] -= 1
                    session = _Session(place[1], (place[2],))
                    self._reject(session, lines[index], bad_frames[number], waiting.frames[index])
                if owner >= 0 and owner not in broken:
                    broken.add(owner)
                    slot, row = self._owners[owner], waiting.rows[index]
                    if slot.track is not None:
                        reason = Reason(Cause.REJECT, f"frame {number}: {bad_frames[number]}")
                        slot.track.spoil(row.prev_seq, row.exchange_ns, reason)
                        self._news = True
            elif owner in broken:
                waiting.owners[index] = -1
        return waiting.without(bad)

    def _flush_rejected(self, session: _Session) -> None:
        lines, reasons, frames = zip(*self._rejected.pop(session), strict=True)
        texts = [frame.decode("utf-8", "backslashreplace") for frame in frames]
        self._put("rejects", session.exchange, session.market, lines, {"reason": reasons, "text": texts})

    # Results

    @property
    def frames(self) -> int:
        """Frames of this segment fed so far."""
        return self.counts.total()

    def flush(self) -> None:
        """Turn everything that waits into columns."""
        for place, waiting in self._waiting.items():
            self._flush(place, waiting)
        if self._news:
            self._write_ledger((None, -1, self.last_ns))
        for session in list(self._rejected):
            self._flush_rejected(session)

    def take(self) -> dict[Place, pa.Table]:
        """Return all rows by place, and forget them."""
        self.flush()
        tables = {place: pa.concat_tables(chunks) for place, chunks in self._done.items()}
        self._done = {}
        for (table, exchange, market), rows in tables.items():
            self.totals["rows"][f"{table} {exchange} {market}"] += len(rows)
            if rows.column("exact").null_count < len(rows):
                self.totals["rows"]["inexact"] += len(rows) - rows.column("exact").null_count
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

    # Going on

    def dump(self) -> FoldState:
        """Return all that is known between two records. What was folded so far is to be taken as well."""
        self.flush()
        return FoldState(
            continuity={} if self.continuity is None else self.continuity.dump(),
            books={
                key: book_state(slot.book, slot.stored_ns, slot.held.values(), slot.snapshot)
                for key, slot in self._books.items()
            },
            instruments=cattrs.unstructure(self.naming.instruments),
            sessions={number: (session.exchange, list(session.markets)) for number, session in self._sessions.items()},
            requests=self._requests,
            totals={name: dict(counts) for name, counts in self.totals.items()},
            snapshot_every_ns=self._snapshot_every_ns,
            divergence=self.divergence,
        )

    @classmethod
    def load(cls, state: FoldState) -> "Fold":
        """Go on from what `dump` returned."""
        fold = cls(Naming(), continuity=Continuity.load(state.continuity))
        fold.naming.add(cattrs.structure(state.instruments, list[Instrument]))
        fold._sessions = {
            number: _Session(exchange, tuple(markets)) for number, (exchange, markets) in state.sessions.items()
        }
        fold._requests = state.requests
        fold.totals = {name: Counter(counts) for name, counts in state.totals.items()}
        fold._snapshot_every_ns, fold.divergence = state.snapshot_every_ns, state.divergence
        for key, kept in state.books.items():
            exchange, market, native_symbol = key.split(" ", 2)
            instrument = fold.naming.find(exchange, [market], native_symbol)
            if instrument is not None:
                place = (BookDelta.channel, exchange, market)
                waiting = fold._waiting.setdefault(place, Waiting())
                slot = fold._keep_book(instrument, place, waiting)
                slot.book, slot.stored_ns, slot.snapshot = (
                    book_of(kept),
                    kept.stored_ns,
                    kept.snapshot_of(native_symbol),
                )
                slot.held = kept.held_by_link(native_symbol)
        return fold


def _apply_part(book: Book, name: str, side: Side, part: Any) -> None:
    """Apply the levels of `side` that `part` (an index of numpy's) chooses."""
    levels = side.levels
    prices, sizes = levels.prices[part], side.sizes[part]
    book.apply(name, prices.tolist(), sizes.tolist(), set(prices[sizes == 0.0].tolist()))
    if levels.price_texts is None and not book.texts:
        return
    texts: dict[float, tuple[str, str] | None] = dict.fromkeys(prices.tolist())
    if levels.price_texts is not None and levels.size_texts is not None:
        chosen = pa.array(np.arange(len(levels.prices))[part])
        price_texts, size_texts = (
            levels.price_texts.take(chosen).to_pylist(),
            levels.size_texts.take(chosen).to_pylist(),
        )
        for price, price_text, size_text in zip(prices.tolist(), price_texts, size_texts, strict=True):
            inexact = price in book.side(name) and not (is_exact(price_text) and is_exact(size_text))
            texts[price] = (price_text, size_text) if inexact else None
    book.note_texts(name, texts)


def _exact_levels(book: Book) -> str | None:
    """Return the column `exact` of a whole book: its numbers as text, where float64 cannot hold one of them."""
    if not book.texts:
        return None
    found: dict[str, list[str]] = {}
    for name, (prices, sizes) in (("bid", book.sorted_bids()), ("ask", book.sorted_asks())):
        texts = [book.texts.get((name, price)) for price in prices]
        if any(texts):
            pairs = list(zip(prices, sizes, texts, strict=True))
            found[f"{name}_price"] = [text[0] if text else repr(price) for price, _, text in pairs]
            found[f"{name}_size"] = [text[1] if text else repr(size) for _, size, text in pairs]
    return json.dumps(found)


def _times(ns: Sequence[int | None]) -> pa.Array:
    return pa.array([None if value is None else value // 1000 for value in ns], pa.int64()).cast(
        pa.timestamp("us", tz="UTC")
    )


def _by_market(changes: Iterable[GapChange]) -> dict[tuple[str, str], list[GapChange]]:
    groups: dict[tuple[str, str], list[GapChange]] = {}
    for change in changes:
        groups.setdefault((change.exchange, change.market), []).append(change)
    return groups


def _grouped(instruments: Iterable[Instrument]) -> dict[tuple[str, str], list[Instrument]]:
    groups: dict[tuple[str, str], list[Instrument]] = {}
    for instrument in instruments:
        groups.setdefault((instrument.exchange, instrument.market), []).append(instrument)
    return groups
