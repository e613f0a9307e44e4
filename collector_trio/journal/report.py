"""What a journal's folder holds, and what of it cannot be read. Needs no lock, changes nothing.

Frame numbers have no holes, so the neighbours of what cannot be read say exactly which frames were in it.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISFIFO

import attrs

from collector_trio.errors import JournalError
from collector_trio.journal.records import Batch, Damage, Letter, read_records
from collector_trio.journal.recover import Numbers, load_numbers
from collector_trio.journal.segments import Segment, journal_dir, list_segments

SET_ASIDE = ".damaged"
HALF_WRITTEN = ".part"


@attrs.define
class DamageFound:
    """Bytes `start` to `end` (of the text; not included) are no records. Frames `first_missing..last_missing` were in
    them, or in the damage beside; None: no frame was, or (`unknown`) nothing before says how many.
    """

    start: int
    end: int
    problem: str
    first_missing: int | None = None
    last_missing: int | None = None
    unknown: bool = False


@attrs.define
class SegmentFound:
    """One segment. Times in nanoseconds since the epoch; `bytes` as it lies on the disk.

    `form` is open, sealed or packed. `problem` is said of the whole, when it cannot be read or is not all there;
    `torn_bytes` behind the last whole record of an open one are being written, or the next start cuts them off.
    """

    number: int
    name: str
    form: str
    bytes: int
    hour: str | None = None
    stored: bool = False
    first_frame: int | None = None
    frames: int = 0
    batches: int = 0
    notes: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    torn_bytes: int = 0
    damages: list[DamageFound] = attrs.field(factory=list)
    problem: str | None = None

    @property
    def is_whole(self) -> bool:
        """Tell whether all of it can be read."""
        return not self.damages and self.problem is None


@attrs.frozen
class Missing:
    """Frames that the numbers say were accepted, and that are in no segment."""

    first: int
    last: int
    why: str


@attrs.frozen
class Other:
    """A file that is no segment, and is left alone."""

    name: str
    bytes: int
    what: str


@attrs.define
class JournalFound:
    """All of it. `missing` counts from the first segment there is, or the first that is not stored: older ones go when
    they are old enough.
    """

    segments: list[SegmentFound] = attrs.field(factory=list)
    missing: list[Missing] = attrs.field(factory=list)
    others: list[Other] = attrs.field(factory=list)

    @property
    def is_whole(self) -> bool:
        """Tell whether everything that was accepted, and is not too old, can be read."""
        return not self.missing and all(segment.is_whole for segment in self.segments)


def inspect(data_dir: Path, stored: int, next_frame: int) -> JournalFound:
    """Read every segment of a data dir, the running one included; the follower has stored those up to number `stored`,
    and all frames below `next_frame`.

    Raises OSError where the folder cannot be listed.
    """
    folder = journal_dir(data_dir)
    segments = list_segments(folder)
    if stored and not (segments and segments[0].number <= stored):  # the first that may not be gone
        walk = _Walk(next=next_frame, last_number=stored)
    elif segments and segments[0].number == 1:
        walk = _Walk(next=1)
    else:
        walk = _Walk()
    for segment in segments:
        walk.take(segment, segment.number <= stored)
    walk.end(load_numbers(data_dir))
    walk.found.others = _others(folder, {segment.number for segment in segments})
    return walk.found


def _others(folder: Path, numbers: set[int]) -> list[Other]:
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            number = entry.name.partition("-")[0]
            if entry.is_symlink() and entry.name in ("current", ".current"):
                continue
            if not entry.is_file():
                what = _kind(entry)
            elif entry.name.endswith(SET_ASIDE):
                what = "set aside at a start: as it was when damage was found"
            elif entry.name.endswith(HALF_WRITTEN):
                what = "a copy half written: the next start removes it"
            elif number.isdecimal() and int(number) in numbers:
                continue  # a segment: listed, or compressed just now
            else:
                what = "not a journal"
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            found.append(Other(entry.name, size, what))
    return found


def _kind(entry: "os.DirEntry[str]") -> str:
    """Say what is no file."""
    if entry.is_dir():
        return "a folder"
    if entry.is_symlink():
        return "a link to nothing, or to what is no file"
    try:
        return "a pipe" if S_ISFIFO(entry.stat(follow_symlinks=False).st_mode) else "a socket or a device"
    except FileNotFoundError:
        return "gone by now"


@attrs.define
class _Walk:
    """Follows the frame numbers through the segments."""

    found: JournalFound = attrs.field(factory=JournalFound)
    _next: int | None = None  # of the frames; None: not known yet
    _last_number: int | None = None  # of the segments
    # Since a number was last read: damage, and segments that cannot be read, or are not there.
    _suspects: list[tuple[int, DamageFound]] = attrs.field(factory=list)
    _reasons: list[str] = attrs.field(factory=list)

    def take(self, segment: Segment, stored: bool) -> None:
        try:
            found, data = _read(segment)
        except FileNotFoundError:  # it was old enough
            return
        found.stored = stored
        if self._last_number is not None:
            self._not_there(segment.number)
        self._last_number = segment.number
        self.found.segments.append(found)
        if found.problem is None:
            self._take_records(found, data)
        if found.problem is not None and not found.batches:
            self._reasons.append(f"segment {found.number} cannot be read")

    def _take_records(self, found: SegmentFound, data: bytes) -> None:
        is_open, has_end = found.form == "open", False
        for record in read_records(data):
            if isinstance(record, Damage):
                if record.tail and is_open:
                    found.torn_bytes = record.end - record.start
                else:
                    damage = DamageFound(record.start, record.end, record.problem)
                    found.damages.append(damage)
                    self._suspects.append((found.number, damage))
                continue
            ns = record.received_ns if isinstance(record, Batch) else record.ns
            found.first_ns = ns if found.first_ns is None else min(found.first_ns, ns)
            found.last_ns = ns if found.last_ns is None else max(found.last_ns, ns)
            if isinstance(record, Batch):
                self._take_batch(found, record)
                continue
            found.notes += 1
            has_end = record.letter is Letter.SEALED
            if record.letter is Letter.SEGMENT:
                self._reached(record.value["next_frame"])
        if found.first_ns is not None:
            found.hour = f"{datetime.fromtimestamp(found.first_ns // 1_000_000_000, UTC):%Y-%m-%dT%H}"
        if is_open:
            return
        if not found.batches and not found.notes:
            found.problem = "not a journal: no record in it" if data else "empty"
        elif not has_end:
            found.problem = "its end is gone: no last record"
            if not found.damages:
                self._reasons.append(f"the end of segment {found.number} is gone")

    def _take_batch(self, found: SegmentFound, batch: Batch) -> None:
        if self._next is not None and batch.first_frame < self._next and found.problem is None:
            found.problem = f"frame {batch.first_frame} and what follows stands in an earlier segment, too"
            self._reasons.append(f"segment {found.number} holds what an earlier one does")
        self._reached(batch.first_frame)
        if found.first_frame is None:
            found.first_frame = batch.first_frame
        found.batches += 1
        found.frames += len(batch.frames)
        self._next = max(self._next or 0, batch.first_frame + len(batch.frames))

    def _reached(self, frame: int) -> None:
        """Go on with number `frame`; what was passed over is missing."""
        if self._next is not None and frame > self._next:
            first, last = self._next, frame - 1
            places = [f"bytes {damage.start}..{damage.end} of segment {number}" for number, damage in self._suspects]
            for _, damage in self._suspects:
                damage.first_missing, damage.last_missing = first, last
            reasons = [*self._reasons, *([f"damage: {', '.join(places)}"] if places else [])]
            self.found.missing.append(Missing(first, last, "; ".join(reasons) or "nothing says why"))
        for _, damage in self._suspects:
            damage.unknown = self._next is None
        self._next = max(self._next or 0, frame)
        self._suspects, self._reasons = [], []

    def end(self, numbers: Numbers) -> None:
        """Nothing follows; `numbers` are the next ones, as the last seal, or start, wrote them down."""
        if self._next is not None:
            self._not_there(numbers.segment)
            self._reached(numbers.frame)

    def _not_there(self, number: int) -> None:
        """Take note of the segments that are not there before `number`, which comes next."""
        first, last = (self._last_number or 0) + 1, number - 1
        if first <= last:
            self._reasons.append(f"segment {first} is not there" if first == last else
                                 f"segments {first}..{last} are not there")  # fmt: skip


def _read(segment: Segment) -> tuple[SegmentFound, bytes]:
    """Read one segment. Raises FileNotFoundError when it is gone."""
    name = segment.path.name
    form = "open" if segment.is_open else "packed" if name.endswith(".zst") else "sealed"
    found = SegmentFound(segment.number, name, form, 0)
    data = b""
    try:
        data = segment.read()
        found.bytes = len(data)
        found.bytes = segment.path.stat().st_size
    except FileNotFoundError:
        if not data:
            raise
    except PermissionError as error:
        found.problem = error.strerror or str(error)
    except JournalError as error:
        found.problem = f"at byte {error.offset}: {error.problem}"
        found.bytes = segment.path.stat().st_size
    return found, data
