"""How far a follower is in the journal, and the lock that keeps two of a kind from running."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

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
    except (
        FileNotFoundError,
        ValueError,
        TypeError,
    ):  # none yet, or damaged: then all is stored again, under the same names
        return Cursor()


def save_cursor(data_dir: Path, cursor: Cursor, name: str = NAME) -> None:
    """Write down how far a follower is; what it stored must be on disk by then."""
    write_whole(cursor_path(data_dir, name), json.dumps(attrs.asdict(cursor)).encode())


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


def segments_behind(data_dir: Path, segment: int) -> list[Segment]:
    """List the segments after number `segment`, the running one included."""
    return [found for found in list_segments(journal_dir(data_dir)) if found.number > segment]
