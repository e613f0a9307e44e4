"""All instruments: fed with what a journal's records say, in their order, it knows what is missing.

The recorder feeds it live, a follower from the journal; both come to the same, because there is no clock here but the
records' own. A record is fed whole, then `changes` says what that meant for the ledger.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter

from collector_trio.continuity.chain import Chain
from collector_trio.continuity.coverage import Finding, Hole
from collector_trio.continuity.ledger import Cause, GapChange, Reason, State
from collector_trio.continuity.tracks import PATIENCE_NS, BookTrack, TradeTrack
from collector_trio.exchanges.protocol import BookRules
from collector_trio.instruments import Instrument


def _bare(hole: Hole) -> list[Any]:
    """Return a hole as a list: there may be very many, and the recorder writes them down at each segment's end."""
    finding = hole.finding
    assert finding is not None, "set when the hole was taken note of"
    reason = finding.reason
    times = [hole.from_ns, hole.to_ns, finding.found_ns]
    return [hole.first, hole.last, *times, reason.cause.value, reason.detail, list(finding.waiting)]


def _hole(bare: list[Any], _: Any = None) -> Hole:
    first, last, from_ns, to_ns, found_ns, cause, detail, waiting = bare
    return Hole(first, last, from_ns, to_ns, Finding(Reason(Cause(cause), detail), found_ns, set(waiting)))


def _dumped(track: TradeTrack) -> dict[str, Any]:
    """Return a track as JSON. What the ledger knows is what is open now, unless it has not been told yet."""
    found: dict[str, Any] = _CONVERTER.unstructure(track)
    return found | {"known": list(map(_bare, track.known))} if track.dirty else found


_CONVERTER = make_converter()
_CONVERTER.register_unstructure_hook(Hole, _bare)
_CONVERTER.register_structure_hook(Hole, _hole)
_CONVERTER.register_unstructure_hook(
    TradeTrack, make_dict_unstructure_fn(TradeTrack, _CONVERTER, known=override(omit=True))
)

Key = tuple[str, str, str]  # exchange, market, native symbol

# How long an exchange's notice explains the end of a session: Binance names no time, OKX a minute.
ANNOUNCED_NS = 900_000_000_000
# Ends that no exchange can have meant.
_OUR_ENDS = ("stopped", "crashed", "process died")


