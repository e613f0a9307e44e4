"""The parts of a recorder, without a network: streams whose sessions a test puts into any state."""

import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio

from collector_trio.config import parse_config
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import BookTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.child import FollowerChild
from collector_trio.followers.cursor import Cursor
from collector_trio.journal.append import Journal, open_journal
from collector_trio.journal.records import Letter
from collector_trio.journal.recover import Numbers, lock_data_dir
from collector_trio.journal.space import Floor
from collector_trio.net.budgets import Budget
from collector_trio.net.gate import Hold
from collector_trio.ops.alerts import Alerts
from collector_trio.ops.census import Owners
from collector_trio.ops.lag import LagHistogram
from collector_trio.ops.state import Following, Observer, Parts, Sealed
from collector_trio.streams.live import Live
from collector_trio.streams.session import Session
from collector_trio.streams.supervisor import Stream

from ..streams.conftest import plan_of, trio_clock_or_zero
from ..streams.wires import EPOCH_NS

LOG = structlog.get_logger()
CONFIG = """
[[record]]
exchange = "binance"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades", "book"]

[[record]]
exchange = "okx"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["book"]
"""


@attrs.define
class Recorder:
    """What an observer looks at, and the means to change it."""

    journal: Journal
    observer: Observer
    streams: list[Stream]
    continuity: Continuity
    child: FollowerChild
    cursor: Cursor = attrs.field(factory=Cursor)
    totals: dict[str, Any] = attrs.field(factory=dict)
    holds: list[Hold] = attrs.field(factory=list)
    unlisted: dict[tuple[str, str], Sequence[str]] = attrs.field(factory=dict)
    unanswered: dict[tuple[str, str], str] = attrs.field(factory=dict)

    async def tick(self) -> None:
        """Append a tick a second, as the recorder does."""
        while True:
            await trio.sleep(1)
            self.journal.note(Letter.TICK, {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the journal and its observer run beside the block."""
        async with trio.open_nursery() as nursery:
            for task in (self.observer.run, self.journal.run, self.tick):
                nursery.start_soon(task)
            yield
            nursery.cancel_scope.cancel()

    alerts: Alerts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.alerts = Alerts(self.observer.parts.config)

    def add_stream(self, exchange: str) -> Stream:
        self.streams.append(Stream(plan_of(exchange, ("BTC-USDT",), ("book",))))
        return self.streams[-1]

    def add_books(self, exchange: str, *symbols: str) -> list[BookTrack]:
        module = EXCHANGES[exchange]
        instruments = plan_of(exchange, symbols, ("book",)).instruments
        return [self.continuity.book_track(each, module.book_rules("spot")) for each in instruments]

    def open_session(self, stream: Stream, *, peer: str = "192.0.2.1:443", live_at: float | None = None) -> Session:
        exchange = EXCHANGES[stream.plan.exchange]
        session = Session(
            self.journal.next_session(), stream.plan, exchange, self.journal, trio_clock_or_zero,
            LOG, Budget(stream.plan.limits.messages), Live(self.continuity, LOG), {}, peer=peer, live_at=live_at,
        )  # fmt: skip
        session.live_ns = None if live_at is None else round(live_at * 1e9)
        stream.session = session
        stream.sessions += 1
        return session


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Have the kernel give out no descriptor any more: sockets that nobody owns have taken the last."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, hard))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                taken.enter_context(socket.socket())
        yield


async def _inline(work: Any) -> None:
    work()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    config = parse_config(
        f'[collector]\ndata_dir = "{tmp_path}"\n{CONFIG}', "test.toml", {n: e.OFFERS for n, e in EXCHANGES.items()}, {}
    )
    with (
        lock_data_dir(tmp_path),
        open_journal(
            tmp_path, Numbers(), clock=trio_clock_or_zero, segment_s=60, sync_every_s=1, offload=_inline
        ) as journal,
    ):
        streams: list[Stream] = []
        unlisted: dict[tuple[str, str], Sequence[str]] = {}
        unanswered: dict[tuple[str, str], str] = {}
        continuity = Continuity()
        child = FollowerChild("tables", tmp_path, "json", "info", pid=4242)
        parts = Parts(
            config=config,
            clock=trio_clock_or_zero,
            started_ns=EPOCH_NS,
            first_frame=1,
            journal=journal,
            floor=Floor(1000, 1000, 10**9),
            streams=streams,
            followers=(Following(child, lambda: made.cursor),),
            sealed=Sealed(),
            owners=Owners(),
            lags={"binance": LagHistogram()},
            continuity=continuity,
            follower_totals=lambda: made.totals,
            holds=lambda: made.holds,
            unlisted=unlisted,
            unanswered=unanswered,
            alerts=lambda: made.alerts.statuses(),
        )
        made = Recorder(journal, Observer(parts), streams, continuity, child, unlisted=unlisted, unanswered=unanswered)
        yield made
