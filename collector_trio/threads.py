"""The one way to have a thread do blocking work: with a limiter of its own, and a name that owns the files it opens.

Look-ups that hang hold threads for as long as the system likes; in a limiter that is shared they would starve the
journal's `fdatasync`. And who counts what is open must know whose a file is that a thread has open just then.
"""

from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.frozen(eq=False)
class ThreadWork:
    """Blocking work that is going on: whose it is, and since when (trio time)."""

    owner: str
    since: float


_works: trio.lowlevel.RunVar[list[ThreadWork]] = trio.lowlevel.RunVar("thread_works")


def thread_works() -> list[ThreadWork]:
    """Return what threads of this run are doing."""
    try:
        return _works.get()
    except LookupError:
        works: list[ThreadWork] = []
        _works.set(works)
        return works


async def run_in_thread(owner: str, limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
    """Do `work` in a thread and return what it returns. Files that are opened meanwhile are the owner's."""
    works, mine = thread_works(), ThreadWork(owner, trio.current_time())
    works.append(mine)
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter)
    finally:
        works.remove(mine)
