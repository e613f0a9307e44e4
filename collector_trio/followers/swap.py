"""Two folders change places in one step: who opens either path finds one of the two, whole."""

import errno
import os
from pathlib import Path

from collector_trio.journal.libc import call

AT_FDCWD = -100
RENAME_EXCHANGE = 2
# What kernels, file systems and C libraries say that cannot do it.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP)


class SwapUnsupported(OSError):
    """This filesystem cannot let two folders change places."""


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one filesystem change places. Raises SwapUnsupported where that cannot be, else OSError.

    Durable once the folders they are in are synced.
    """
    try:
        call("renameat2", AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    except OSError as error:
        kind = SwapUnsupported if error.errno in UNSUPPORTED else OSError
        raise kind(error.errno, error.strerror, str(one), None, str(other)) from None
