"""Two folders change places in one step: who opens either path finds one of the two, whole."""

import ctypes
import errno
import os
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
# What kernels, file systems and C libraries say that cannot do it.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP)

_libc = ctypes.CDLL(None, use_errno=True)


class SwapUnsupported(OSError):
    """This filesystem cannot let two folders change places."""


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one filesystem change places. Raises SwapUnsupported where that cannot be, else OSError.

    Durable once the folders they are in are synced.
    """
    number = _renameat2(one, other)
    if number in UNSUPPORTED:
        raise SwapUnsupported(number, os.strerror(number), str(one), None, str(other))
    if number:
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _renameat2(one: Path, other: Path) -> int:
    """Return 0, or the error's number."""
    try:
        call = _libc.renameat2
    except AttributeError:  # a C library older than the system call
        return errno.ENOSYS
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return ctypes.get_errno()
    return 0
