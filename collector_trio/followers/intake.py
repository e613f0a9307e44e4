"""Every frame is decoded and classified: rows, control, duplicate, ignored with its reason, or reject.

The counts always add up to the frames taken, which is the frame equation of the table `segments`. Rows wait as the
typed messages they are and become columns `CHUNK` at a time. With a `Continuity` what was seen before is left out.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import TradeTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import (
    BookDelta,
    BookSnapshot,
    Control,
    ControlKind,
    Decoded,
    Ignored,
    Reject,
    Row,
    Trade,
)
from collector_trio.followers.chunks import ALL, Finished, Line, Place, WaitingChanges, WaitingTrades
from collector_trio.followers.keeping import Books, KeptBook
from collector_trio.followers.notes import LedgerRows
from collector_trio.followers.plain import Numbered, TradeSlot, plain_trades
from collector_trio.followers.reads import Read, Speaker
from collector_trio.followers.rows import trade_columns
from collector_trio.instruments import Naming

CHUNK = 4096  # messages turned into columns at once: large enough to be fast, small enough to stay in the cache

# Reasons quote what they are about, so there may be any number of them; so many are counted apart, over all segments.
MOST_REASONS = 100
OTHER_REASONS = "other reasons"

# Hears of every frame: its number, class, and reason; or, of each row, the native symbol.
OnClassified = Callable[[int, str, str], None]

UNKNOWN = Speaker(ALL, ())


@attrs.define(eq=False)
class _Known:
    """The instruments a speaker has spoken of, by native symbol, and all that waits of them."""

    trades: dict[str, TradeSlot] = attrs.field(factory=dict)
    books: dict[str, KeptBook] = attrs.field(factory=dict)


class Intake:
    """Takes frames; the rows are in `finished` once they are flushed."""

    def __init__(
        self, naming: Naming, continuity: Continuity | None, finished: Finished, ledger: LedgerRows,
        on_classified: OnClassified | None = None,
    ) -> None:  # fmt: skip
        self.naming = naming
        self.continuity = continuity
        self.books = Books(continuity, finished, ledger, self._withdrawn)
        self.counts: Counter[str] = Counter()  # frames by class
        self.ignored: Counter[str] = Counter()  # frames by reason
        self.rejects: Counter[str] = Counter()  # the same, never set back
        self._finished = finished
        self._ledger = ledger
        self._on_classified = on_classified
        self._known: dict[Speaker, _Known] = {}
        self._trades: dict[Place, WaitingTrades] = {}
        self._changes: dict[Place, WaitingChanges] = {}
        self._rejected: dict[Speaker, list[tuple[Line, str, bytes]]] = {}

    def begin(self) -> None:
        """Begin to count anew."""
        self.counts, self.ignored = Counter(), Counter()

    def take_reads(self, reads: Sequence[Read]) -> None:
        """Take what was received, read by read; a change in the ledger is brought by the last frame of a read."""
        plain = None
        if self.continuity is not None and self._on_classified is None:
            plain = plain_trades(reads, self._trade_slot)
        if plain is None:
            for read in reads:
                self.take(read)
                self._write_ledger(read)
            return
        together, others = plain
        for trades in together:
            trades.take()
            self.counts["rows"] += len(trades.trades.ids)
        self._take(reads, others)
        self._flush_full()

    def take(self, read: Read) -> None:
        """Take what was received together, frame by frame."""
        self._take([read], [None])
        self._flush_full()

    def _write_ledger(self, read: Read) -> None:
        if self._ledger.news:
            self._ledger.write((read.session, read.first + len(read.frames) - 1, read.received_ns))

    def _take(self, reads: Sequence[Read], chosen: Sequence[Numbered | None]) -> None:
        """Take of each read the frames that are `chosen`, None: all. What this changes in the ledger its last frame
        has brought.
        """
        take_next, watched, ledger = self.books.take_next, self._on_classified is not None, self._ledger
        speaker = reads[0].speaker
        known, decode = self._known_to(speaker), EXCHANGES[speaker.exchange].decode
        rows = duplicates = 0
        for read, frames in zip(reads, chosen, strict=True):
            if read.speaker is not speaker:
                speaker = read.speaker
                known, decode = self._known_to(speaker), EXCHANGES[speaker.exchange].decode
            session, received_ns = read.session, read.received_ns
            for number, frame in enumerate(read.frames, read.first) if frames is None else frames:
                said = decode(frame)
                if isinstance(said, (tuple, list)):
                    if len(said) == 1 and not watched and isinstance(said[0], BookDelta):  # what most of them are
                        kept = known.books.get(said[0].native_symbol)
                        if kept is not None and take_next(kept, said[0], session, number, received_ns, frame):
                            rows += 1
                            continue
                    new_rows = self._take_rows(speaker, known, said, frame, (session, number, received_ns))
                    if new_rows is not None:
                        rows, duplicates = rows + new_rows, duplicates + 1 - new_rows
                else:
                    self._take_other(speaker, said, frame, (session, number, received_ns))
            if ledger.news:
                self._write_ledger(read)
        self.counts["rows"] += rows
        self.counts["duplicate"] += duplicates

    def _take_other(self, speaker: Speaker, said: Decoded, frame: bytes, line: Line) -> None:
        """Take a frame without rows."""
        session, number, received_ns = line
        if isinstance(said, Control):
            self.counts["control"] += 1
            self._classified(number, "control", f"{said.kind}: {said.text}" if said.text else said.kind)
            if said.kind is ControlKind.NOTICE and session is not None and self.continuity is not None:
                self.continuity.session_notice(session, received_ns, said.text)
        elif isinstance(said, Ignored):
            self.ignore(number, said.reason)
            self._take_number(speaker, said, line)
        elif isinstance(said, Reject):
            self.reject(speaker, line, said.reason, frame)
            if session is not None and self.continuity is not None:
                self.continuity.rejected[session] = number, said.reason

    def _known_to(self, speaker: Speaker) -> _Known:
        known = self._known.get(speaker)
        if known is None:
            known = self._known[speaker] = _Known()
        return known

    def _take_rows(
        self, speaker: Speaker, known: _Known, rows: Sequence[Row], frame: bytes, line: Line
    ) -> int | None:  # fmt: skip
        """Take the rows of one frame: 1 if any is new, 0 if none is, None if the frame is rejected."""
        session, number, received_ns = line
        for row in rows:
            if not self._is_open(speaker, known, row.channel, row.native_symbol):
                self.reject(speaker, line, f"unknown instrument {row.native_symbol}", frame)
                return None
        kept = 0
        for row in rows:
            if isinstance(row, Trade):
                slot = known.trades[row.native_symbol]
                new = self._take_trade(slot.track, row, line)
                if new:
                    slot.waiting.append(row, *line)
            else:
                new = self.books.take(known.books[row.native_symbol], row, session, number, received_ns, frame)
            kept += new
            self._classified(number, "row", row.native_symbol)
        return min(kept, 1)

    def _take_trade(self, track: TradeTrack | None, row: Trade, line: Line) -> bool:
        session, number, received_ns = line
        if track is None or session is None or self.continuity is None or row.covers is None:
            return True
        first, rejected = row.id - row.covers + 1, self.continuity.rejected.get(session)
        new = track.take(session, first, row.id, row.exchange_ns, number, received_ns, rejected)
        self._ledger.look(track)
        return new

    def _take_number(self, speaker: Speaker, ignored: Ignored, line: Line) -> None:
        """Where a number in the sequence of trades was no trade, it is not missing."""
        session, number, received_ns = line
        if session is None or self.continuity is None or ignored.trade_id is None or ignored.native_symbol is None:
            return
        instrument = self.naming.find(speaker.exchange, speaker.markets, ignored.native_symbol)
        if instrument is not None:
            track = self.continuity.trade_track(instrument)
            track.take_number(session, ignored.trade_id, number, received_ns)
            self._ledger.look(track)

    def _is_open(self, speaker: Speaker, known: _Known, channel: str, native_symbol: str) -> bool:
        """Tell whether it is known where rows of an instrument go; False: nobody described it."""
        if native_symbol in (known.trades if channel == Trade.channel else known.books):
            return True
        instrument = self.naming.find(speaker.exchange, speaker.markets, native_symbol)
        if instrument is None:
            return False
        place = (channel, instrument.exchange, instrument.market)
        if channel == Trade.channel:
            track = None if self.continuity is None else self.continuity.trade_track(instrument)
            trades = self._trades.setdefault(place, WaitingTrades())
            trades.instruments[native_symbol] = instrument
            known.trades[native_symbol] = TradeSlot(trades, track)
        else:
            changes = self.changes(place)
            changes.instruments[native_symbol] = instrument
            known.books[native_symbol] = self.books.keep(instrument, place, changes)
        return True

    def _trade_slot(self, speaker: Speaker, native_symbol: str) -> TradeSlot | None:
        known = self._known_to(speaker)
        is_open = self._is_open(speaker, known, Trade.channel, native_symbol)
        return known.trades[native_symbol] if is_open else None

    def changes(self, place: Place) -> WaitingChanges:
        """Return what waits of the books of one market."""
        return self._changes.setdefault(place, WaitingChanges())

    def take_answer(self, speaker: Speaker, native_symbol: str, frame: bytes, line: Line) -> None:
        """Take what REST said when it was asked for a whole book."""
        decoded = EXCHANGES[speaker.exchange].decode_snapshot(speaker.market, native_symbol, frame)
        if isinstance(decoded, Reject):
            self.reject(speaker, line, decoded.reason, frame)
        elif isinstance(decoded, Ignored):
            self.ignore(line[1], decoded.reason)
        else:
            self._take_snapshot(speaker, decoded, frame, line)

    def _take_snapshot(self, speaker: Speaker, snapshot: BookSnapshot, frame: bytes, line: Line) -> None:
        known = self._known_to(speaker)
        if not self._is_open(speaker, known, BookDelta.channel, snapshot.native_symbol):
            self.reject(speaker, line, f"unknown instrument {snapshot.native_symbol}", frame)
            return
        answer = self.books.take_snapshot(known.books[snapshot.native_symbol], snapshot, line)
        if answer is None:
            self.counts["rows"] += 1
            self._classified(line[1], "row", snapshot.native_symbol)
        else:
            self.ignore(line[1], answer)

    # Frames without rows

    def ignore(self, number: int, reason: str) -> None:
        """Count a frame that is understood and of no use."""
        self.counts["ignored"] += 1
        self.ignored[reason] += 1
        self._classified(number, "ignored", reason)

    def reject(self, speaker: Speaker, line: Line, reason: str, frame: bytes) -> None:
        """Keep a frame that cannot be used."""
        self.counts["rejected"] += 1
        known = reason in self.rejects or len(self.rejects) < MOST_REASONS
        self.rejects[reason if known else OTHER_REASONS] += 1
        rejected = self._rejected.setdefault(speaker, [])
        rejected.append((line, reason, frame))
        if len(rejected) >= CHUNK:
            self._flush_rejected(speaker)
        self._classified(line[1], "reject", reason)

    def _withdrawn(self, place: Place, line: Line, reason: str, frame: bytes) -> None:
        self.counts["rows"] -= 1
        self.reject(Speaker(place[1], (place[2],)), line, reason, frame)

    def _classified(self, frame: int, what: str, text: str) -> None:
        if self._on_classified is not None:
            self._on_classified(frame, what, text)

    # To columns

    def forget_instruments(self) -> None:
        """Find every instrument anew: some have other terms. Nothing may wait."""
        self._known.clear()

    def flush(self) -> None:
        """Turn everything that waits into columns."""
        self._flush_full(1)
        for speaker in list(self._rejected):
            self._flush_rejected(speaker)

    def _flush_full(self, full: int = CHUNK) -> None:
        for place, trades in self._trades.items():
            if len(trades) >= full:
                taken = trades.take()
                self._finished.add(place, taken, trade_columns(taken))
        for place, changes in self._changes.items():
            if len(changes) >= full:
                self.books.flush(place, changes)

    def _flush_rejected(self, speaker: Speaker) -> None:
        lines, reasons, frames = zip(*self._rejected.pop(speaker), strict=True)
        texts = [frame.decode("utf-8", "backslashreplace") for frame in frames]
        self._finished.put("rejects", speaker.exchange, speaker.market, lines, {"reason": reasons, "text": texts})