@attrs.define
class Continuity:
    """What was seen of every instrument, and what became of the sessions that brought it."""

    trades: dict[Key, TradeTrack] = attrs.field(factory=dict)
    books: dict[Key, BookTrack] = attrs.field(factory=dict)
    rejected: dict[int, tuple[int, str]] = attrs.field(factory=dict)  # by session: last unusable frame, and why
    announced: dict[int, tuple[int, str]] = attrs.field(
        factory=dict
    )  # by session: when its end was, and in which words
    gaps: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # by table and cause, since the fold began

    def trade_track(self, instrument: Instrument) -> TradeTrack:
        """Return the trades of `instrument`, from now on watched."""
        key = (instrument.exchange, instrument.market, instrument.native_symbol)
        track = self.trades.get(key)
        if track is None:
            track = self.trades[key] = TradeTrack(*key[:2], instrument.symbol, key[2])
        return track

    def book_track(self, instrument: Instrument, rules: BookRules) -> BookTrack:
        """Return the book of `instrument`, from now on watched."""
        key = (instrument.exchange, instrument.market, instrument.native_symbol)
        track = self.books.get(key)
        if track is None:
            chain = Chain(rules.overlap, rules.resets)
            track = self.books[key] = BookTrack(*key[:2], instrument.symbol, key[2], chain=chain, in_band=rules.in_band)
        return track

    # What records say beside frames

    def session_ended(self, session: int, reason: str, detail: str) -> None:
        """A session is over: nobody waits for it, and what is missing next may be because of it."""
        said = f"session {session}: {reason}" + (f": {detail}" if detail else "")
        _, notice = self.announced.pop(session, (0, ""))
        if notice and reason not in _OUR_ENDS:
            why = Reason(Cause.MAINTENANCE, f"{said}; announced: {notice}")
        else:
            why = Reason(Cause.DISCONNECT, said)
        self.rejected.pop(session, None)
        for track in (*self.trades.values(), *self.books.values()):
            if session in track.legs:
                track.happened(why)
                track.leave(session)

    def process_started(self) -> None:
        """A collector begins; what ran before has ended, whether or not it could say so."""
        self._end_all(Reason(Cause.PROCESS_DOWN))

    def process_stopped(self) -> None:
        """A collector ends; nothing is waited for any more."""
        for track in (*self.trades.values(), *self.books.values()):
            track.wait_no_more()

    def refused(self, since_ns: int, until_ns: int) -> None:
        """Nothing was accepted for a while."""
        for track in (*self.trades.values(), *self.books.values()):
            track.refused(since_ns, until_ns)

    def unreadable(self, key: Key) -> None:
        """A book is broken though its numbers follow, as only who reads the journal can know: a change of it has a
        level that is none, or was in a part that is damaged. A whole book is needed.
        """
        track = self.books.get(key)
        if track is not None and track.chain.tip is not None:
            track.spoil(track.chain.tip, track.tip_ns, Reason(Cause.REJECT, "a change could not be read"))

    def damaged(self, detail: str) -> None:
        """A part of the journal cannot be read."""
        self._happened(Reason(Cause.DAMAGE, detail))

    def session_notice(self, session: int, ns: int, notice: str) -> None:
        """The exchange says that it will close a session's connection."""
        self.announced[session] = ns, notice or "no reason given"

    def maintained(self, exchange: str, notice: str) -> None:
        """The exchange says that it is in maintenance: so that is why sessions that ended just now did."""
        for track in (*self.trades.values(), *self.books.values()):
            if track.exchange == exchange and track.reason is not None and track.reason.cause is Cause.DISCONNECT:
                detail = f"{track.reason.detail}; announced: {notice}"  # the same end, better explained
                track.reason = Reason(Cause.MAINTENANCE, detail)

    def tick(self, ns: int) -> None:
        """A second has passed: who was waited for long enough is waited for no more, and old notices mean nothing."""
        for session in [session for session, (at, _) in self.announced.items() if at < ns - ANNOUNCED_NS]:
            del self.announced[session]
        for track in (*self.trades.values(), *self.books.values()):
            if track.is_pending:
                track.wait_no_more(ns - PATIENCE_NS)

    def _end_all(self, reason: Reason) -> None:
        self.rejected.clear()
        self.announced.clear()
        for track in (*self.trades.values(), *self.books.values()):
            track.happened(reason)
            for session in list(track.legs):
                track.leave(session)
            track.wait_no_more()

    def _happened(self, reason: Reason) -> None:
        for track in (*self.trades.values(), *self.books.values()):
            track.happened(reason)

    # Results

    def changes(self) -> list[GapChange]:
        """Return what has changed in the ledger since the last call."""
        found = [change for track in self._dirty() for change in track.changes()]
        for change in found:
            if change.state is State.OPEN or (change.state is State.LOST and change.table == "book"):
                self.gaps[change.table, change.cause] += 1
        return found

    @property
    def missing(self) -> Counter[str]:
        """Rows that are open in the ledger, by table."""
        return Counter(trades=sum(hole.missing for track in self.trades.values() for hole in track.known))

    def _dirty(self) -> Iterator[TradeTrack | BookTrack]:
        for trades in self.trades.values():
            if trades.dirty:
                yield trades
        for book in self.books.values():
            if book.dirty:
                yield book

    def divergence(self, dumped: Mapping[str, Any]) -> int:
        """Count the instruments of which another fold of the same records, as it dumped itself, says something else."""
        other = Continuity.load(dumped)
        return sum(
            (mine is None or theirs is None or mine.state != theirs.state)
            for own, others in ((self.trades, other.trades), (self.books, other.books))
            for mine, theirs in ((own.get(key), others.get(key)) for key in {*own, *others})
        )

    def broken_here(self, dumped: Mapping[str, Any]) -> list[Key]:
        """Return the books that another fold, as it dumped itself, takes for synced and this one does not: what broke
        them it cannot see, so it does not ask for a whole one either.
        """
        others = Continuity.load(dumped).books
        return [
            key
            for key, book in self.books.items()
            if not book.chain.synced and key in others and others[key].chain.synced
        ]

    def dump(self) -> dict[str, Any]:
        """Return everything as JSON, to go on from."""
        return {
            "trades": [_dumped(track) for track in self.trades.values()],
            "books": [_CONVERTER.unstructure(track) for track in self.books.values()],
            "rejected": [[session, *found] for session, found in self.rejected.items()],
            "announced": [[session, *found] for session, found in self.announced.items()],
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> "Continuity":
        """Go on from what `dump` returned."""
        fold = cls()
        for track in _CONVERTER.structure(dumped["trades"], list[TradeTrack]):
            if not track.dirty:
                holes = track.coverage.holes
                track.known = [attrs.evolve(hole) for hole in holes if hole.finding and hole.finding.is_open]
            fold.trades[track.exchange, track.market, track.native_symbol] = track
        for book in _CONVERTER.structure(dumped["books"], list[BookTrack]):
            fold.books[book.exchange, book.market, book.native_symbol] = book
        fold.rejected = {session: (frame, reason) for session, frame, reason in dumped["rejected"]}
        fold.announced = {session: (ns, notice) for session, ns, notice in dumped["announced"]}
        return fold
