"""The follower that turns sealed segments into Parquet. It runs as a process of its own: a compaction in a thread of the recorder would
delay its event loop by tens of milliseconds, and receive times are what users buy this for.

The cursor says which segment was stored last. Files are published first, then the cursor; whatever dies in between, the same files are
written again under the same names, so every row is stored exactly once.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pyarrow as pa

from collector_trio.followers.fold import Fold, Naming
from collector_trio.followers.publish import clear_leftovers, publish
from collector_trio.journal.records import read_records
from collector_trio.journal.segments import Segment, journal_dir, list_segments, state_dir, write_whole

NAME = "tables"


@attrs.frozen
class Cursor:
    """The last segment that is stored, and the frame numbers that are: everything below `next_frame`."""

    segment: int = 0
    next_frame: int = 1


def cursor_path(data_dir: Path, name: str = NAME) -> Path:
    """Return where a follower keeps its cursor."""
    return state_dir(data_dir) / f"{name}.cursor"


def load_cursor(data_dir: Path, name: str = NAME) -> Cursor:
    """Return how far a follower is."""
    try:
        return Cursor(**json.loads(cursor_path(data_dir, name).read_bytes()))
    except FileNotFoundError:
        return Cursor()


@contextmanager
def lock_cursor(data_dir: Path) -> Iterator[bool]:
    """Try to hold the cursor, so that two followers never run; yield whether it was free."""
    state_dir(data_dir).mkdir(parents=True, exist_ok=True)
    fd = os.open(state_dir(data_dir) / f"{NAME}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def prepare(data_dir: Path) -> None:
    """Remove what a crash left, and keep pyarrow to one core. The caller holds the cursor."""
    clear_leftovers(data_dir)
    pa.set_cpu_count(1)


def store_sealed(data_dir: Path) -> int:
    """Store every sealed segment behind the cursor; return how many there were. The caller holds the cursor."""
    stored = 0
    for segment in unstored(data_dir):
        if segment.is_open:
            break
        store(data_dir, segment, segment.number)
        stored += 1
    return stored


def unstored(data_dir: Path) -> list[Segment]:
    """List the segments behind the cursor, the running one included."""
    cursor = load_cursor(data_dir)
    return [segment for segment in list_segments(journal_dir(data_dir)) if segment.number > cursor.segment]


def store(data_dir: Path, segment: Segment, number: int) -> Fold:
    """Turn one segment into files, then move the cursor behind it."""
    fold = fold_segment(segment, number)
    next_frame = (fold.first_frame or 1) + fold.frames
    publish(data_dir, number, fold.take(), fold.last_ns)
    write_whole(cursor_path(data_dir), json.dumps(attrs.asdict(Cursor(number, next_frame))).encode())
    return fold


def fold_segment(segment: Segment, number: int) -> Fold:
    """Read one segment into a fold, its row of `segments` included."""
    fold = Fold(Naming())
    for record in read_records(segment.read()):
        fold.feed(record)
    fold.note_segment(number)
    return fold
