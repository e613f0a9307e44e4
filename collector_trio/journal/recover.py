"""Before any socket opens: take the data dir, mend what a crash left, and find the numbers to go on with."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from collector_trio.errors import CollectorError, DataDirInUse, JournalError
from collector_trio.journal.records import Batch, Damage, Letter, Note, encode_note, read_records
from collector_trio.journal.segments import (
    Segment,
    journal_dir,
    list_segments,
    make_folder,
    needing,
    state_dir,
    sync_folder,
    write_whole,
)


@attrs.define
class Numbers:
    """The next numbers to give. They go on over restarts, also when old segments are gone."""

    segment: int = 1
    frame: int = 1
    session: int = 1


@attrs.define
class Recovered:
    """What the last run left: numbers, sessions that were never ended (their notes, with counts), and the last time it
    wrote.
    """

    numbers: Numbers
    open_sessions: dict[int, dict[str, Any]]
    last_ns: int
    truncated_bytes: int


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[int]:
    """Hold `data_dir` for this process, by the file descriptor that is yielded.

    Raises DataDirInUse at once when another collector holds it, and CollectorError where no folder can be made, or
    nothing written into one.
    """
    with needing(data_dir, "recorded into"):
        for folder in (data_dir, state_dir(data_dir), journal_dir(data_dir)):
            make_folder(folder)
            _try_writing(folder)
        fd = os.open(state_dir(data_dir) / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
            raise DataDirInUse(data_dir, holder or "its process is unknown") from None
        os.ftruncate(fd, 0)
        with suppress(OSError):  # for people; a full disk is no reason not to begin
            os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        yield fd
    finally:
        os.close(fd)


def _try_writing(folder: Path) -> None:
    """Raise OSError where no file can be made in `folder`: said now, not as a disk that refuses for ever."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def recover(data_dir: Path) -> Recovered:
    """Seal what the last run left open, and return where to go on. The caller holds the lock.

    A torn tail (bytes behind the last whole record) is cut off. Damage with whole records behind it is not a torn tail:
    a copy of the segment is set aside, and readers skip the damage. A segment without any whole record is set aside.

    Raises CollectorError where the disk does not let that be done; what was accepted is still there for the next try.
    """
    try:
        return _recover(data_dir)
    except OSError as error:
        raise CollectorError(f"{journal_dir(data_dir)}: what the last run left cannot be mended: {error}") from None


def _recover(data_dir: Path) -> Recovered:
    recovered = Recovered(load_numbers(data_dir), {}, 0, 0)
    for part in journal_dir(data_dir).glob("*.part"):  # of a copy that was being written
        part.unlink()
    segments = list_segments(journal_dir(data_dir))
    sealed = [segment for segment in segments if not segment.is_open]
    for segment in sealed[-1:]:  # what was open at its end, should the last run have died while it began
        with suppress(JournalError):  # it can be followed, if at all, without us; the numbers are saved
            _count(segment, segment.read(), recovered)
    for segment in segments:
        if segment.is_open:
            _seal(segment, recovered)
    save_numbers(data_dir, recovered.numbers)
    return recovered


def save_numbers(data_dir: Path, numbers: Numbers) -> None:
    """Write the numbers down, for the day the segments are gone. On a full disk the segments are there to say them."""
    with suppress(OSError):
        write_whole(state_dir(data_dir) / "numbers.json", json.dumps(attrs.asdict(numbers)).encode())


def load_numbers(data_dir: Path) -> Numbers:
    """Return the numbers as they were last written down."""
    try:
        saved = json.loads((state_dir(data_dir) / "numbers.json").read_bytes())
        return Numbers(**saved)
    except (FileNotFoundError, ValueError, TypeError):  # gone or damaged: the segments know, if there are any
        return Numbers()


def _seal(segment: Segment, recovered: Recovered) -> None:
    aside = segment.path.with_suffix(".damaged")
    try:
        data = segment.read()
    except JournalError:  # such as a bad sector
        recovered.numbers.segment = max(recovered.numbers.segment, segment.number + 1)
        segment.path.rename(aside)
        sync_folder(aside.parent)
        return
    end, sealed, damaged = _count(segment, data, recovered)
    recovered.truncated_bytes += len(data) - end
    if end == 0:
        if data:
            os.truncate(segment.path, len(data))  # gives back what was reserved
            segment.path.rename(aside)
        else:
            segment.path.unlink()
        sync_folder(aside.parent)
        return
    if damaged:
        with suppress(OSError):  # the damage itself stays in the segment; the copy is for people
            write_whole(aside, data)
    fd = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, end)  # gives back what was reserved, too
        if not sealed:
            _write_or_leave(fd, encode_note(Letter.SEALED, recovered.last_ns, {"recovered": True}), end)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    segment.path.rename(segment.path.with_suffix(".log"))
    sync_folder(segment.path.parent)


def _write_or_leave(fd: int, record: bytes, end: int) -> None:
    """Write `record` at the end of a file, or, on a full disk, nothing."""
    try:
        written = os.pwrite(fd, record, end)
    except OSError:
        written = 0
    if written != len(record):
        os.ftruncate(fd, end)


def _count(segment: Segment, data: bytes, recovered: Recovered) -> tuple[int, bool, bool]:
    """Fold one segment into `recovered`; return the end of its last record, whether it is sealed, whether it is damaged
    inside.
    """
    end, sealed, damaged = len(data), False, False
    numbers = recovered.numbers
    numbers.segment = max(numbers.segment, segment.number + 1)
    for record in read_records(data):
        if isinstance(record, Damage):
            if record.tail:
                end = record.start
            else:
                damaged = True
        elif isinstance(record, Batch):
            recovered.last_ns = max(recovered.last_ns, record.received_ns)
            numbers.frame = max(numbers.frame, record.first_frame + len(record.frames))
            if opened := recovered.open_sessions.get(record.session):
                opened["frames"] += len(record.frames)
                opened["bytes"] += sum(map(len, record.frames))
        else:
            sealed = record.letter is Letter.SEALED
            _note(record, recovered)
    return end, sealed, damaged


def _note(note: Note, recovered: Recovered) -> None:
    recovered.last_ns = max(recovered.last_ns, note.ns)
    numbers = recovered.numbers
    if note.letter is Letter.SEGMENT:
        numbers.frame = max(numbers.frame, note.value["next_frame"])
        numbers.session = max(numbers.session, note.value["next_session"])
    elif note.letter is Letter.OPENED:
        number = note.value["session"]
        numbers.session = max(numbers.session, number + 1)
        recovered.open_sessions[number] = {"frames": 0, "bytes": 0} | note.value
    elif note.letter is Letter.REQUEST and "session" in note.value:
        numbers.session = max(numbers.session, note.value["session"] + 1)
    elif note.letter is Letter.LIVE and note.value["session"] in recovered.open_sessions:
        recovered.open_sessions[note.value["session"]] |= {"live_ns": note.ns} | note.value
    elif note.letter is Letter.ENDED:
        recovered.open_sessions.pop(note.value["session"], None)
