"""How much may be asked of an exchange: every dial, request and REST call takes from a budget first."""

from collections import deque

import attrs
import trio

from collector_trio.plan import Rate


class Budget:
    """Grants at most `rate.limit` units in any window of `rate.period_s` seconds, in the order they were asked for.

    A log of what was granted when, not a token bucket: a bucket lets twice its size through within one window. The
    window that counts is the venue's, and a dial that hangs may reach it seconds after it was granted. So a grant whose
    arrival is not known yet (`begin`) is in every window until it is over, and its period begins only then.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._over: deque[tuple[float, float]] = deque()  # (forgotten when, units)
        self._used = 0.0  # by those
        self._pending = 0.0  # by grants that are not over
        self._rests_until = 0.0
        self._turn = trio.Lock()  # first come, first served
        self._ended = trio.Event()

    async def take(self, n: float = 1) -> float:
        """Wait until `n` units fit into the rate, take them for what arrives at once, and return the seconds waited.

        A caller that is cancelled while waiting has taken nothing.
        """
        asked = trio.current_time()
        (await self.begin(n)).end()
        return trio.current_time() - asked

    async def begin(self, n: float = 1) -> "Grant":
        """Wait until `n` units fit into the rate, and take them until the grant is ended, and for a period after that.

        More than the rate has in a period waits until nothing is used, and is forgotten after as many periods as it is
        worth. Raises ValueError for what is no number of units.
        """
        if not 0 < n < float("inf"):
            raise ValueError(f"{n:g} units asked of a budget of {self.rate}")
        async with self._turn:
            while (wait_until := self._wait_until(n)) is not None:
                self._ended = trio.Event()
                with trio.move_on_at(wait_until):
                    await self._ended.wait()
            self._pending += n
        return Grant(self, n)

    def rest(self) -> None:
        """Grant nothing for a period: the venue says that all of it is used, by somebody else at the same address."""
        self._rests_until = trio.current_time() + self.rate.period_s

    def _wait_until(self, n: float) -> float | None:
        """Return when it is worth looking again whether `n` units fit; None: now they do."""
        now, used = trio.current_time(), self.used()
        if now < self._rests_until:
            return self._rests_until
        if not used or used + n <= self.rate.limit:
            return None
        return self._over[0][0] if self._over else float("inf")

    def used(self) -> float:
        """Return the units taken in the window that ends now."""
        now = trio.current_time()
        while self._over and self._over[0][0] <= now:
            self._used -= self._over.popleft()[1]
        if not self._over:
            self._used = 0.0  # no rounding errors survive a quiet period
        return self._used + self._pending

    def _end(self, n: float, *, asked: bool) -> None:
        """Begin the period of a grant that is over; of one that nobody asked anything with, give the units back."""
        self._pending = max(0.0, self._pending - n)
        if asked:
            periods = max(1.0, n / self.rate.limit)
            self._over.append((trio.current_time() + self.rate.period_s * periods, n))
            self._used += n
        self._ended.set()


@attrs.define
class Grant:
    """Units of a budget, for one thing asked of a venue. It is over once; later calls do nothing."""

    _budget: Budget
    _units: float
    _is_over: bool = False

    def end(self) -> None:
        """Say that what was asked has reached the venue, or never will."""
        self._finish(asked=True)

    def give_back(self) -> None:
        """Say that nothing was asked."""
        self._finish(asked=False)

    def _finish(self, *, asked: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._budget._end(self._units, asked=asked)


class Budgets:
    """The budgets of a process, by name: who names the same one shares it."""

    def __init__(self) -> None:
        self._budgets: dict[str, Budget] = {}

    def get(self, name: str, rate: Rate) -> Budget:
        """Return the budget called `name`, made on first use; a new rate, as after a reload, holds from now on."""
        budget = self._budgets.setdefault(name, Budget(rate))
        budget.rate = rate
        return budget
