"""Functions of the C library that Python has no name for."""

import ctypes
import errno
import os
from typing import Any

_libc: Any = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function that returns 0 or says why not. Raises OSError: ENOSYS where the library has none of that name.

    Integers are C ints; what is larger comes as its ctypes type.
    """
    try:
        function = getattr(_libc, name)
    except AttributeError:
        number = errno.ENOSYS
    else:
        if not function(*arguments):
            return
        number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
