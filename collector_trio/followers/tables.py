"""The follower that turns sealed segments into Parquet. It runs as a process of its own: a compaction in a thread of
the recorder would delay its event loop by tens of milliseconds, and receive times are what users buy this for.

The cursor says which segment was stored last. Files are published first, then the cursor; whatever dies in between, the
same files are written again under the same names, so every row is stored exactly once. What cannot be read is logged
with its bounds, and the rest goes on.
"""

from pathlib import Path

import pyarrow as pa
from structlog.typing import FilteringBoundLogger

from collector_trio.errors import JournalError
from collector_trio.followers.cursor import Cursor, load_cursor, save_cursor, segments_behind
from collector_trio.followers.fold import Fold, Naming
from collector_trio.followers.publish import clear_leftovers, publish
from collector_trio.journal.records import Batch, Letter, Note, read_records
from collector_trio.journal.segments import Segment


def prepare(data_dir: Path) -> None:
    """Remove what a crash left, and keep pyarrow to one core. The caller holds the cursor."""
    clear_leftovers(data_dir)
    pa.set_cpu_count(1)


def store_sealed(data_dir: Path, log: FilteringBoundLogger) -> int:
    """Store every sealed segment behind the cursor; return how many there were. The caller holds the cursor."""
    stored = 0
    for segment in segments_behind(data_dir, load_cursor(data_dir).segment):
        if segment.is_open:
            break
        store(data_dir, segment, segment.number, log)
        stored += 1
    return stored


def store(data_dir: Path, segment: Segment, number: int, log: FilteringBoundLogger) -> bool:
    """Turn one segment into files, then move the cursor behind it; tell whether all of it could be read."""
    cursor = load_cursor(data_dir)
    try:
        fold, next_frame = fold_segment(segment, number)
    except JournalError as error:
        log.error("segment unreadable", segment=number, problem=str(error))
        save_cursor(data_dir, Cursor(max(cursor.segment, number), cursor.next_frame))
        return False
    damages = [damage for damage in fold.damages if not (damage.tail and segment.is_open)]  # that is being written
    for damage in damages:
        bounds = {"start": damage.start, "end": damage.end}
        log.error("journal damaged", segment=number, path=str(segment.path), **bounds, problem=damage.problem)
    if ns := fold.first_ns or fold.last_ns:  # else nothing in it could be read
        publish(data_dir, number, fold.take(), ns)
    save_cursor(data_dir, Cursor(max(cursor.segment, number), max(cursor.next_frame, next_frame)))
    return not damages


def fold_segment(segment: Segment, number: int) -> tuple[Fold, int]:
    """Read one segment into a fold, its row of `segments` included; return it and the frame number to come next."""
    fold, next_frame = Fold(Naming()), 1
    for record in read_records(segment.read()):
        fold.feed(record)
        if isinstance(record, Batch):
            next_frame = record.first_frame + len(record.frames)
        elif isinstance(record, Note) and record.letter is Letter.SEGMENT:
            next_frame = record.value["next_frame"]
    fold.note_segment(number)
    return fold, next_frame
