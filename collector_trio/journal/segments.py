"""Where segments are and what their names say: `000000000042-20261123T123800Z.log`.

`.open` is being written, `.log` is whole, `.log.zst` is whole and compressed. Names sort in the order of recording.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import attrs
import zstandard

from collector_trio.errors import CollectorError, JournalError

SUFFIXES = (".open", ".log", ".log.zst")
FIRST_LINE_BYTES = 65_536
OPENED = "%Y%m%dT%H%M%SZ"  # when a segment was opened, in its name


@attrs.frozen
class Segment:
    """One journal file."""

    number: int
    path: Path

    @property
    def is_open(self) -> bool:
        """Tell whether it is still being written (or was, when the recorder died)."""
        return self.path.name.endswith(".open")

    @property
    def opened_s(self) -> float:
        """When it was opened, in seconds since the epoch, as its name says; 0 where that says nothing."""
        try:
            written = self.path.name.partition("-")[2].partition(".")[0]
            return datetime.strptime(written, OPENED).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return 0.0

    def read(self) -> bytes:
        """Return the text, also when it was sealed or compressed since it was listed.

        Raises JournalError for zstd that is damaged or cut short and for what the disk cannot read, FileNotFoundError
        when it is gone, PermissionError where its owner can mend that.
        """
        return b"".join(self.pieces(-1))

    def pieces(self, size: int) -> Generator[bytes, None, None]:
        """Yield the text `size` bytes at a time, compressed text as a whole. Raises what `read` does, any time.

        It holds the file: whoever may leave it early closes it.
        """
        with _open(self.path) as file:
            if Path(file.name).name.endswith(".zst"):
                yield _unpack(Path(file.name), _read(file, -1))
                return
            while piece := _read(file, size):
                yield piece


def _open(path: Path) -> FileIO:
    """Open a segment under the name it has now."""
    for name in _names_in_life(path):
        try:
            return FileIO(name)
        except FileNotFoundError:
            continue
        except PermissionError:
            raise
        except OSError as error:
            raise JournalError(name, 0, error.strerror or str(error)) from None
    raise FileNotFoundError(f"{path} is gone")


def _read(file: FileIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise JournalError(Path(file.name), file.tell(), error.strerror or str(error)) from None


@contextmanager
def needing(data_dir: Path, done: str) -> Iterator[None]:
    """Raise CollectorError, one sentence, where the block cannot do with `data_dir` what is to be `done`: "read"."""
    try:
        yield
    except OSError as error:
        raise CollectorError(f"{data_dir} cannot be {done}: {error}") from None


def journal_dir(data_dir: Path) -> Path:
    """Return the folder of the segments."""
    return data_dir / "journal"


def state_dir(data_dir: Path) -> Path:
    """Return the folder of what is not data: locks, numbers, cursors, the instruments last seen."""
    return data_dir / "state"


def state_copy(data_dir: Path) -> Path:
    """Return where the end of the last segment is kept, for when that segment is gone: one record, as in a segment."""
    return state_dir(data_dir) / "continuity.record"


def segment_path(folder: Path, number: int, opened_ns: int) -> Path:
    """Return the path of a segment while it is written."""
    opened = datetime.fromtimestamp(opened_ns // 1_000_000_000, UTC)
    return folder / f"{number:012d}-{opened:{OPENED}}.open"


def first_line(segment: Segment) -> bytes:
    """Return a segment's first line, which no other segment of any journal has: its `#j`, with number and time. Raises
    JournalError.
    """
    with segment.path.open("rb") as file:
        if not segment.path.name.endswith(".zst"):
            return file.readline(FIRST_LINE_BYTES)
        try:
            with zstandard.ZstdDecompressor().stream_reader(file) as unpacked:
                return unpacked.read(FIRST_LINE_BYTES).partition(b"\n")[0] + b"\n"
        except zstandard.ZstdError as error:
            raise JournalError(segment.path, 0, str(error)) from None


def _names_in_life(path: Path) -> Iterator[Path]:
    """Yield `path` and the names it may bear later. In this order: who looks in it cannot be overtaken by a rename."""
    yield path
    if path.name.endswith(".open"):
        yield path.with_suffix(".log")
        yield path.with_suffix(".log.zst")
    elif path.name.endswith(".log"):
        yield path.with_name(path.name + ".zst")


def _unpack(path: Path, data: bytes) -> bytes:
    """Decompress every zstd frame of a file: a journal may have been packed with `zstd`, or be several in one."""
    parts = []
    while data:
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(unpacker.decompress(data))
        except zstandard.ZstdError as error:
            raise JournalError(path, sum(map(len, parts)), str(error)) from None
        if not unpacker.eof:
            raise JournalError(path, sum(map(len, parts)), "the zstd frame is cut short")
        data = unpacker.unused_data
    return b"".join(parts)


def point_at(path: Path) -> None:
    """Let the link `current` beside `path` lead to it, for `tail -F`. Where links cannot be, there is none."""
    link, part = path.with_name("current"), path.with_name(".current")
    with suppress(OSError):
        part.unlink(missing_ok=True)
        part.symlink_to(path.name)
        part.replace(link)


def point_nowhere(folder: Path) -> None:
    """Remove the link: nothing is being written."""
    with suppress(OSError):
        (folder / "current").unlink(missing_ok=True)


def list_segments(folder: Path) -> list[Segment]:
    """List the segments in order; of a number that is there twice (compressed just now) the uncompressed one."""
    found: dict[int, Segment] = {}
    for name in sorted(_listed(folder)):
        number, dash, rest = name.partition("-")
        if number.isdecimal() and dash and rest.endswith(SUFFIXES):
            found.setdefault(int(number), Segment(int(number), folder / name))
    return [found[number] for number in sorted(found)]


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_file()]


def _listed(folder: Path) -> set[str]:
    """List the names in `folder`, again until two lists agree: a file that is renamed meanwhile may be in neither half
    of a list that the kernel gives in pieces. Folders, pipes and links to nowhere are no segments, whatever they are
    called: opening a pipe would wait for whoever writes into it.
    """
    before = None
    while True:
        try:
            names = set(_names_in(folder))
        except FileNotFoundError:
            return set()
        if names == before:
            return names
        before = names


def one_segment(path: Path) -> Segment:
    """Take any file as a segment, for journals that were moved elsewhere; a name without a number counts as 0. A link
    such as `current` is the segment it leads to.
    """
    if path.is_symlink():
        path = path.resolve()
    number = path.name.partition("-")[0]
    return Segment(int(number) if number.isdecimal() else 0, path)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder, and the folders it is in, so that a power cut takes none of them back."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a crash, finds the old or the new content and never a part."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk what it holds may be what is missing elsewhere
        raise
    sync_folder(path.parent)
