"""The recorder behind the socket: a batch that was cut out of a read is appended, decoded, and told to continuity."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio
from made_up import NS

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import BookTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.instruments import Instrument
from collector_trio.journal.append import open_journal
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.net.budgets import Budget
from collector_trio.plan import StreamPlan
from collector_trio.streams.live import Live
from collector_trio.streams.session import Session


class _Snapshots:
    def want(self, instrument: Instrument, track: BookTrack) -> None:
        """Give the book that the changes so far are behind, at once: it is synced from here on."""
        assert track.chain.tip is not None
        track.take_snapshot(track.chain.tip)
        track.chain.apply.clear()


async def _inline(work: Callable[[], None]) -> None:
    work()


@contextmanager
def recording(
    exchange: str = "binance", market: str = "spot", natives: Sequence[str] = ("BTCUSDT",)
) -> Iterator[Session]:
    """Give a session that appends to a journal and knows the named instruments; books are synced when asked for."""
    spoken = EXCHANGES[exchange]
    instruments = tuple(Instrument(exchange, market, name, name, name, "", "TRADING", True) for name in natives)
    subscriptions = tuple(spoken.subscription(one, channel) for one in instruments for channel in ("trades", "book"))
    limits = spoken.limits(market)
    plan = StreamPlan("bench/1", exchange, (market,), "wss://bench/stream", subscriptions, instruments, limits)
    log, clock = structlog.get_logger(), time.time_ns
    with tempfile.TemporaryDirectory() as folder, lock_data_dir(Path(folder)):
        numbers = recover(Path(folder)).numbers
        with open_journal(
            Path(folder), numbers, clock=clock, segment_s=3600, sync_every_s=1, offload=_inline
        ) as journal:
            budget, live = Budget(limits.messages), Live(Continuity(), log)
            wanted = {(exchange, market): _Snapshots()}
            yield Session(1, plan, spoken, journal, clock, log, budget, live, wanted)


def accept_us(session: Session, frames: Sequence[bytes], batch: int) -> float:
    """Return the CPU microseconds per message in which `session` accepts `frames`, `batch` to a read."""
    batches = [list(frames[n : n + batch]) for n in range(0, len(frames), batch)]

    async def accept() -> float:
        start = time.process_time()
        for read in batches:
            assert session.on_batch(read, NS)
        return time.process_time() - start

    return trio.run(accept) / len(frames) * 1e6
