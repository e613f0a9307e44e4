"""What one session's messages mean for continuity: numbers only, no levels."""

from collections.abc import Callable, Sequence

import attrs

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.runs import chains, runs
from collector_trio.continuity.tracks import BookTrack, TradeTrack
from collector_trio.exchanges.protocol import (
    BookDelta,
    BookRules,
    Control,
    ControlKind,
    Decoded,
    Ignored,
    Links,
    Reject,
    Trade,
    Trades,
)
from collector_trio.instruments import Instrument


@attrs.define
class Leg:
    """One session's part: `find` gives the instrument behind a native symbol, `rules` how a market's books are kept.

    `unsynced` are the books that the last messages changed though nothing is known that they could be applied to.
    """

    session: int
    continuity: Continuity
    find: Callable[[str], Instrument | None]
    rules: Callable[[str], BookRules]
    unsynced: dict[str, tuple[Instrument, BookTrack]] = attrs.field(factory=dict)
    is_news: bool = False  # the ledger may have changed since this was last set to False
    _trades: dict[str, TradeTrack] = attrs.field(factory=dict)
    _books: dict[str, tuple[Instrument, BookTrack]] = attrs.field(factory=dict)

    def take(self, decoded: Decoded, frame: int, received_ns: int) -> None:
        """Take what frame number `frame` says."""
        if isinstance(decoded, (tuple, list)):
            rejected = self.continuity.rejected.get(self.session)
            for row in decoded:
                if isinstance(row, Trade):
                    trades = self._trades.get(row.native_symbol) or self._find_trades(row.native_symbol)
                    if trades is not None and row.covers is not None:
                        first, ns = row.id - row.covers + 1, row.exchange_ns
                        trades.take(self.session, first, row.id, ns, frame, received_ns, rejected)
                        self.is_news = self.is_news or trades.dirty
                else:
                    self._take_change(row, frame, received_ns, rejected)
        elif isinstance(decoded, Ignored):
            if decoded.trade_id is not None and decoded.native_symbol is not None:
                trades = self._trades.get(decoded.native_symbol) or self._find_trades(decoded.native_symbol)
                if trades is not None:
                    trades.take_number(self.session, decoded.trade_id, frame, received_ns)
                    self.is_news = self.is_news or trades.dirty
        elif isinstance(decoded, Reject):
            self.continuity.rejected[self.session] = frame, decoded.reason
        elif isinstance(decoded, Control) and decoded.kind is ControlKind.NOTICE:
            self.continuity.session_notice(self.session, received_ns, decoded.text)

    def take_trades(self, trades: Trades, first_frame: int, where: Sequence[int]) -> Sequence[int]:
        """Take plain trades of one read together, trade `n` from frame `first_frame + where[n]`.

        Of instruments of which one does not go on where the last one ended nothing is taken: return which ones of
        `where` these are, to be taken one by one.
        """
        left: set[str] = set()
        for native_symbol, run in runs(trades.native_symbols, trades.ids).items():
            track = self._trades.get(native_symbol) or self._find_trades(native_symbol)
            if track is None:
                continue
            if run is None or track.next_id != run.first:
                left.add(native_symbol)
                continue
            n = run.last_at
            track.follow(self.session, trades.ids[n], trades.exchange_ns[n], first_frame + where[n])
        return _where(trades.native_symbols, where, left)

    def take_links(self, links: Links, first_frame: int, where: Sequence[int]) -> Sequence[int]:
        """Take plain changes of one read together, as `take_trades` does with trades: those of synced books."""
        left: set[str] = set()
        for native_symbol, run in chains(links.native_symbols, links.prev_seqs, links.last_seqs).items():
            book = self._books.get(native_symbol) or self._find_book(native_symbol)
            if book is None:
                continue
            track = book[1]
            if run is None or track.next_prev != run.first:
                left.add(native_symbol)
                continue
            n, last_seqs = run.last_at, links.last_seqs
            if track.chain.resets:
                for name, last in zip(links.native_symbols, last_seqs[:n], strict=False):
                    if name == native_symbol:
                        track.chain.remember(last)
            track.follow(self.session, last_seqs[n], links.exchange_ns[n], first_frame + where[n])
        return _where(links.native_symbols, where, left)

    def _take_change(self, row: BookDelta, frame: int, received_ns: int, rejected: tuple[int, str] | None) -> None:
        found = self._books.get(row.native_symbol) or self._find_book(row.native_symbol)
        if found is None:
            return
        book = found[1]
        if row.snapshot:
            book.take_whole(self.session, row.last_seq, row.exchange_ns, frame, rejected)
        else:
            book.take(self.session, row.prev_seq, row.last_seq, row.exchange_ns, frame, received_ns, rejected)
        book.chain.apply.clear()  # there are no levels here
        self.is_news = self.is_news or book.dirty
        if not book.chain.synced and book.wants_snapshot:
            self.unsynced[row.native_symbol] = found

    def _find_trades(self, native_symbol: str) -> TradeTrack | None:
        instrument = self.find(native_symbol)
        if instrument is None:
            return None
        self._trades[native_symbol] = self.continuity.trade_track(instrument)
        return self._trades[native_symbol]

    def _find_book(self, native_symbol: str) -> tuple[Instrument, BookTrack] | None:
        instrument = self.find(native_symbol)
        if instrument is None:
            return None
        track = self.continuity.book_track(instrument, self.rules(instrument.market))
        self._books[native_symbol] = instrument, track
        return self._books[native_symbol]


def _where(native_symbols: Sequence[str], where: Sequence[int], left: set[str]) -> Sequence[int]:
    return [at for name, at in zip(native_symbols, where, strict=True) if name in left] if left else ()
