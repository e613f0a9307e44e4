"""A process that was stopped for longer than silence is borne: its sessions live on, and what is missing it says."""

import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from collector_trio.sim import Fault, Scenario, SimServer, serve
from collector_trio.streams.session import GRACE_S, SOCKET_SILENCE_S

from .crashing import assert_tables_are_the_truth, running, until, write_config
from .recorder import NO_REST, PATIENCE_S, rows, store_what_is_left

STOPPED_S = SOCKET_SILENCE_S + GRACE_S + 2.0  # longer than a wholly silent socket is borne
BUSY = Scenario(symbols=("BTC-USDT", "ETH-USDT"), quiet_symbols=(), trades_per_s=100.0)


@pytest.mark.parametrize("stopped_s", [STOPPED_S, pytest.param(60.0, marks=pytest.mark.soak)])
async def test_a_process_that_is_stopped_and_continued_keeps_its_sessions_and_misses_nothing(
    stopped_s: float, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUSY, seed=3))
        config = write_config(tmp_path, server.endpoints_toml())
        connections = server.truth.connections
        async with running(config, tmp_path / "log") as process:
            with trio.fail_after(PATIENCE_S):
                while sum(connection.data > 100 for connection in connections) < 3:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(stopped_s)
            process.send_signal(signal.SIGCONT)
            await trio.sleep(SOCKET_SILENCE_S / 2)  # all that waited is read, and every deadline was looked at
            assert len(connections) == 3
            assert all(connection.closed_ns is None for connection in connections)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    store_what_is_left(tmp_path / "data")
    data_dir = tmp_path / "data"
    assert {reason for (reason,) in rows(data_dir, "sessions", "reason", "1", NO_REST)} == {"stopped"}
    assert not list((data_dir / "gaps").glob("**/*.parquet"))
    columns = "max(id) - min(id) + 1 - count(*)"
    holes = rows(data_dir, "trades", f"exchange, symbol, {columns}", "1", "true GROUP BY exchange, symbol")
    assert len(holes) == 4
    assert all(missing == 0 for *_, missing in holes)


async def test_what_an_exchange_published_to_nobody_while_we_were_stopped_is_in_the_ledger_by_its_ids(
    tmp_path: Path,
) -> None:
    """OKX ends its connections meanwhile; Binance does not, and its session lives on."""
    data_dir = tmp_path / "data"
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUSY, seed=3))
        config = write_config(tmp_path, server.endpoints_toml())
        connections = server.truth.connections
        async with running(config, tmp_path / "log") as process:
            await until(lambda: sum(each.data > 30 for each in connections) == 3, "three sockets have data")
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(1.0)
            assert server.inject(Fault("drop", target="okx")) == 2
            await trio.sleep(STOPPED_S - 1.0)
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
