"""The supervisor: for each stream a loop around a session, with a backoff that cannot storm.

A reconnect is not an event that somebody handles: it is the next turn of the loop in `keep_stream`. When `Session.run`
raises, its socket is already closed.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import NoReturn

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.errors import ConnectionEnded
from collector_trio.exchanges.protocol import Exchange
from collector_trio.journal.append import Journal
from collector_trio.net.budgets import Budget, Budgets
from collector_trio.net.connect import Connection
from collector_trio.net.gate import Gates, Hold, Turn, host_of
from collector_trio.net.http import HttpClient
from collector_trio.net.tap import Sink
from collector_trio.plan import Rate, StreamPlan
from collector_trio.streams.live import Live
from collector_trio.streams.session import Connect, Session, Want

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
HEALTHY_S = 60.0  # so long must a session have been live for the next delay to be a short one again
STREAM_DIALS = Rate(10, 60.0)  # whatever the jitter draws
CRASHES = Rate(5, 300.0)  # a stream that crashes more often than this is parked


def backoff(random_: random.Random) -> Iterator[float]:
    """Yield delays in seconds: uniform between 0 and a bound that doubles up to `LONGEST_DELAY_S` ("full jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""
    bound_s = FIRST_DELAY_S
    while True:
        yield random_.uniform(0.0, bound_s)
        bound_s = min(bound_s * 2, LONGEST_DELAY_S)


@attrs.define
class Stream:
    """What is known of one stream: its plan, the session it has now, and what became of those before."""

    plan: StreamPlan
    session: Session | None = None
    last: Session | None = None  # the one before
    heard_at: float | None = None  # when a session that is over last brought data
    ended: Counter[str] = attrs.field(factory=Counter)
    sessions: int = 0
    lived: int = 0  # sessions that were live
    frames_before: int = 0  # of sessions that are over
    bytes_before: int = 0
    parked: bool = False

    @property
    def frames(self) -> int:
        """Frames accepted so far."""
        return self.frames_before + (self.session.frames if self.session else 0)

    @property
    def bytes(self) -> int:
        """Bytes of frames accepted so far."""
        return self.bytes_before + (self.session.frame_bytes if self.session else 0)

    @property
    def is_live(self) -> bool:
        """Tell whether the present session is live."""
        return self.session is not None and self.session.live_at is not None


@attrs.frozen
class Surroundings:
    """What all streams share: the journal, what is known to be missing, the clock, randomness, the door to the network,
    and the venues' budgets and gates. `snapshots` by exchange and market: whom to ask for whole books where that is by
    REST.
    """

    journal: Journal
    clock: Callable[[], int]
    random: random.Random
    connect: Connect
    open_client: Callable[[str], AbstractAsyncContextManager[HttpClient]]  # of a REST base URL
    budgets: Budgets
    share: float  # of what a venue allows per IP address
    log: FilteringBoundLogger
    live: Live
    snapshots: Mapping[tuple[str, str], Want]
    observe_lag: Mapping[str, Callable[[int], None]] = attrs.field(factory=dict)  # by exchange
    unlisted: MutableMapping[tuple[str, str], Sequence[str]] = attrs.field(factory=dict)  # of the config, by market
    unanswered: MutableMapping[tuple[str, str], str] = attrs.field(factory=dict)  # by market: why it has no instruments
    session_ended: Mapping[str, Callable[[], None]] = attrs.field(factory=dict)  # by exchange: who wants to hear of it
    gates: Gates = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda self: Gates(self.clock, self.random, partial(_say_hold, self.log)), takes_self=True
        ),
    )


def _say_hold(log: FilteringBoundLogger, before: Hold | None, now: Hold | None) -> None:
    """Say that a venue is not asked any more, that the reason is another one, or that it answers again."""
    if now is not None:
        wait_s = round((now.until_ns - now.since_ns) / 1e9, 1)
        log.warning("nothing is asked of", venue=now.what, reason=now.text, wait_s=wait_s, told=now.told)
    elif before is not None:
        log.info("answers again", venue=before.what, refused=before.refused)


async def keep_stream(stream: Stream, exchange: Exchange, around: Surroundings) -> NoReturn:
    """Keep one stream connected until cancelled. Says so once when it goes down and once when it is live again."""
    plan = stream.plan
    log = around.log.bind(stream=plan.name)
    venue_dials = around.budgets.get(f"{plan.exchange} dials", plan.limits.dials)
    gate, host = around.gates.get(plan.exchange), host_of(plan.url)
    own_dials = Budget(STREAM_DIALS)
    crashes: deque[float] = deque(maxlen=int(CRASHES.limit))
    delays = backoff(around.random)
    down = False
    while True:
        crashed = False
        async with gate.asking(host, own_dials, venue_dials) as turn:
            session = _new_session(stream, exchange, around, log)
            try:
                await session.run(partial(_Dial, around.connect, turn))
            except ConnectionEnded as ended:
                level = log.warning if session.live_at is not None or not down else log.debug
                level("ended", session=session.number, reason=ended.reason, detail=ended.detail, frames=session.frames)
                stream.ended[ended.reason] += 1
                around.session_ended.get(plan.exchange, _nothing)()
            except Exception:  # a bug in one stream must not end the others; it is logged, counted, bounded
                log.exception("crashed", session=session.number)
                stream.ended["crashed"] += 1
                crashed = True
            finally:
                _account(stream, session)
        down = True
        if crashed:
            crashes.append(trio.current_time())
            if len(crashes) == crashes.maxlen and crashes[-1] - crashes[0] <= CRASHES.period_s:
                await _park(stream, log)
        if session.live_at is not None and trio.current_time() - session.live_at > HEALTHY_S:
            delays = backoff(around.random)
        await trio.sleep(next(delays))


def _nothing() -> None:
    """Nobody wants to hear of it."""


@attrs.define
class _Dial:
    """A connection whose turn at the venue is over as soon as it is open, or cannot be opened."""

    connect: Connect
    turn: Turn
    url: str
    sink: Sink
    _inner: AbstractAsyncContextManager[Connection] = attrs.field(init=False)

    async def __aenter__(self) -> Connection:
        self._inner = self.connect(self.url, self.sink)
        with self.turn.judged():
            return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, traceback)


def _new_session(stream: Stream, exchange: Exchange, around: Surroundings, log: FilteringBoundLogger) -> Session:
    number = around.journal.next_session()
    session = Session(
        number,
        stream.plan,
        exchange,
        around.journal,
        around.clock,
        log.bind(session=number),
        Budget(stream.plan.limits.messages),
        around.live,
        around.snapshots,
        around.observe_lag.get(exchange.NAME, lambda lag_ns: None),
    )
    stream.session = session
    stream.sessions += 1
    return session


def _account(stream: Stream, session: Session) -> None:
    """Add a session that is over to its stream's totals."""
    stream.frames_before += session.frames
    stream.bytes_before += session.frame_bytes
    stream.lived += session.live_at is not None
    if session.heard_at is not None:
        stream.heard_at = session.heard_at
    stream.session, stream.last = None, session


async def _park(stream: Stream, log: FilteringBoundLogger) -> NoReturn:
    stream.parked = True
    log.error("parked", crashes=CRASHES.limit, period_s=CRASHES.period_s)
    await trio.sleep_forever()
