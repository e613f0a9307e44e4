"""The recorder's streams on simulated exchanges, over memory streams and virtual time: a minute takes a second or two.

What is real: sessions, supervisor, snapshots, WebSocket, HTTP, journal. What is not: sockets, threads, the wall clock;
the follower folds the journal when the run is over.
"""

import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pyarrow as pa
import structlog
import trio
from trio.testing import MockClock, memory_stream_pair

from collector_trio import app
from collector_trio.clock import Clock
from collector_trio.config import parse_config
from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold
from collector_trio.followers.tables import fold_segment, new_fold
from collector_trio.journal.append import open_journal
from collector_trio.journal.records import Letter
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.net.budgets import Budgets
from collector_trio.net.connect import connect
from collector_trio.net.dial import make_ssl_context
from collector_trio.net.http import open_client
from collector_trio.plan import market_groups
from collector_trio.sim import Scenario, SimServer
from collector_trio.streams.live import Live, recall
from collector_trio.streams.markets import keep_markets
from collector_trio.streams.supervisor import Stream, Surroundings

EPOCH_NS = 1_795_439_000_000_000_000  # 2026-11-23, some time
OFFERS = {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}
ENDPOINTS = """
[endpoints.binance.spot]
ws = "ws://127.0.0.1:1/stream"
rest = "http://127.0.0.1:1"
[endpoints.binance.perp]
ws_public = "ws://127.0.0.1:1/public/stream"
ws_market = "ws://127.0.0.1:1/market/stream"
rest = "http://127.0.0.1:1"
[endpoints.okx]
ws_public = "ws://127.0.0.1:1/ws/v5/public"
ws_business = "ws://127.0.0.1:1/ws/v5/business"
rest = "http://127.0.0.1:1"
"""
Market = tuple[str, str]
MARKETS: tuple[Market, ...] = (("binance", "spot"), ("binance", "perp"), ("okx", "spot"), ("okx", "perp"))


def now_ns() -> int:
    return EPOCH_NS + round(trio.current_time() * 1e9)


@attrs.define
class World:
    """What a run left: the exchanges' truth, the recorder's journal and streams."""

    data_dir: Path
    server: SimServer
    streams: list[Stream]
    live: Live

    def fold(self) -> tuple[Fold, dict[str, pa.Table]]:
        """Do what the follower does; return all rows by table."""
        fold, rows = new_fold(), dict[str, list[pa.Table]]()
        for segment in list_segments(journal_dir(self.data_dir)):
            fold_segment(fold, segment, segment.number)
            for (table, _, _), found in fold.take().items():
                rows.setdefault(table, []).append(found.unify_dictionaries())
        return fold, {table: pa.concat_tables(found).unify_dictionaries() for table, found in rows.items()}


def config_text(data_dir: Path, symbols: tuple[str, ...], markets: tuple[Market, ...]) -> str:
    listed = ", ".join(f'"{symbol}"' for symbol in symbols)
    records = "".join(
        f'[[record]]\nexchange = "{exchange}"\nmarket = "{market}"\nsymbols = [{listed}]\n'
        'channels = ["trades", "book"]\n'
        for exchange, market in markets
    )
    return f'[collector]\ndata_dir = "{data_dir}"\n[store]\nsegment = "5s"\nsnapshot_every = "4s"\n{records}{ENDPOINTS}'


