"""The follower that turns sealed segments into Parquet. It runs as a process of its own: a compaction in a thread of
the recorder would delay its event loop by tens of milliseconds, and receive times are what users buy this for.

The cursor says which segment was stored last, and beside it stands what is known there: marks, holes, books. Files are
published first, then both in one rename; whatever dies in between, the same files are written again under the same
names, so every row is stored exactly once; rows that are in a merged file stay as they are there. What cannot be read
is logged with its bounds, and the rest goes on.
"""

from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import attrs
import cattrs
import msgspec
import pyarrow as pa
from structlog.typing import FilteringBoundLogger

from collector_trio.continuity.fold import Continuity
from collector_trio.errors import JournalError
from collector_trio.followers import state
from collector_trio.followers.cursor import Checkpoint, Cursor, load_checkpoint, save_checkpoint, segments_behind
from collector_trio.followers.fold import Fold
from collector_trio.followers.publish import clear_leftovers, publish
from collector_trio.instruments import Naming
from collector_trio.journal.records import Batch, Damage, Letter, Note, read_pieces
from collector_trio.journal.segments import Segment

PIECE_BYTES = 4 << 20  # of a segment's text, held at a time


def new_fold() -> Fold:
    """Return a fold that knows nothing yet."""
    return Fold(Naming(), continuity=Continuity())


def fold_at(checkpoint: Checkpoint, log: FilteringBoundLogger | None = None) -> Fold:
    """Return a fold that knows what is known at `checkpoint`; one that knows nothing where that cannot be read."""
    if not checkpoint.state:
        return new_fold()
    try:
        return Fold.load(state.decode(checkpoint.state))
    except (msgspec.MsgspecError, cattrs.BaseValidationError, ValueError, KeyError, TypeError) as error:
        if log is not None:
            log.error("state unreadable; gaps and books begin anew", problem=str(error))
        return new_fold()


@attrs.define
class Tables:
    """Stores segments in the order of their numbers. Made by `open_tables`; the caller holds the cursor."""

    data_dir: Path
    log: FilteringBoundLogger
    cursor: Cursor
    fold: Fold
    _again: Fold = attrs.field(factory=lambda: new_fold())  # of what is stored again
    _again_number: int = 0

    def store_sealed(self) -> int:
        """Store every sealed segment behind the cursor; return how many there were."""
        stored = 0
        for segment in segments_behind(self.data_dir, self.cursor.segment):
            if segment.is_open:
                break
            self.store(segment, segment.number)
            stored += 1
        return stored

    def store(self, segment: Segment, number: int) -> bool:
        """Turn one segment into files, then move the cursor behind it; tell whether all of it could be read.

        One that is not behind the cursor is stored again, from what the ones stored again before it say.
        """
        is_next = number > self.cursor.segment
        if not is_next and number <= self._again_number:
            self._again = new_fold()
        self._again_number = number
        try:
            return self._store(segment, number, self.fold if is_next else self._again, is_next)
        except BaseException:  # such as a full disk: the fold has seen what is not stored, and must see it again
            self.fold = fold_at(load_checkpoint(self.data_dir), self.log)
            raise

    def _store(self, segment: Segment, number: int, fold: Fold, is_next: bool) -> bool:
        if number == 1:
            fold.begin_at(1)
        try:
            next_frame = fold_segment(fold, segment, number)
        except JournalError as error:
            self.log.error("segment unreadable", segment=number, problem=str(error))
            fold.damaged(f"segment {number}: {error}")
            if is_next:
                self._move(number, self.cursor.next_frame)
            return False
        damages = [damage for damage in fold.damages if not (damage.tail and segment.is_open)]  # being written
        for damage in damages:
            bounds = {"start": damage.start, "end": damage.end}
            self.log.error("journal damaged", segment=number, path=str(segment.path), **bounds, problem=damage.problem)
        for first, last in fold.passed_over:
            self.log.error("frames are not in the journal", segment=number, first_missing=first, last_missing=last)
        ns = fold.first_ns or fold.last_ns  # else nothing in it could be read
        tables = fold.take()
        # What folding took and freed goes back before writing takes as much again.
        pa.default_memory_pool().release_unused()
        if ns and (kept := publish(self.data_dir, number, tables, ns)):
            self.log.info("stored rows stay: their hour is merged", segment=number, files=len(kept))
        if is_next:
            self._move(number, max(self.cursor.next_frame, next_frame))
        return not damages

    def _move(self, segment: int, next_frame: int) -> None:
        cursor = Cursor(segment, next_frame)
        totals = {name: dict(counts) for name, counts in self.fold.totals.items()}
        known = state.encode(self.fold.dump())
        counted = {"divergence": self.fold.divergence, "unbalanced": self.fold.unbalanced}
        save_checkpoint(self.data_dir, Checkpoint(cursor, totals | counted, known))
        self.cursor = cursor


def open_tables(data_dir: Path, log: FilteringBoundLogger) -> Tables:
    """Go on where the cursor is, without what a crash left; pyarrow keeps to one core. The caller holds the cursor."""
    clear_leftovers(data_dir)
    pa.set_cpu_count(1)
    checkpoint = load_checkpoint(data_dir)
    return Tables(data_dir, log, checkpoint.cursor, fold_at(checkpoint, log))


def fold_segment(fold: Fold, segment: Segment, number: int) -> int:
    """Read one segment into `fold`, its row of `segments` included; return the frame number to come next.

    Raises JournalError where nothing can be read; then the fold is as before.
    """
    next_frame = 1
    with closing(segment.pieces(PIECE_BYTES)) as pieces:
        first = list(islice(pieces, 1))
        fold.begin()
        try:
            for record in read_pieces(chain(first, pieces)):
                fold.feed(record)
                if isinstance(record, Batch):
                    next_frame = record.first_frame + len(record.frames)
                elif isinstance(record, Note) and record.letter is Letter.SEGMENT:
                    next_frame = record.value["next_frame"]
        except JournalError as error:  # the disk gave a part of it
            fold.feed(Damage(error.offset, error.offset, error.problem, tail=False))
    if fold.first_ns or fold.last_ns:  # else nothing says when it was, nor that it ever was
        fold.note_segment(number)
    return next_frame
