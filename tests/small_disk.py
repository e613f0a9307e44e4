"""A small file system of a test's own: a tmpfs in a namespace of its own, and a file that takes what is free there."""

import errno
import os
import subprocess
from pathlib import Path

import attrs
import pytest

MIB = 2**20


def on_small_disk(folder: Path, size: str) -> list[str]:
    """Return how a command begins that finds a file system of this size at `folder`. Skips where that is forbidden."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size} none {folder}"
    allowed = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no file system of our own may be mounted here: {allowed.stderr.strip()}")
    return ["unshare", "-rm", "sh", "-ec", f'{mount}; exec "$@"', "sh"]


@attrs.frozen
class Ballast:
    """A file that takes what is free on its disk."""

    path: Path

    def leave(self, leaves: int) -> None:
        """Grow, or shrink, until `leaves` bytes are free."""
        size = self.free_bytes() - leaves
        if size < 0 and self.path.exists():
            os.truncate(self.path, max(0, self.path.stat().st_size + size))
        self.grow(leaves)

    def grow(self, leaves: int = 0) -> None:
        """Take what is free now, but for `leaves` bytes."""
        size = self.free_bytes() - leaves
        with self.path.open("ab", buffering=0) as file:
            while size > 0:
                try:
                    size -= file.write(bytes(min(size, MIB)))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return  # somebody else was faster

    def free_bytes(self) -> int:
        """Return what is free."""
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def remove(self) -> None:
        """Free all of it."""
        self.path.unlink()