@contextmanager
def no_threads() -> Any:
    """Threads do not stop an autojumping clock, and nothing here is worth one; nor does anything need to be synced."""

    async def run_sync(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return work(*arguments)

    with patch("trio.to_thread.run_sync", run_sync), patch("os.fsync"), patch("os.fdatasync"):
        yield


async def inline(work: Callable[[], None]) -> None:
    work()


@asynccontextmanager
async def recorder(
    data_dir: Path, server: SimServer, seed: int, symbols: tuple[str, ...], markets: tuple[Market, ...]
) -> AsyncIterator[World]:
    """Record beside the block; when it is left the journal is sealed."""
    config = parse_config(config_text(data_dir, symbols, markets), "test.toml", OFFERS, {})
    log = structlog.get_logger()
    clock = Clock(now_ns, now_ns)
    ssl_context = _ssl_context()
    streams: list[Stream] = []
    with lock_data_dir(data_dir):
        recovered = recover(data_dir)
        live = Live(recall(data_dir, EXCHANGES, log), log)
        async with trio.open_nursery() as peers:

            async def dial(host: str, port: int) -> trio.abc.Stream:
                ours, theirs = memory_stream_pair()
                peers.start_soon(server.serve_connection, theirs)
                await trio.lowlevel.checkpoint()
                return ours

            with open_journal(
                data_dir, recovered.numbers, clock=clock.now, segment_s=config.store.segment_s, sync_every_s=1.0,
                offload=inline, on_note=live.on_note, state=live.continuity.dump,
            ) as journal:  # fmt: skip
                app._note_start(journal, recovered, config)
                snapshots = app._snapshots(config)
                around = Surroundings(
                    journal=journal,
                    clock=clock.now,
                    random=random.Random(seed),
                    connect=lambda url, sink: connect(
                        url, sink, clock=clock.now, ssl_context=ssl_context, proxy=None, connector=dial
                    ),
                    open_client=lambda url: open_client(url, ssl_context=ssl_context, proxy=None, connector=dial),
                    budgets=Budgets(),
                    share=1.0,
                    log=log,
                    live=live,
                    snapshots=snapshots,
                )
                async with trio.open_nursery() as recording:
                    recording.start_soon(journal.run)
                    recording.start_soon(app._tick, journal, clock, log)
                    for wanted in snapshots.values():
                        recording.start_soon(wanted.keep, around)
                    for exchange, group in market_groups(config, EXCHANGES):
                        recording.start_soon(keep_markets, config, exchange, group, around, streams)
                    yield World(data_dir, server, streams, live)
                    recording.cancel_scope.cancel()
                journal.note(Letter.PROCESS, {"event": "stop", "pid": 1})
            peers.cancel_scope.cancel()


_contexts: list[Any] = []


def _ssl_context() -> Any:
    if not _contexts:  # takes a while, and is never used
        _contexts.append(make_ssl_context())
    return _contexts[0]


def simulate(
    data_dir: Path,
    scenario: Scenario,
    seed: int,
    seconds: float,
    *,
    symbols: tuple[str, ...] = ("BTC-USDT",),
    markets: tuple[Market, ...] = MARKETS,
) -> World:
    """Record `scenario` for so many simulated seconds."""

    async def run() -> World:
        server = SimServer(scenario, seed=seed, now_ns=now_ns)
        async with trio.open_nursery() as exchanges:
            exchanges.start_soon(server.run)
            async with recorder(data_dir, server, seed, symbols, markets) as world:
                await trio.sleep(seconds)
            exchanges.cancel_scope.cancel()
        return world

    with no_threads():
        return trio.run(run, clock=MockClock(autojump_threshold=0))


def simulate_kills(
    data_dir: Path, scenario: Scenario, seed: int, lives_s: Sequence[float], down_s: float, **options: Any
) -> World:
    """Record for so many seconds at a time; each life but the last ends as kill -9 would end it, and the next begins
    `down_s` later, with what the journal held at that instant.
    """
    symbols, markets = options.get("symbols", ("BTC-USDT",)), options.get("markets", MARKETS)

    async def run() -> World:
        server = SimServer(scenario, seed=seed, now_ns=now_ns)
        async with trio.open_nursery() as exchanges:
            exchanges.start_soon(server.run)
            for life, seconds in enumerate(lives_s):
                here = data_dir / str(life)
                async with recorder(here, server, seed + life, symbols, markets) as world:
                    await trio.sleep(seconds)
                    if life + 1 < len(lives_s):
                        shutil.copytree(here, data_dir / str(life + 1), symlinks=True)
                if life + 1 < len(lives_s):
                    await trio.sleep(down_s)
            exchanges.cancel_scope.cancel()
        return world

    with no_threads():
        return trio.run(run, clock=MockClock(autojump_threshold=0))
