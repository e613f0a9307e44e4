"""Two lags: of what exchanges send, from their clock to ours; and of the event loop, from when a task was due to when
it ran.
"""

from bisect import bisect_left
from collections import deque
from typing import NoReturn

import attrs
import trio

# Upper bounds in seconds. Clocks differ: what seems to come from the future is in the first, as if it took no time.
BOUNDS_S = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)

PROBE_EVERY_S = 0.5
REMEMBERED = 20  # probes; the lag shown is the worst of the last ten seconds


@attrs.define
class LagHistogram:
    """How long messages took from the exchange to us. One observation costs 0.3 µs; one per batch is enough."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_ns: int = 0

    def observe_ns(self, lag_ns: int) -> None:
        """Count one message that was received `lag_ns` nanoseconds after its exchange time."""
        self.counts[bisect_left(_BOUNDS_NS, lag_ns)] += 1
        if lag_ns > 0:
            self.sum_ns += lag_ns

    def cumulative(self) -> list[tuple[str, float]]:
        """Return Prometheus' buckets: (upper bound in seconds as text, how many were no longer)."""
        found, total = [], 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


@attrs.define
class LoopLag:
    """How late the event loop is, measured by a task that asks to be woken and looks at the clock."""

    _late_s: deque[float] = attrs.field(factory=lambda: deque([0.0], maxlen=REMEMBERED))

    @property
    def worst_s(self) -> float:
        """The worst of the last ten seconds."""
        return max(self._late_s)

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + PROBE_EVERY_S
            await trio.sleep_until(due)
            self._late_s.append(max(0.0, trio.current_time() - due))
