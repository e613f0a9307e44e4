"""Lets virtual or real time pass: one task does everything that is due, so that a seed decides in which order."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count

import attrs
import trio


@attrs.define(eq=False)
class Later:
    """Does things at their time, those of one time in the order in which they were asked for."""

    _due: list[tuple[float, int, Callable[[], None]]] = attrs.Factory(list)
    _number: Iterator[int] = attrs.Factory(count)
    _news: trio.Event = attrs.Factory(trio.Event)

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Call `do` at this time of Trio's clock."""
        if not self._due or time < self._due[0][0]:
            self._news.set()
        heappush(self._due, (time, next(self._number), do))

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Call `do` after so many seconds."""
        self.at(trio.current_time() + delay_s, do)

    async def run(self) -> None:
        """Call what is due, until cancelled."""
        while True:
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._news.wait()
            self._news = trio.Event()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, _, do = heappop(self._due)
                do()
