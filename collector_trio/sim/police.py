"""What the simulated exchanges count of whoever asks, all from one address, and how they answer too much of it.

The numbers are the documented ones (protocols.md 1.2, 1.7, 2.7, 4.2, 4.7), without our margin. Counting is always done;
only a scenario with `enforce_limits` has anybody refused.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import attrs
import trio

from collector_trio.sim.http import Answer
from collector_trio.sim.truth import Asked, Truth

WARNINGS = 3  # so often a minute's excess is answered 429; who then goes on is banned
BAN_S = 120.0


class Limit(NamedTuple):
    """So many units in any `window_s` seconds."""

    units: int
    window_s: float


DIALS: Mapping[str, Limit] = {
    "binance.spot": Limit(300, 300.0),
    "binance.perp": Limit(300, 300.0),
    "okx": Limit(3, 1.0),
}
# Binance's is of the exchange's clock minute, so that a window anywhere else may hold more.
WEIGHTS: Mapping[str, Limit] = {
    "binance.spot": Limit(6000, 60.0),
    "binance.perp": Limit(2400, 60.0),
    "okx": Limit(20, 2.0),
}


def pool_of(endpoint: str) -> str:
    """Return whose budgets an endpoint's are: "binance.spot", "binance.perp" or "okx"."""
    return "okx" if endpoint.startswith("okx") else ".".join(endpoint.split(".")[:2])


@attrs.define(eq=False)
class Police:
    """Counts, and answers who does too much. `also` may refuse REST requests of an endpoint for a reason of its own."""

    truth: Truth
    now_ns: Callable[[], int]
    enforce: bool
    also: Callable[[str], Answer | None] = lambda endpoint: None
    _dialled: dict[str, deque[float]] = attrs.Factory(dict)
    _minutes: dict[str, int] = attrs.Factory(dict)
    _used: dict[str, int] = attrs.Factory(dict)
    _warned: dict[str, int] = attrs.Factory(dict)
    _banned_until: dict[str, float] = attrs.Factory(dict)

    def dial(self, endpoint: str) -> Answer | None:
        """Count a handshake; return how it is refused."""
        pool = pool_of(endpoint)
        self.truth.add_asked(Asked(self.now_ns(), "dial", pool, 1))
        limit, now = DIALS[pool], trio.current_time()
        recent = self._dialled.setdefault(pool, deque())
        recent.append(now)
        while recent[0] <= now - limit.window_s:
            recent.popleft()
        if not self.enforce or len(recent) <= limit.units:
            return None
        return _refused(429, "Too many connection attempts", recent[0] + limit.window_s - now)

    def ask(self, endpoint: str, weight: int) -> Answer | None:
        """Count a request of this weight; return how it is refused. Refused ones weigh as much."""
        pool = pool_of(endpoint)
        self.truth.add_asked(Asked(self.now_ns(), "rest", pool, weight))
        self.spend(pool, weight)
        return (self._excess(pool) if self.enforce else None) or self.also(endpoint)

    def _excess(self, pool: str) -> Answer | None:
        left_s = self._banned_until.get(pool, 0.0) - trio.current_time()
        if left_s > 0:
            until_ms = self.now_ns() // 1_000_000 + round(left_s * 1000)
            return _refused(418, f"Way too much request weight used; IP banned until {until_ms}.", left_s)
        limit = WEIGHTS[pool]
        if self._used[pool] <= limit.units:
            return None
        self._warned[pool] = self._warned.get(pool, 0) + 1
        if self._warned[pool] > WARNINGS:
            self._banned_until[pool] = trio.current_time() + BAN_S
        window_ns = round(limit.window_s * 1e9)
        return _refused(429, "Too many requests", (window_ns - self.now_ns() % window_ns) / 1e9)

    def spend(self, pool: str, weight: int) -> None:
        """Count weight, whoever used it."""
        window = self.now_ns() // round(WEIGHTS[pool].window_s * 1e9)
        if window != self._minutes.get(pool):
            self._minutes[pool], self._used[pool], self._warned[pool] = window, 0, 0
        self._used[pool] += weight

    def used(self, endpoint: str) -> int:
        """Return the weight used in the present window, as far as anything was asked in it."""
        return self._used.get(pool_of(endpoint), 0)


def _refused(status: int, msg: str, left_s: float) -> Answer:
    return Answer({"code": -1003, "msg": msg}, status, {"Retry-After": str(int(left_s) + 1)})
