"""The recorder's own view of what is missing: advisory, it says what to ask for. The tables' is the follower's.

Both fold the same records in the same order, so this one is fed in exactly two places: by a session, right after its
batch was accepted, and by the journal, right after it wrote a note. After a restart it goes on from what the last
segment's end says, and from the records behind that.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import cattrs
from structlog.typing import FilteringBoundLogger

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import State
from collector_trio.continuity.leg import Leg
from collector_trio.errors import JournalError
from collector_trio.exchanges.protocol import BookSnapshot, Exchange
from collector_trio.instruments import Instrument, Naming
from collector_trio.journal.append import Journal
from collector_trio.journal.meaning import take_note
from collector_trio.journal.records import Batch, Damage, Letter, Note, read_records
from collector_trio.journal.segments import journal_dir, list_segments, state_copy


@attrs.define
class Live:
    """The fold, and the log that hears what it finds."""

    continuity: Continuity
    log: FilteringBoundLogger
    _unreadable: Mapping[str, int] | None = None

    def on_note(self, note: Note) -> None:
        """Take a note that was written."""
        take_note(self.continuity, note)
        self.settle()

    def heed(self, unreadable: Mapping[str, int], journal: Journal) -> None:
        """Take what a follower says: so often a book (exchange, market, native symbol) was broken by what it could not
        read, a level that is none or a damaged part of the journal. The recorder reads neither; for it the book is
        synced, and nobody would ask for a whole one.

        It is written down as a verdict, so that both folds hear of it at the same record. What is said first is of an
        earlier run.
        """
        for book, count in unreadable.items():
            exchange, market, native_symbol = book.split(" ", 2)
            known = (exchange, market, native_symbol) in self.continuity.books
            if known and self._unreadable is not None and count > self._unreadable.get(book, 0):
                verdict = {"exchange": exchange, "market": market, "native_symbol": native_symbol}
                journal.note(Letter.VERDICT, {"verdict": "unreadable", **verdict})
        self._unreadable = dict(unreadable)

    def settle(self) -> None:
        """Say what has changed."""
        for change in self.continuity.changes():
            known = attrs.asdict(
                change, filter=lambda attribute, value: attribute.name in _LOGGED and value is not None
            )
            if change.state is State.OPEN:
                self.log.warning("gap", **known)
            else:
                self.log.info("gap ended", **known)


_LOGGED = {"table", "exchange", "market", "symbol", "state", "first_missing", "missing", "cause", "detail"}


def recall(data_dir: Path, exchanges: Mapping[str, Exchange], log: FilteringBoundLogger) -> Continuity:
    """Return what was seen and what was missing when the last record was written. Reads only what is behind the last
    segment's end that says it.
    """
    tails: list[bytes] = []
    said: bytes | None = None
    for segment in reversed(list_segments(journal_dir(data_dir))):
        try:
            data = segment.read()
        except (OSError, JournalError) as error:
            log.warning("segment unreadable, gaps are looked for anew", segment=segment.number, problem=str(error))
            break
        if (position := data.rfind(_STATE)) >= 0:
            said = data[position + 1 :]
            break
        tails.append(data)
    else:
        with suppress(FileNotFoundError):
            said = state_copy(data_dir).read_bytes()
    continuity = Continuity() if said is None else _loaded(said, log)
    memory = _Memory(continuity, exchanges)
    for data in reversed(tails):
        for record in read_records(data):
            memory.feed(record)
    continuity.changes()  # what they meant for the ledger is the follower's to say
    return continuity


def _loaded(record: bytes, log: FilteringBoundLogger) -> Continuity:
    try:
        state = next(read_records(record))
        assert isinstance(state, Note)
        return Continuity.load(state.value)
    except (AssertionError, KeyError, StopIteration, TypeError, ValueError, cattrs.BaseValidationError) as error:
        log.warning("state unreadable, gaps are looked for anew", problem=repr(error))
        return Continuity()


_STATE = b"\n#%s " % Letter.STATE.encode()


@attrs.define
class _Memory:
    """Folds records as the recorder did when it wrote them."""

    continuity: Continuity
    exchanges: Mapping[str, Exchange]
    naming: Naming = attrs.field(factory=Naming)
    legs: dict[int, tuple[Exchange, Leg]] = attrs.field(factory=dict)
    requests: dict[int, dict[str, Any]] = attrs.field(factory=dict)

    def feed(self, record: Batch | Note | Damage) -> None:
        if isinstance(record, Batch):
            self._feed_batch(record)
        elif isinstance(record, Damage):
            self.continuity.damaged(record.problem)
        else:
            self._feed_note(record)
        self.continuity.changes()

    def _feed_batch(self, batch: Batch) -> None:
        if batch.session in self.requests:
            request = self.requests.pop(batch.session)
            exchange = self.exchanges[request["exchange"]]
            instrument = self.naming.find(request["exchange"], [request["market"]], request["native_symbol"])
            for frame in batch.frames:
                snapshot = exchange.decode_snapshot(request["market"], request["native_symbol"], frame)
                if isinstance(snapshot, BookSnapshot) and instrument is not None:
                    track = self.continuity.book_track(instrument, exchange.book_rules(instrument.market))
                    track.take_snapshot(snapshot.last_seq)
                    track.chain.apply.clear()
        elif batch.session in self.legs:
            exchange, leg = self.legs[batch.session]
            for number, frame in enumerate(batch.frames, batch.first_frame):
                leg.take(exchange.decode(frame), number, batch.received_ns)
                leg.unsynced.clear()

    def _feed_note(self, note: Note) -> None:
        value = note.value
        if note.letter is Letter.INSTRUMENTS:
            self.naming.add(cattrs.structure(value["instruments"], list[Instrument]))
        elif note.letter is Letter.OPENED and value["exchange"] in self.exchanges:
            exchange = self.exchanges[value["exchange"]]
            find = partial(self.naming.find, value["exchange"], value["markets"])
            self.legs[value["session"]] = exchange, Leg(value["session"], self.continuity, find, exchange.book_rules)
        elif note.letter is Letter.REQUEST and "session" in value and value["exchange"] in self.exchanges:
            self.requests[value["session"]] = value
        take_note(self.continuity, note)
