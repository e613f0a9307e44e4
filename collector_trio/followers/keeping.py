"""Order books, kept while their changes go by.

Whether a change follows is `continuity`'s to say; here are the levels. A change that just continues a synced book (all
but a few do) waits with the other rows of its market, and its levels are applied when the chunk becomes columns: once
per price, whatever happened to it in between. `owners` says of each row that waits which book its levels change.

Everything else that happens to a book first brings its levels up to date (`_catch_up`), so that what comes out does not
depend on where chunks end:

- A change that cannot be applied yet is a row all the same, with nobody's levels; it is `held` by its link until the
  chain says in which order it is to be applied, or that it is of no more use.
- A whole book, in-band or by REST, replaces the levels; then what was held behind it is applied. One that is ahead of
  the changes waits as `snapshot` until they have come up to it.
- When a book becomes synced, and every `snapshot_every_ns` from then on, a row of `book_snapshots` stores it whole.

A level that is no price and size is found when its chunk is read, long after its frame was taken for a row. Then the
frame is withdrawn, the book is broken behind the change before it, and what follows in the chunk is not applied.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import numpy as np

from collector_trio.continuity.book import Book
from collector_trio.continuity.chain import LONGEST_RUN, Answer, Link, Verdict
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import Cause, Reason
from collector_trio.continuity.tracks import BookTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookDelta, BookRules, BookSnapshot
from collector_trio.followers.applying import apply_levels, whole_columns
from collector_trio.followers.chunks import Finished, Line, Place, WaitingChanges
from collector_trio.followers.columns import micros
from collector_trio.followers.levels import BadSides
from collector_trio.followers.notes import LedgerRows
from collector_trio.followers.rows import Side, book_columns, book_sides
from collector_trio.followers.state import BookState, book_of, book_state
from collector_trio.instruments import Instrument

SNAPSHOT_EVERY_NS = 600_000_000_000
MOST_HELD = LONGEST_RUN + 500  # changes kept for a book that is not synced, before those of no more use are looked for
NOBODY = -1  # the owner of a row whose levels are not applied with its chunk

_key = "{0.exchange} {0.market} {0.native_symbol}".format


@attrs.define(eq=False)
class KeptBook:
    """One book, and where its changes go. Without a `track` nobody keeps it, and changes are rows only."""

    waiting: WaitingChanges
    place: Place
    instrument: Instrument
    rules: BookRules
    track: BookTrack | None
    index: int  # as an owner of rows
    book: Book = attrs.field(factory=Book)
    held: dict[Link, BookDelta] = attrs.field(factory=dict)
    snapshot: BookSnapshot | None = None
    unapplied: bool = False  # changes wait with their chunk
    whole: bool = False  # the levels are those of a synced book
    stored_ns: int | None = None  # when the book was last stored whole

    def append(
        self, row: BookDelta, session: int | None, number: int, received_ns: int, frame: bytes, owner: int
    ) -> None:
        """Let a row wait to become columns."""
        waiting = self.waiting
        waiting.firsts.append(number)
        waiting.counts.append(1)
        waiting.sessions.append(session)
        waiting.received_ns.append(received_ns)
        waiting.changes.append(row)
        waiting.frames.append(frame)
        waiting.owners.append(owner)


@attrs.define(eq=False)
class Books:
    """The books of all markets. `on_bad(place, line, reason, frame)` hears of each frame that is withdrawn."""

    continuity: Continuity | None
    finished: Finished
    ledger: LedgerRows
    on_bad: Callable[[Place, Line, str, bytes], None]
    snapshot_every_ns: int = SNAPSHOT_EVERY_NS
    unreadable: Counter[str] = attrs.field(factory=Counter)  # what nobody else could see to break one, by book
    _kept: dict[str, KeptBook] = attrs.field(factory=dict)  # by exchange, market and native symbol
    _owners: list[KeptBook] = attrs.field(factory=list)  # the same, by index

    def keep(self, instrument: Instrument, place: Place, waiting: WaitingChanges) -> KeptBook:
        """Return the book of `instrument`, the same for all sessions."""
        key = _key(instrument)
        kept = self._kept.get(key)
        if kept is None:
            rules = EXCHANGES[instrument.exchange].book_rules(instrument.market)
            track = None if self.continuity is None else self.continuity.book_track(instrument, rules)
            kept = self._kept[key] = KeptBook(waiting, place, instrument, rules, track, len(self._owners))
            self._owners.append(kept)
        kept.instrument = instrument
        return kept

    def book(self, exchange: str, market: str, native_symbol: str) -> Book:
        """Return the levels of a book as they are. Raises KeyError where there is none."""
        return self._kept[f"{exchange} {market} {native_symbol}"].book

    # What is fed

    def take_next(
        self, kept: KeptBook, row: BookDelta, session: int | None, number: int, received_ns: int, frame: bytes
    ) -> bool:
        """Take a change if it just continues a synced book: what `take` does then, and cheaply. Else do nothing."""
        track, before = kept.track, row.prev_seq
        if track is None or session is None or before is None or row.snapshot:
            return False
        chain, stored_ns = track.chain, kept.stored_ns
        if before != chain.tip or not chain.synced or chain.ahead or stored_ns is None:
            return False
        if row.last_seq is None or received_ns - stored_ns >= self.snapshot_every_ns:
            return False
        track.follow(session, row.last_seq, row.exchange_ns, number)
        kept.append(row, session, number, received_ns, frame, kept.index)
        kept.unapplied = True
        return True

    def take(
        self, kept: KeptBook, row: BookDelta, session: int | None, number: int, received_ns: int, frame: bytes
    ) -> bool:
        """Take a change, or a whole book in-band; tell whether it is new."""
        track = kept.track
        if track is None or session is None or self.continuity is None:
            kept.append(row, session, number, received_ns, frame, NOBODY)
            return True
        if row.snapshot:
            return self._take_whole(kept, track, row, session, number, received_ns, frame)
        chain = track.chain
        if not (chain.synced and row.prev_seq == chain.tip):
            self._catch_up(kept)  # a level that waits may be none, and the book broken already
        was_synced, line = chain.synced, (session, number, received_ns)
        rejected = self.continuity.rejected.get(session)
        verdict = track.take(session, row.prev_seq, row.last_seq, row.exchange_ns, number, received_ns, rejected)
        self.ledger.look(track)
        if verdict is Verdict.NEXT and was_synced and chain.synced and not chain.apply:
            kept.append(row, session, number, received_ns, frame, kept.index)
            kept.unapplied = True
            if kept.stored_ns is None or received_ns - kept.stored_ns >= self.snapshot_every_ns:
                self._catch_up(kept)
                self._store(kept, track, line)
            return True
        new = verdict is not Verdict.SEEN
        if new:
            kept.append(row, session, number, received_ns, frame, NOBODY)
            if row.prev_seq is not None and row.last_seq is not None:
                kept.held[row.prev_seq, row.last_seq] = row
        self._settle(kept, track, line, healed=verdict is Verdict.LATE)
        return new

    def settle(self, received_ns: int) -> None:
        """Let the levels of all books follow what a note has meant: one that ends the waiting for another session may
        break a book, and the next snapshot, which waits already, may sync it.
        """
        for kept in self._owners:
            track = kept.track
            if track is not None and (track.chain.apply or track.chain.synced != kept.whole):
                self._catch_up(kept)
                self._settle(kept, track, (None, -1, received_ns), healed=False)

    def _settle(self, kept: KeptBook, track: BookTrack, line: Line, *, healed: bool) -> None:
        """Let the levels follow the chain, which was synced by the snapshot that waits or, `healed`, by links."""
        was_whole, kept.whole = kept.whole, track.chain.synced
        if track.chain.synced:
            if not was_whole and not healed and kept.snapshot is not None:
                self._load(kept, track, kept.snapshot, kept.snapshot.depth)
            self._apply_held(kept, track)
            if not was_whole:
                self._store(kept, track, line)
        _forget_held(kept, track)

    def _take_whole(
        self, kept: KeptBook, track: BookTrack, row: BookDelta, session: int, number: int, received_ns: int,
        frame: bytes,
    ) -> bool:  # fmt: skip
        assert self.continuity is not None
        self._catch_up(kept)
        rejected = self.continuity.rejected.get(session)
        verdict = track.take_whole(session, row.last_seq, row.exchange_ns, number, rejected)
        self.ledger.look(track)
        if verdict is Verdict.SEEN:
            return False
        kept.append(row, session, number, received_ns, frame, NOBODY)
        self._replace(kept, track, row, None, (session, number, received_ns))
        return True

    def take_snapshot(self, kept: KeptBook, snapshot: BookSnapshot, line: Line) -> str | None:
        """Take a whole book that REST gave; return why it is of no use now, None if the book is synced by it."""
        track = kept.track
        if track is None:
            return "a whole book, not a change of one"
        self._catch_up(kept)
        answer = track.take_snapshot(snapshot.last_seq)
        self.ledger.look(track)
        if answer is not Answer.SYNCED:
            kept.snapshot = snapshot if answer is Answer.WAITS else None
            return f"snapshot {answer}"
        self._replace(kept, track, snapshot, snapshot.depth, line)
        return None

    # Levels

    def _replace(
        self, kept: KeptBook, track: BookTrack, whole: BookDelta | BookSnapshot, depth: int | None, line: Line
    ) -> None:
        """Let the book be a whole one and what is held behind it, and store it."""
        kept.whole = True
        self._load(kept, track, whole, depth)
        self._apply_held(kept, track)
        self._store(kept, track, line)
        _forget_held(kept, track)

    def _load(self, kept: KeptBook, track: BookTrack, whole: BookDelta | BookSnapshot, depth: int | None) -> None:
        """Let the book be a snapshot's. One of its levels may be none: then the book is broken."""
        kept.snapshot = None
        kept.book.clear()
        if self._change_levels(kept, track, whole, track.chain.tip):
            kept.book.bound(depth)

    def _apply_held(self, kept: KeptBook, track: BookTrack) -> None:
        """Apply what the chain says can be applied now."""
        links, track.chain.apply = track.chain.apply, []
        for link in links:
            change = kept.held.pop(link, None)
            if change is not None and not self._change_levels(kept, track, change, change.prev_seq):
                return

    def _change_levels(
        self, kept: KeptBook, track: BookTrack, change: BookDelta | BookSnapshot, before: int | None
    ) -> bool:
        """Apply the levels of one message; where one is none the book is broken since number `before`."""
        try:
            sides = book_sides([change], {change.native_symbol: kept.instrument})
        except BadSides as bad:
            track.spoil(before, track.tip_ns, Reason(Cause.REJECT, next(iter(bad.problems.values()))))
            self._broken(kept)
            return False
        for name, side in sides.items():
            apply_levels(kept.book, name, side, slice(None))
        return True

    def _broken(self, kept: KeptBook) -> None:
        """Take note that a book is broken though its numbers follow: only who reads levels can know, and says so."""
        kept.whole, self.ledger.news = False, True
        self.unreadable[_key(kept.instrument)] += 1

    def _catch_up(self, kept: KeptBook) -> None:
        """Bring a book's levels up to date."""
        if kept.unapplied:
            self.flush(kept.place, kept.waiting)

    def flush(self, place: Place, waiting: WaitingChanges) -> None:
        """Turn the changes that wait into columns, and apply them."""
        taken = waiting.take()
        while taken.changes:
            try:
                sides = book_sides(taken.changes, taken.instruments)
            except BadSides as bad:
                taken = self._withdraw(place, taken, bad.problems)
            else:
                self._apply(taken, sides)
                self.finished.add(place, taken, book_columns(taken, sides))
                return

    def _apply(self, waiting: WaitingChanges, sides: Mapping[str, Side]) -> None:
        """Apply the changes that continue their books, book by book."""
        owners = np.array(waiting.owners, dtype=np.int32)
        touched = np.unique(owners[owners != NOBODY])
        for name, side in sides.items():
            if len(touched) == 1 and (owners == touched[0]).all():
                apply_levels(self._owners[touched[0]].book, name, side, slice(None))
                continue
            whose = np.repeat(owners, side.levels.counts)
            order = np.argsort(whose, kind="stable")
            ordered = whose[order]
            starts, ends = np.searchsorted(ordered, touched), np.searchsorted(ordered, touched, side="right")
            for owner, start, end in zip(touched.tolist(), starts.tolist(), ends.tolist(), strict=True):
                apply_levels(self._owners[owner].book, name, side, order[start:end])
        for owner in touched.tolist():
            self._owners[owner].unapplied = False

    def _withdraw(self, place: Place, waiting: WaitingChanges, problems: Mapping[int, str]) -> WaitingChanges:
        """Take back frames that looked like rows: one of their levels is no price and size.

        Their books are broken from there on; what follows of them is stored, but not applied.
        """
        lines = waiting.lines()
        bad_frames = {lines[index][1]: problem for index, problem in problems.items()}
        bad = {index for index, (_, number, _) in enumerate(lines) if number in bad_frames}
        told, broken = set[int](), set[int]()
        for index in range(len(waiting)):
            owner = waiting.owners[index]
            if index in bad:
                number = lines[index][1]
                if number not in told:
                    told.add(number)
                    self.on_bad(place, lines[index], bad_frames[number], waiting.frames[index])
                if owner != NOBODY and owner not in broken:
                    broken.add(owner)
                    kept, row = self._owners[owner], waiting.changes[index]
                    if kept.track is not None:
                        reason = Reason(Cause.REJECT, f"frame {number}: {bad_frames[number]}")
                        kept.track.spoil(row.prev_seq, row.exchange_ns, reason)
                        self._broken(kept)
            elif owner in broken:
                waiting.owners[index] = NOBODY
        for owner in broken:  # its rows may all be gone from the chunk
            self._owners[owner].unapplied = False
        return waiting.without(bad)

    # Whole books

    def _store(self, kept: KeptBook, track: BookTrack, line: Line) -> None:
        """Add a row of the whole book as it is."""
        if not track.chain.synced:
            return
        columns = {
            "symbol": [kept.instrument.symbol],
            "ts": None if track.tip_ns is None else micros([track.tip_ns]),
            "last_seq": [track.chain.tip],
            **whole_columns(kept.book, kept.rules.depth),
        }
        self.finished.put("book_snapshots", kept.place[1], kept.place[2], [line], columns)
        kept.stored_ns = line[2]

    # Going on

    def dump(self) -> dict[str, BookState]:
        """Return all books, to go on from. No change may wait."""
        return {
            key: book_state(kept.book, kept.stored_ns, kept.held.values(), kept.snapshot)
            for key, kept in self._kept.items()
        }

    def load(self, instrument: Instrument, place: Place, waiting: WaitingChanges, state: BookState) -> None:
        """Go on with one book."""
        kept = self.keep(instrument, place, waiting)
        kept.book, kept.stored_ns = book_of(state), state.stored_ns
        kept.whole = kept.track is not None and kept.track.chain.synced
        kept.snapshot = state.snapshot_of(instrument.native_symbol)
        kept.held = state.held_by_link(instrument.native_symbol)


def _forget_held(kept: KeptBook, track: BookTrack) -> None:
    if track.chain.synced and not track.chain.ahead:
        kept.held.clear()
    elif len(kept.held) > MOST_HELD:
        useful = track.chain.kept
        for link in [link for link in kept.held if link not in useful]:
            del kept.held[link]
