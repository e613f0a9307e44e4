"""Run as a process: the command line on a disk that hangs: a write to the journal takes until there is no such file.

`python -m tests.end_to_end.hanging FILE run --config …`: a write that begins while FILE is there ends when it is gone.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from collector_trio.commands import main

LOOK_EVERY_S = 0.05
begun = ".begun"  # in a file of this name beside FILE is said that a write hangs
write = os.writev


def writev(fd: int, parts: Sequence[bytes]) -> int:
    """Write, once the disk lets us. Blocks the whole process, as a disk does."""
    while hangs.exists():
        hangs.with_suffix(begun).touch()
        time.sleep(LOOK_EVERY_S)
    return write(fd, parts)


if __name__ == "__main__":
    hangs = Path(sys.argv[1])
    os.writev = writev  # type: ignore[assignment]  # our own
    main(sys.argv[2:])
