"""Pressure: a process that stands still for longer than silence. Its sessions live on, and what is missing it says."""

import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from collector_trio.sim import Fault, Scenario, SimServer, serve
from collector_trio.streams.session import GRACE_S, SOCKET_SILENCE_S

from .crashing import COMMAND, assert_every_frame_is_accounted_for, assert_tables_are_the_truth, running, until
from .crashing import write_config as config_file
from .recorder import NO_REST, rows, store_what_is_left

STILL_S = SOCKET_SILENCE_S + 1.0  # longer than a wholly silent socket is borne
BUSY = Scenario(symbols=("BTC-USDT", "ETH-USDT"), quiet_symbols=(), trades_per_s=50.0)
INSTANTS = 5  # at which each book is compared


@asynccontextmanager
async def recorder(folder: Path, seed: int, command: Sequence[str] = COMMAND) -> AsyncIterator[trio.Process]:
    """Record into `folder`/data; the block makes the process stand still. Afterwards nothing may have come of that:
    no session is over, and everything published is there.
    """
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUSY, seed=seed))
        config, connections = config_file(folder, server.endpoints_toml()), server.truth.connections
        async with running(config, folder / "log", command) as process:
            await until(
                lambda: sum(connection.data > 100 for connection in connections) == 3, "three sockets have data"
            )
            before = sum(connection.data for connection in connections)
            yield process
            assert sum(connection.data for connection in connections) > before + 500, "the exchanges went on"
            await trio.sleep(3 * GRACE_S)  # all that waited is read, and every deadline was looked at
            assert len(connections) == 3
            assert all(connection.closed_ns is None for connection in connections)
            server.inject(Fault("stall", duration_s=3600))
            await trio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    data_dir = folder / "data"
    store_what_is_left(data_dir)
    assert {reason for (reason,) in rows(data_dir, "sessions", "reason", "1", NO_REST)} == {"stopped"}
    assert not list((data_dir / "gaps").glob("**/*.parquet"))
    report = assert_tables_are_the_truth(data_dir, server, seed, INSTANTS)
    assert report.trades > 0
    assert report.books > 0
    assert report.open_ids == 0
    assert_every_frame_is_accounted_for(data_dir)


@pytest.mark.parametrize("stopped_s", [STILL_S, pytest.param(60.0, marks=pytest.mark.soak)])
async def test_a_process_that_is_stopped_and_continued_keeps_its_sessions_and_misses_nothing(
    stopped_s: float, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    async with recorder(tmp_path, seed) as process:
        process.send_signal(signal.SIGSTOP)
        await trio.sleep(stopped_s)
        process.send_signal(signal.SIGCONT)


async def test_a_write_that_hangs_for_longer_than_silence_ends_no_session_and_misses_nothing(tmp_path: Path) -> None:
    seed, hangs = random.randrange(10**6), tmp_path / "disk.hangs"
    print(f"seed {seed}")
    async with recorder(tmp_path, seed, [sys.executable, "-m", "tests.end_to_end.hanging", str(hangs)]):
        hangs.touch()
        await until(hangs.with_suffix(".begun").exists, "a write hangs")
        await trio.sleep(STILL_S)
        hangs.unlink()


async def test_what_an_exchange_published_to_nobody_while_we_were_stopped_is_in_the_ledger_by_its_ids(
    tmp_path: Path,
) -> None:
    """OKX ends its connections meanwhile; Binance does not, and its session lives on."""
    data_dir = tmp_path / "data"
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUSY, seed=3))
        config = config_file(tmp_path, server.endpoints_toml())
        connections = server.truth.connections
        async with running(config, tmp_path / "log") as process:
            await until(lambda: sum(each.data > 30 for each in connections) == 3, "three sockets have data")
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(1.0)
            assert server.inject(Fault("drop", target="okx")) == 2
            await trio.sleep(STILL_S - 1.0)
            assert len(connections) == 3
            process.send_signal(signal.SIGCONT)
            await until(lambda: sum(each.data > 30 for each in connections) == 5, "OKX has data again")
            closed = [connection.exchange for connection in connections if connection.closed_ns is not None]
            assert (len(connections), closed) == (5, ["okx", "okx"])
            server.inject(Fault("stall", duration_s=3600))
            await trio.sleep(0.5)  # what is on its way is read
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    store_what_is_left(data_dir)
    assert_tables_are_the_truth(data_dir, server, seed=3)
    columns = "exchange, symbol, cause, first_missing, last_missing, missing"
    found = rows(data_dir, "gaps", columns, "exchange, symbol", "\"table\" = 'trades'")
    assert found == [
        ("okx", symbol, "disconnect", min(ids), max(ids), len(ids))
        for symbol in BUSY.symbols
        if (ids := unsent(server, symbol))
    ]
    assert len(found) == 2
    ends = rows(data_dir, "sessions", "exchange, reason", "exchange, reason", NO_REST)
    assert ends == [("binance", "stopped"), ("okx", "eof"), ("okx", "eof"), ("okx", "stopped"), ("okx", "stopped")]


def unsent(server: SimServer, symbol: str) -> set[int]:
    """Return the ids of OKX's trades that were published to nobody, among those that were sent."""
    key = ("okx", "spot", "trades-all", symbol)
    sent = {entry.fact.number for entry in server.truth.sent if entry.fact.key == key}
    published = {fact.number for fact in server.truth.facts[key]}
    return {number for number in published - sent if min(sent) < number < max(sent)}
