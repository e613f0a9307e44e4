"""How much may be asked of an exchange: every dial, request and REST call takes from a budget first."""

from collections import deque

import trio

from collector_trio.plan import Rate


class Budget:
    """Grants at most `rate.limit` units in any window of `rate.period_s` seconds, in the order they were asked for.

    A log of what was granted when, not a token bucket: a bucket lets twice its size through within one window.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._granted: deque[tuple[float, float]] = deque()  # (when, units); at most as many as fit into one window
        self._used = 0.0
        self._turn = trio.Lock()  # first come, first served

    async def take(self, n: float = 1) -> float:
        """Wait until `n` units fit into the rate, take them, and return the seconds waited.

        Raises ValueError when they never will. A caller that is cancelled while waiting has taken nothing.
        """
        if not 0 < n <= self.rate.limit:
            raise ValueError(f"{n:g} units asked of a budget of {self.rate}")
        asked = trio.current_time()
        async with self._turn:
            while self.used() + n > self.rate.limit and self._granted:  # noqa: ASYNC110  for time
                await trio.sleep_until(self._granted[0][0] + self.rate.period_s)
            now = trio.current_time()
            self._granted.append((now, n))
            self._used += n
        return now - asked

    def used(self) -> float:
        """Return the units taken in the window that ends now."""
        now = trio.current_time()
        while self._granted and self._granted[0][0] + self.rate.period_s <= now:
            self._used -= self._granted.popleft()[1]
        if not self._granted:
            self._used = 0.0  # no rounding errors survive a quiet period
        return self._used


class Budgets:
    """The budgets of a process, by name: who names the same one shares it."""

    def __init__(self) -> None:
        self._budgets: dict[str, Budget] = {}

    def get(self, name: str, rate: Rate) -> Budget:
        """Return the budget called `name`, made on first use; a new rate, as after a reload, holds from now on."""
        budget = self._budgets.setdefault(name, Budget(rate))
        budget.rate = rate
        return budget
