"""The space that must stay free on the data dir's disk: below it kept journals go first, then reading stops."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from collector_trio.journal.append import Journal, Offload
from collector_trio.journal.keep import let_go, tidy_one

LOOK_EVERY_S = 1.0
TIDY_EVERY_S = 30.0
MIB = 2**20
MORE_BYTES = 64 * MIB  # reading begins again when so much more is free (a sixteenth of what must be, if that is less)
SHARE_OF_DISK = 10


@attrs.frozen
class Floor:
    """What must stay free of a disk, and what `[store] min_free` says: the same, unless the whole disk is smaller."""

    bytes: int
    asked_bytes: int
    disk_bytes: int

    @property
    def problem(self) -> str | None:
        """Say what is wrong with what was asked for, None: nothing."""
        if self.bytes == self.asked_bytes:
            return None
        return (
            f"[store] min_free ({size_text(self.asked_bytes)}) is more than the whole disk of the data dir "
            f"({size_text(self.disk_bytes)}), and nothing could ever be recorded; {size_text(self.bytes)} are kept "
            "free instead"
        )

    def shortage(self, free_bytes: int) -> str:
        """Say what is missing when so little is free."""
        return f"less than min_free ({size_text(self.bytes)}) is free: {size_text(free_bytes)}"


def find_floor(data_dir: Path, min_free_bytes: int) -> Floor:
    """Return what must stay free where `data_dir` is, or will be: `min_free_bytes`, but a tenth of a disk that is not
    even as large as that.
    """
    disk_bytes = shutil.disk_usage(_existing(data_dir)).total
    floor = min_free_bytes if min_free_bytes < disk_bytes else disk_bytes // SHARE_OF_DISK
    return Floor(floor, min_free_bytes, disk_bytes)


def free_bytes(data_dir: Path) -> int:
    """Return what is free where `data_dir` is, or will be."""
    return shutil.disk_usage(_existing(data_dir)).free


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def size_text(size: int) -> str:
    """Write a size for people: 1 GiB or 20 GB where it is just that, as the config may have it, else 1.5 GiB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if unit <= size < 1000 * unit and size % unit == 0:
            return f"{size // unit} {name}"
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (MIB, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}" if size % unit == 0 else f"{size / unit:.1f} {name}"
    return f"{size} B"


@attrs.define
class Space:
    """Looks after the data dir's disk: compresses and deletes kept segments, stops reading where that does not help.

    `confirmed` returns the number up to which all segments are stored by every follower; `keep` is as in `tidy_one`.
    """

    journal: Journal
    floor: Floor
    keep: float | str
    confirmed: Callable[[], int]
    offload: Offload
    now_s: Callable[[], float]
    on_trouble: Callable[[str], None]  # what could not be deleted or compressed, and why
    _free_bytes: int = 0
    _went: bool = False  # as many segments were deleted as make enough room
    _more: bool = False  # to tidy
    _trouble: str = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Look once a second, and tidy twice a minute, until cancelled. Has begun when the first look was taken."""
        await self._look()
        task_status.started()
        tidy_at = trio.current_time() + TIDY_EVERY_S
        while True:
            await trio.sleep(0 if self._more else LOOK_EVERY_S)
            await self._look()
            if trio.current_time() >= tidy_at:  # one at a time: neither a stop nor a look waits for more than that
                await self._try(self._tidy)
                if not self._more:
                    tidy_at = trio.current_time() + TIDY_EVERY_S

    async def _look(self) -> None:
        await self._try(self._make_room)
        if self._free_bytes >= self._wanted_bytes():
            self.journal.release()
        elif not self._went:  # where enough went, the next look tells whether the file system gave it back
            self.journal.hold(self.floor.shortage(self._free_bytes))

    def _wanted_bytes(self) -> int:
        return self.floor.bytes + (min(MORE_BYTES, self.floor.bytes // 16) if self.journal.is_held else 0)

    async def _try(self, work: Callable[[], None]) -> None:
        self._went = self._more = False
        try:
            await self.offload(work)
        except OSError as error:  # a file that is not ours, a disk that can only be read: the journal judges for itself
            if str(error) != self._trouble:
                self._trouble = str(error)
                self.on_trouble(self._trouble)

    def _make_room(self) -> None:
        data_dir = self.journal.data_dir
        self._free_bytes = free_bytes(data_dir)
        missing = self._wanted_bytes() - self._free_bytes
        if missing > 0:
            self._went = let_go(data_dir, self.confirmed(), missing)
            self._free_bytes = free_bytes(data_dir)

    def _tidy(self) -> None:
        self._more = tidy_one(self.journal.data_dir, self.confirmed(), self.keep, self.now_s())
