"""Whether a venue may be asked anything now: every dial and every REST request passes its venue's gate.

An answer that says to stay away (`refusals`) closes the gate, of the whole venue or of one host, for as long as it
says. When that is over one asker goes first, and the others wait for what becomes of it: so a ban that goes on costs
one more question and not one of each stream. Meanwhile open connections go on undisturbed.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import attrs
import trio

from collector_trio.errors import ConnectionEnded, HttpFailed, Refusal
from collector_trio.net.budgets import Budget, Grant
from collector_trio.net.refusals import judge


@attrs.frozen
class Hold:
    """Why and for how long nothing is asked: of a venue, or of one `host` of it ("" is all of them).

    `refused`: how often in a row; times in nanoseconds since the epoch.
    """

    venue: str
    host: str
    status: int
    text: str
    told: bool
    refused: int
    since_ns: int
    until_ns: int

    @property
    def what(self) -> str:
        """Name what is not asked."""
        return f"{self.venue} {self.host}".strip()


@attrs.define
class _Closed:
    """A closed gate. `until` in trio time; `trying`: somebody has gone first."""

    hold: Hold
    until: float
    trying: bool = False


@attrs.define
class Gate:
    """The gate of one venue. `on_change` hears of a hold when it begins, when its status changes (the one before, the
    one now) and when it has ended (None is now); not of every refusal while it lasts.
    """

    venue: str
    _clock: Callable[[], int]  # nanoseconds since the epoch
    _random: random.Random
    _on_change: Callable[[Hold | None, Hold | None], None]
    _closed: dict[str, _Closed] = attrs.field(factory=dict)  # by host, "" for the whole venue
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Return what is closed now."""
        return tuple(closed.hold for closed in self._closed.values())

    @asynccontextmanager
    async def asking(self, host: str, *budgets: Budget, units: float = 1) -> AsyncIterator["Turn"]:
        """Wait until `host` may be asked and `units` fit into each of `budgets`; the turn is over with the block at the
        latest. Who is cancelled while waiting has taken nothing.
        """
        turn = await self._turn(host, budgets, units)
        try:
            yield turn
        finally:
            turn.over()

    async def _turn(self, host: str, budgets: Sequence[Budget], units: float) -> "Turn":
        while True:
            while (shut_until := self._shut_until(host)) is not None:
                with trio.move_on_at(shut_until):
                    await self._changed.wait()
            with ExitStack() as taken:
                grants = []
                for budget in budgets:
                    grants.append(await budget.begin(units))
                    taken.callback(grants[-1].give_back)
                if self._shut_until(host) is None:  # and did not close meanwhile
                    taken.pop_all()
                    break
        tries = tuple(name for name in ("", host) if name in self._closed)
        for name in tries:
            self._closed[name].trying = True
        return Turn(self, host, grants, tries)

    def _shut_until(self, host: str) -> float | None:
        """Return until when `host` is not asked (infinity: until something changes); None when it may be."""
        for closed in filter(None, map(self._closed.get, ("", host))):
            if trio.current_time() < closed.until:
                return closed.until
            if closed.trying:
                return float("inf")
        return None

    def _take(self, host: str, tries: Sequence[str], refusal: Refusal | None) -> None:
        """Take an answer of `host`: close what it wants closed, open what was tried."""
        closes = self._close(host, tries, refusal) if refusal is not None else None
        for name in tries:
            if name != closes:
                ended = self._closed.pop(name)
                self._on_change(ended.hold, None)
        self._wake()

    def _close(self, host: str, tries: Sequence[str], refusal: Refusal) -> str | None:
        now, now_ns = trio.current_time(), self._clock()
        same = (self._closed.get(name) for name in ("", host))
        # Only who tried says something new: what was asked before the gate closed was refused with the same breath.
        refused = max((one.hold.refused for one in same if one and one.hold.status == refusal.status), default=0)
        repeated = refused if tries else max(0, refused - 1)
        order = judge(refusal, repeated, now_ns // 1_000_000, self._random)
        if order is None:
            return None
        name, until = "" if order.whole_venue else host, now + order.wait_s
        before = self._closed.get(name)
        if before is not None and name not in tries:
            until = max(until, before.until)
        since_ns = now_ns if before is None else before.hold.since_ns
        until_ns = now_ns + round((until - now) * 1e9)
        text, told = order.text, order.told
        hold = Hold(self.venue, name, refusal.status, text, told, repeated + 1, since_ns, until_ns)
        self._closed[name] = _Closed(hold, until, before is not None and before.trying and name not in tries)
        if before is None or before.hold.status != refusal.status:
            self._on_change(None if before is None else before.hold, hold)
        return name

    def _give_up(self, tries: Sequence[str]) -> None:
        """Take that nothing was learned: another one may go first."""
        for name in tries:
            self._closed[name].trying = False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@attrs.define
class Turn:
    """Leave to ask a host one thing."""

    _gate: Gate
    _host: str
    _grants: Sequence[Grant]
    _tries: tuple[str, ...]  # what is closed, and opens if this goes well
    _is_over: bool = False

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Ask in the block: until a handshake is accepted, a request answered. What it raises decides what becomes of
        the gate, and comes out as it is.
        """
        try:
            yield
        except (ConnectionEnded, HttpFailed) as failed:
            if failed.refusal is not None:
                self._finish(failed.refusal)
            raise
        else:
            self._finish(None)
        finally:
            self.over()

    def over(self) -> None:
        """Say that nothing more will be asked."""
        if not self._is_over:
            self._is_over = True
            self._gate._give_up(self._tries)
        for grant in self._grants:
            grant.end()

    def give_back(self) -> None:
        """Say that nothing was asked."""
        for grant in self._grants:
            grant.give_back()
        self.over()

    def _finish(self, refusal: Refusal | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._gate._take(self._host, self._tries, refusal)


@attrs.define
class Gates:
    """The gates of a process, by venue."""

    _clock: Callable[[], int]
    _random: random.Random
    _on_change: Callable[[Hold | None, Hold | None], None] = lambda before, now: None
    _gates: dict[str, Gate] = attrs.field(factory=dict)

    def get(self, venue: str) -> Gate:
        """Return the gate of `venue`, made on first use."""
        if venue not in self._gates:
            self._gates[venue] = Gate(venue, self._clock, self._random, self._on_change)
        return self._gates[venue]

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Return what is closed now, of all venues."""
        return tuple(hold for gate in self._gates.values() for hold in gate.holds)


def host_of(url: str) -> str:
    """Return the host that a gate knows an address by, with its port if it names one."""
    return urlsplit(url).netloc.rpartition("@")[2]
