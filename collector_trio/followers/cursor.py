"""How far a follower is in the journal, what it knows there, and the lock that keeps two of a kind from running.

One file: a line of JSON that anybody may read (the cursor, and the follower's totals), and behind it the state that the
follower goes on from. Both change in one rename, after what they speak of was stored.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from collector_trio.journal.segments import Segment, journal_dir, list_segments, needing, state_dir, write_whole

NAME = "tables"


@attrs.frozen
class Cursor:
    """The last segment that is stored, and the frame numbers that are: everything below `next_frame`."""

    segment: int = 0
    next_frame: int = 1


def cursor_path(data_dir: Path, name: str = NAME) -> Path:
    """Return where a follower keeps its cursor."""
    return state_dir(data_dir) / f"{name}.cursor"


@attrs.frozen
class Checkpoint:
    """A cursor, what the follower has counted so far (see `Fold.totals`), and the bytes of its state, if it has any."""

    cursor: Cursor = Cursor()
    totals: Mapping[str, Any] = attrs.field(factory=dict)
    state: bytes = b""


def load_checkpoint(data_dir: Path, name: str = NAME) -> Checkpoint:
    """Return how far a follower is, and what it knows."""
    try:
        head, _, state = cursor_path(data_dir, name).read_bytes().partition(b"\n")
        found = json.loads(head)
        return Checkpoint(Cursor(found["segment"], found["next_frame"]), found.get("totals", {}), state)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Checkpoint()  # none yet, or damaged: then all is stored again, under the same names


def load_head(data_dir: Path, name: str = NAME) -> Checkpoint:
    """Return how far a follower is and what it has counted, without its state: one line, however large that is."""
    try:
        with cursor_path(data_dir, name).open("rb") as file:
            return _read_head(file.readline())
    except (OSError, ValueError, TypeError, KeyError):  # who reads it can do without
        return Checkpoint()


def load_cursor(data_dir: Path, name: str = NAME) -> Cursor:
    """Return how far a follower is."""
    return load_head(data_dir, name).cursor


def _read_head(line: bytes) -> Checkpoint:
    found = json.loads(line)
    return Checkpoint(Cursor(found["segment"], found["next_frame"]), found.get("totals", {}))


def save_checkpoint(data_dir: Path, checkpoint: Checkpoint, name: str = NAME) -> None:
    """Write down how far a follower is; what it stored must be on disk by then."""
    head = attrs.asdict(checkpoint.cursor) | {"totals": checkpoint.totals}
    write_whole(cursor_path(data_dir, name), json.dumps(head).encode() + b"\n" + checkpoint.state)


@contextmanager
def lock_cursor(data_dir: Path) -> Iterator[bool]:
    """Try to hold the cursor, so that two followers never run; yield whether it was free.

    Raises CollectorError where nothing can be written into `data_dir`.
    """
    with needing(data_dir, "stored into"):
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
