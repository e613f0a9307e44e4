"""The recorder behind the socket: a batch that was cut out of a read is appended, decoded, and told to continuity."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from follower import BATCH
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

BTC = Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True)


class _Snapshots:
    def want(self, instrument: Instrument, track: BookTrack) -> None:
        """Give the book that the changes so far are behind, at once: it is synced from here on."""
        assert track.chain.tip is not None
        track.take_snapshot(track.chain.tip)
        track.chain.apply.clear()


async def _inline(work: Callable[[], None]) -> None:
    work()


async def accept_s(frames: Sequence[bytes]) -> float:
    """Return the CPU seconds in which a session accepts `frames`, `BATCH` to a read."""
    binance = EXCHANGES["binance"]
    subscriptions = tuple(binance.subscription(BTC, channel) for channel in ("trades", "book"))
    limits = binance.limits("spot")
    plan = StreamPlan("bench/1", "binance", ("spot",), "wss://bench/stream", subscriptions, (BTC,), limits)
    batches = [list(frames[n : n + BATCH]) for n in range(0, len(frames), BATCH)]
    with tempfile.TemporaryDirectory() as folder, lock_data_dir(Path(folder)):
        numbers, clock = recover(Path(folder)).numbers, time.time_ns
        with open_journal(
            Path(folder), numbers, clock=clock, segment_s=3600, sync_every_s=1, offload=_inline
        ) as journal:
            session = Session(
                1, plan, binance, journal, clock, structlog.get_logger(), Budget(limits.messages),
                Live(Continuity(), structlog.get_logger()), {("binance", "spot"): _Snapshots()},
            )  # fmt: skip
            start = time.process_time()
            for batch in batches:
                assert session.on_batch(batch, NS)
            return time.process_time() - start
