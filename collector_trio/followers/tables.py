"""The follower that turns sealed segments into Parquet. It runs as a process of its own: a compaction in a thread of
the recorder would delay its event loop by tens of milliseconds, and receive times are what users buy this for.

The cursor says which segment was stored last. Files are published first, then the cursor; whatever dies in between, the
same files are written again under the same names, so every row is stored exactly once.
"""

from pathlib import Path

import pyarrow as pa

from collector_trio.followers.cursor import Cursor, load_cursor, save_cursor, segments_behind
from collector_trio.followers.fold import Fold, Naming
from collector_trio.followers.publish import clear_leftovers, publish
from collector_trio.journal.records import read_records
from collector_trio.journal.segments import Segment


def prepare(data_dir: Path) -> None:
    """Remove what a crash left, and keep pyarrow to one core. The caller holds the cursor."""
    clear_leftovers(data_dir)
    pa.set_cpu_count(1)


def store_sealed(data_dir: Path) -> int:
    """Store every sealed segment behind the cursor; return how many there were. The caller holds the cursor."""
    stored = 0
    for segment in segments_behind(data_dir, load_cursor(data_dir).segment):
        if segment.is_open:
            break
        store(data_dir, segment, segment.number)
        stored += 1
    return stored


def store(data_dir: Path, segment: Segment, number: int) -> Fold:
    """Turn one segment into files, then move the cursor behind it."""
    fold = fold_segment(segment, number)
    next_frame = (fold.first_frame or 1) + fold.frames
    publish(data_dir, number, fold.take(), fold.first_ns)
    save_cursor(data_dir, Cursor(number, next_frame))
    return fold


def fold_segment(segment: Segment, number: int) -> Fold:
    """Read one segment into a fold, its row of `segments` included."""
    fold = Fold(Naming())
    for record in read_records(segment.read()):
        fold.feed(record)
    fold.note_segment(number)
    return fold
