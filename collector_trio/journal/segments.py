"""Where segments are and what their names say: `000000000042-20261123T123800Z.log`.

`.open` is being written, `.log` is whole, `.log.zst` is whole and compressed. Names sort in the order of recording.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import attrs
import zstandard

from collector_trio.errors import JournalError

SUFFIXES = (".open", ".log", ".log.zst")


@attrs.frozen
class Segment:
    """One journal file."""

    number: int
    path: Path

    @property
    def is_open(self) -> bool:
        """Tell whether it is still being written (or was, when the recorder died)."""
        return self.path.name.endswith(".open")

    def read(self) -> bytes:
        """Return the text. Raises JournalError for a damaged zstd frame, FileNotFoundError when it is gone."""
        data = self.path.read_bytes()
        if not self.path.name.endswith(".zst"):
            return data
        try:
            return zstandard.ZstdDecompressor().stream_reader(data).read()
        except zstandard.ZstdError as error:
            raise JournalError(self.path, 0, str(error)) from None


def journal_dir(data_dir: Path) -> Path:
    """Return the folder of the segments."""
    return data_dir / "journal"


def state_dir(data_dir: Path) -> Path:
    """Return the folder of what is not data: locks, numbers, cursors, the instruments last seen."""
    return data_dir / "state"


def segment_path(folder: Path, number: int, opened_ns: int) -> Path:
    """Return the path of a segment while it is written."""
    opened = datetime.fromtimestamp(opened_ns // 1_000_000_000, UTC)
    return folder / f"{number:012d}-{opened:%Y%m%dT%H%M%SZ}.open"


def list_segments(folder: Path) -> list[Segment]:
    """List the segments in order; of a number that is there twice (compressed just now) the uncompressed one."""
    found: dict[int, Segment] = {}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    for name in names:
        number, dash, rest = name.partition("-")
        if number.isdecimal() and dash and rest.endswith(SUFFIXES):
            found.setdefault(int(number), Segment(int(number), folder / name))
    return [found[number] for number in sorted(found)]


def one_segment(path: Path) -> Segment:
    """Take any file as a segment, for journals that were moved elsewhere; a name without a number counts as 0."""
    number = path.name.partition("-")[0]
    return Segment(int(number) if number.isdecimal() else 0, path)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a crash, finds the old or the new content and never a part."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
