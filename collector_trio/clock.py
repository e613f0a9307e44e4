"""Receive times: wall-clock nanoseconds that never go back, because they advance with the monotonic clock."""

import time
from collections.abc import Callable

import attrs

# The wall clock may differ from ours by this much before the step is taken over (and written down).
STEP_NS = 100_000_000


@attrs.define
class Clock:
    """`now` is nanoseconds since the epoch; `check_step` takes over what NTP or an operator did to the wall clock,
    forwards only.
    """

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    _offset_ns: int = attrs.field(init=False)
    _behind_ns: int = 0  # the wall clock is so far behind ours, and that was reported

    def __attrs_post_init__(self) -> None:
        self._offset_ns = self.wall_ns() - self.monotonic_ns()

    def now(self) -> int:
        """Return the time: monotonic, anchored to the wall clock."""
        return self.monotonic_ns() + self._offset_ns

    def check_step(self) -> int:
        """Return by how many nanoseconds the wall clock was stepped since the last check, 0 for less than `STEP_NS`.

        Ahead of ours, our clock follows at once. Behind, it does not go back: the difference is only reported, once.
        """
        ahead_ns = self.wall_ns() - self.now()
        step_ns = ahead_ns - self._behind_ns
        if abs(step_ns) < STEP_NS:
            return 0
        if ahead_ns > 0:
            self._offset_ns += ahead_ns
        self._behind_ns = min(0, ahead_ns)
        return step_ns
