"""Space reserved ahead of what is written (Linux `fallocate`): what is reserved can be written even if the disk is full
by then, and an append need not wait while the file system looks for blocks.

The file's size stays what was written, so who follows the file sees nothing of it.
"""

import ctypes
import errno
import os

from collector_trio.journal.libc import call

AHEAD_BYTES = 8 * 2**20
LEAST_BYTES = 2**16
SHARE_OF_FREE = 8  # of what is free at most one part in so many is taken: a reservation must not fill a small disk

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE; os.posix_fallocate would make the file larger
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def reserve(fd: int, offset: int) -> int | None:
    """Reserve space behind `offset`, and return where it ends; None where system or file system cannot.

    Blocks; meant for a thread. Raises OSError where there is no space, or no quota.
    """
    disk = os.fstatvfs(fd)
    length = min(AHEAD_BYTES, disk.f_bavail * disk.f_frsize // SHARE_OF_FREE)
    if length < LEAST_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while True:
        try:
            fallocate(fd, _KEEP_SIZE, offset, length)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return None
            raise
        return offset + length


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate as the system call of that name does. Raises OSError."""
    call("fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
