"""From journal records to the tables' rows: a pure fold, the same for the live follower, `replay`, `decode` and `sql`.

Records are fed in the order of the journal. Frames go to `intake`, which makes rows of them and counts them by class;
order books to `keeping`; what notes say becomes rows in `notes`. With a `Continuity` the fold also says what is missing
(`gaps`), leaves out what was seen before, and keeps the order books.

A fold goes on over segments; `dump` and `load` let another process go on from the end of any record.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import cattrs
import pyarrow as pa

from collector_trio.continuity.book import Book
from collector_trio.continuity.fold import Continuity
from collector_trio.exchanges.protocol import BookDelta
from collector_trio.followers.chunks import ALL, Finished, Place
from collector_trio.followers.intake import UNKNOWN, Intake, OnClassified
from collector_trio.followers.notes import LedgerRows, put_instruments, put_request, put_session
from collector_trio.followers.reads import Read, Speaker
from collector_trio.followers.state import FoldState
from collector_trio.instruments import Instrument, Naming
from collector_trio.journal.meaning import take_note
from collector_trio.journal.records import Batch, Damage, Letter, Note

SIGNS = ("memory_bytes", "sockets", "close_wait", "unowned")  # what some ticks say of the recorder
TOGETHER = 1024  # frames taken at once, at most


class Fold:
    """Folds the records of a journal (or one pile of frames) into tables."""

    def __init__(
        self,
        naming: Naming,
        on_classified: OnClassified | None = None,
        *,
        continuity: Continuity | None = None,
    ) -> None:
        """`on_classified(frame, class, text)` hears of every frame: its reason, or of each row its native symbol."""
        self.naming = naming
        self.continuity = continuity
        self.divergence = 0  # instruments, over all segments, of which the recorder said something else
        self.unbalanced = 0  # frames, over all segments, that were accepted and are in no class
        self._rows: Counter[str] = Counter()  # by table, exchange and market, over all segments
        self._finished = Finished()
        self._ledger = LedgerRows(continuity, self._finished)
        self._intake = Intake(naming, continuity, self._finished, self._ledger, on_classified)
        self._sessions: dict[int, Speaker] = {}
        self._requests: dict[int, dict[str, Any]] = {}  # REST requests without an answer, by session
        self._reads: list[Read] = []  # batches of sessions that were not taken yet, to be taken together
        self._read_frames = 0
        self._next_frame = 0  # of the journal, should nothing be missing; 0: not known yet
        self._problem = ""  # why something may be missing
        self.begin()

    def begin(self) -> None:
        """Begin a segment: what is counted per segment is 0."""
        self._take_reads()
        self._intake.begin()
        self._fed = 0
        self.damages: list[Damage] = []
        self.passed_over: list[tuple[int, int]] = []  # frames that the numbers say there were
        self.first_frame: int | None = None
        self.first_ns = 0
        self.last_ns = 0
        self._heard: set[Speaker] = set()
        self._signs: dict[str, int] = {}  # the most of each

    # Feeding

    def feed(self, record: Batch | Note | Damage) -> None:
        """Take the next record."""
        if isinstance(record, Batch):
            self._feed_batch(record)
            return
        self._take_reads()
        if isinstance(record, Note):
            self.first_ns = self.first_ns or record.ns
            self.last_ns = max(self.last_ns, record.ns)
            self._feed_note(record)
        else:
            self.damages.append(record)
            self.damaged(record.problem)

    def damaged(self, problem: str) -> None:
        """Take note that a part of the journal cannot be read."""
        self._take_reads()
        self._problem = problem
        if self.continuity is not None:
            self.continuity.damaged(problem)

    def feed_frames(
        self, exchange: str, market: str, frames: Sequence[bytes], session: int | None, first: int, received_ns: int
    ) -> None:
        """Decode and classify `frames` that no journal holds; the first has number `first`."""
        self._intake.take(Read(Speaker(exchange, (market,)), session, first, received_ns, frames))

    def begin_at(self, frame: int) -> None:
        """Know that nothing comes before number `frame`."""
        self._next_frame = frame

    def _expect(self, frame: int) -> None:
        """Go on with number `frame`. The journal's numbers have no holes: those that were passed over are lost."""
        if 0 < self._next_frame < frame:
            self.unbalanced += frame - self._next_frame
            self.passed_over.append((self._next_frame, frame - 1))
            self.damaged(f"frames {self._next_frame}..{frame - 1}: {self._problem or 'not in the journal'}")
        self._problem = ""

    def _feed_batch(self, batch: Batch) -> None:
        if batch.first_frame != self._next_frame or self._problem:
            self._expect(batch.first_frame)
        self._next_frame = batch.first_frame + len(batch.frames)
        self._fed += len(batch.frames)
        self.last_ns = max(self.last_ns, batch.received_ns)
        if self.first_frame is None:
            self.first_frame = batch.first_frame
        session, first, ns = batch.session, batch.first_frame, batch.received_ns
        if session not in self._requests and (speaker := self._sessions.get(session)) is not None:
            self._heard.add(speaker)
            self._reads.append(Read(speaker, session, first, ns, batch.frames))
            self._read_frames += len(batch.frames)
            if self._read_frames >= TOGETHER:
                self._take_reads()
            return
        self._take_reads()
        if session in self._requests:
            self._feed_answer(batch)
        else:  # its opening was damaged; nothing says which exchange spoke
            for number, frame in enumerate(batch.frames, first):
                self._intake.reject(UNKNOWN, (session, number, ns), "unknown session", frame)
        if self._ledger.news:
            self._ledger.write((session, first + len(batch.frames) - 1, ns))

    def _take_reads(self) -> None:
        """Take the batches that wait. Only other records may change what they mean, so these come first."""
        reads, self._reads, self._read_frames = self._reads, [], 0
        if reads:
            self._intake.take_reads(reads)

    def _feed_answer(self, batch: Batch) -> None:
        """Take what REST said."""
        request = self._requests.pop(batch.session)
        speaker = Speaker(request["exchange"], (request["market"],))
        self._heard.add(speaker)
        for number, frame in enumerate(batch.frames, batch.first_frame):
            line = (batch.session, number, batch.received_ns)
            self._intake.take_answer(speaker, request["native_symbol"], frame, line)
        facts = {"frames": len(batch.frames), "bytes": sum(map(len, batch.frames))}
        put_request(self._finished, batch.received_ns, request, "answered", facts=facts)

    def _feed_note(self, note: Note) -> None:
        value, letter = note.value, note.letter
        if letter is Letter.SEGMENT:
            if self.first_frame is None:
                self.first_frame = value["next_frame"]
            self._expect(value["next_frame"])
            self._next_frame = value["next_frame"]
        elif letter is Letter.OPENED:
            self._sessions[value["session"]] = Speaker(value["exchange"], tuple(value["markets"]))
        elif letter is Letter.INSTRUMENTS:
            self._describe(note)
        elif letter is Letter.CONFIG and "snapshot_every_s" in value:
            self._intake.books.snapshot_every_ns = int(value["snapshot_every_s"] * 1e9)
        elif letter is Letter.REQUEST and "session" in value:
            self._requests[value["session"]] = {"opened_ns": note.ns} | value
        elif letter is Letter.FAILED and value.get("session") in self._requests:
            put_request(self._finished, note.ns, self._requests.pop(value["session"]), "failed", value["reason"])
        elif letter is Letter.ENDED:
            put_session(self._finished, note.ns, value)
            self._sessions.pop(value["session"], None)
        elif letter is Letter.PROCESS and value["event"] == "start" and "again" not in value:
            for request in self._requests.values():
                put_request(self._finished, note.ns, request, "process died")
            self._requests.clear()
        elif letter is Letter.TICK:
            for name in SIGNS if value else ():
                if name in value:
                    self._signs[name] = max(value[name], self._signs.get(name, 0))
        elif letter is Letter.STATE and self.continuity is not None:
            self.flush()
            differing = self.continuity.divergence(value)
            if differing:
                self.divergence += differing
                self._intake.books.unreadable.update(map(" ".join, self.continuity.broken_here(value)))
        if self.continuity is not None:
            take_note(self.continuity, note)
            self._intake.books.settle(note.ns)
            self._ledger.write((None, -1, note.ns))

    def _describe(self, note: Note) -> None:
        instruments = cattrs.structure(note.value["instruments"], list[Instrument])
        if not self.naming.knows(instruments):
            self.flush()
            self.naming.add(instruments)
            self._intake.forget_instruments()
        if "again" not in note.value:
            put_instruments(self._finished, note, instruments)

    # Results

    @property
    def counts(self) -> Counter[str]:
        """Frames of this segment by class."""
        self._take_reads()
        return self._intake.counts

    @property
    def ignored(self) -> Counter[str]:
        """Ignored frames of this segment by reason."""
        self._take_reads()
        return self._intake.ignored

    @property
    def frames(self) -> int:
        """Frames of this segment fed so far."""
        return self.counts.total()

    @property
    def totals(self) -> dict[str, Counter[str]]:
        """What was counted over all segments, by what; `missing` is what is missing now."""
        self._take_reads()
        totals = {"rows": self._rows, "rejects": self._intake.rejects, "unreadable": self._intake.books.unreadable}
        if self.continuity is not None:
            totals["gaps"] = Counter({f"{table} {cause}": n for (table, cause), n in self.continuity.gaps.items()})
            totals["missing"] = self.continuity.missing
        return totals

    def book(self, exchange: str, market: str, native_symbol: str) -> Book:
        """Return the levels of a book after all that was fed. Raises KeyError where there is none."""
        self.flush()
        return self._intake.books.book(exchange, market, native_symbol)

    def flush(self) -> None:
        """Take everything that waits, and turn it into columns."""
        self._take_reads()
        self._intake.flush()
        if self._ledger.news:
            self._ledger.write((None, -1, self.last_ns))

    def take(self) -> dict[Place, pa.Table]:
        """Return all rows by place, and forget them."""
        self.flush()
        tables = self._finished.take()
        for (table, exchange, market), rows in tables.items():
            self._rows[f"{table} {exchange} {market}"] += len(rows)
            if rows.column("exact").null_count < len(rows):
                self._rows["inexact"] += len(rows) - rows.column("exact").null_count
        return tables

    def note_segment(self, number: int) -> None:
        """Add the row of the table `segments`: its frames by class."""
        self.flush()
        self.unbalanced += abs(self._fed - self.frames)
        exchanges = {speaker.exchange for speaker in self._heard}
        markets = {speaker.market for speaker in self._heard}
        columns: Mapping[str, Any] = {
            "segment": [number],
            "first_frame": [self.first_frame],
            "frames": [self.frames],
            **{name: [self.counts[name]] for name in ("rows", "control", "duplicate", "ignored", "rejected")},
            "ignored_reasons": [json.dumps(dict(self.ignored)) if self.ignored else None],
            **{name: [self._signs.get(name)] for name in SIGNS},
        }
        exchange = exchanges.pop() if len(exchanges) == 1 else ALL
        market = markets.pop() if len(markets) == 1 else ALL
        self._finished.put("segments", exchange, market, [(None, -1, self.last_ns)], columns)

    # Going on

    def dump(self) -> FoldState:
        """Return all that is known between two records. What was folded so far is to be taken as well."""
        self.flush()
        return FoldState(
            continuity={} if self.continuity is None else self.continuity.dump(),
            books=self._intake.books.dump(),
            instruments=cattrs.unstructure(self.naming.instruments),
            sessions={number: (speaker.exchange, list(speaker.markets)) for number, speaker in self._sessions.items()},
            requests=self._requests,
            totals={name: dict(counts) for name, counts in self.totals.items()},
            snapshot_every_ns=self._intake.books.snapshot_every_ns,
            divergence=self.divergence,
            unbalanced=self.unbalanced,
            next_frame=self._next_frame,
        )

    @classmethod
    def load(cls, state: FoldState) -> "Fold":
        """Go on from what `dump` returned."""
        fold = cls(Naming(), continuity=Continuity.load(state.continuity))
        fold.naming.add(cattrs.structure(state.instruments, list[Instrument]))
        fold._sessions = {
            number: Speaker(exchange, tuple(markets)) for number, (exchange, markets) in state.sessions.items()
        }
        fold._requests, fold.divergence = state.requests, state.divergence
        fold._next_frame, fold.unbalanced = state.next_frame, state.unbalanced
        fold._rows.update(state.totals["rows"])
        fold._intake.rejects.update(state.totals["rejects"])
        fold._intake.books.unreadable.update(state.totals["unreadable"])
        if fold.continuity is not None:
            for name, count in state.totals["gaps"].items():
                table, _, cause = name.partition(" ")
                fold.continuity.gaps[table, cause] = count
        books = fold._intake.books
        books.snapshot_every_ns = state.snapshot_every_ns
        for key, kept in state.books.items():
            exchange, market, native_symbol = key.split(" ", 2)
            instrument = fold.naming.find(exchange, [market], native_symbol)
            if instrument is not None:
                place = (BookDelta.channel, exchange, market)
                books.load(instrument, place, fold._intake.changes(place), kept)
        return fold
