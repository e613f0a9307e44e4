"""A journal without a process around it: a clock moved by hand, work done on the spot, a disk with a size."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from collector_trio.journal.append import Journal, open_journal
from collector_trio.journal.keep import let_go, tidy_one
from collector_trio.journal.records import Batch, Damage, Letter, Note, read_records
from collector_trio.journal.recover import Recovered, lock_data_dir, recover
from collector_trio.journal.segments import Segment, journal_dir, list_segments
from collector_trio.journal.space import free_bytes

START_NS = int(datetime(2026, 11, 23, 12, 38, tzinfo=UTC).timestamp()) * 10**9


async def inline(work: Callable[[], None]) -> None:
    work()


@attrs.define
class HandClock:
    """Nanoseconds since the epoch; each look takes one."""

    ns: int = START_NS

    def __call__(self) -> int:
        self.ns += 1
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@contextmanager
def journal_in(
    data_dir: Path, clock: HandClock, on_sealed: Callable[[int], None] = lambda number: None, segment_s: float = 60.0
) -> Iterator[tuple[Journal, Recovered]]:
    """Open the journal as `run` does: the lock, what the last run left, the running segment."""
    with lock_data_dir(data_dir):
        recovered = recover(data_dir)
        with open_journal(
            data_dir,
            recovered.numbers,
            clock=clock,
            segment_s=segment_s,
            sync_every_s=1.0,
            offload=inline,
            on_sealed=on_sealed,
        ) as journal:
            yield journal, recovered


def segments(data_dir: Path) -> list[Segment]:
    return list_segments(journal_dir(data_dir))


def records(segment: Segment) -> list[Batch | Note | Damage]:
    return list(read_records(segment.read()))


def everything(data_dir: Path) -> list[Batch | Note | Damage]:
    return [record for segment in segments(data_dir) for record in records(segment)]


def batches(data_dir: Path) -> list[Batch]:
    return [record for record in everything(data_dir) if isinstance(record, Batch)]


def notes(data_dir: Path, letter: Letter) -> list[dict[str, Any]]:
    return [r.value for r in everything(data_dir) if isinstance(r, Note) and r.letter is letter]


def numbered(data_dir: Path) -> list[tuple[int, bytes]]:
    """Return every frame with its number."""
    return [pair for batch in batches(data_dir) for pair in enumerate(batch.frames, batch.first_frame)]


def leave_open(data_dir: Path, number: int = -1) -> Path:
    """Make a sealed segment look as if its recorder had been killed: no last line, still `.open`."""
    segment = segments(data_dir)[number]
    data = segment.read()
    last = data[: data.rindex(b"#z ")]
    path = segment.path.with_suffix(".open")
    segment.path.unlink()
    path.write_bytes(last)
    return path


@attrs.define
class Disk:
    """Stands before `os.writev` and `os.pwrite`: what goes to the journal takes of `free` bytes, then fails as a full
    disk does: first short, then ENOSPC.
    """

    journal: Path
    free: float = float("inf")
    _writev: Callable[[int, Sequence[bytes]], int] = os.writev
    _pwrite: Callable[[int, bytes, int], int] = os.pwrite

    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        return self._writev(fd, [self._fitting(fd, b"".join(parts))])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._pwrite(fd, self._fitting(fd, data), offset)

    def _fitting(self, fd: int, data: bytes) -> bytes:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).parent != self.journal:
            return data
        if self.free <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fitting = data[: int(min(self.free, len(data)))]
        self.free -= len(fitting)
        return fitting


def tidy(data_dir: Path, confirmed: int, keep: float | str, min_free_bytes: int, now_s: float) -> None:
    """Compress or delete all segments that are due, as the recorder does one by one."""
    while (missing := min_free_bytes - free_bytes(data_dir)) > 0 and let_go(data_dir, confirmed, missing):
        pass
    while tidy_one(data_dir, confirmed, keep, now_s):
        pass
