"""A process that was stopped for longer than silence is borne: its sessions live on, and nothing is missing."""

import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from collector_trio.sim import Scenario, SimServer, serve
from collector_trio.streams.session import GRACE_S, SOCKET_SILENCE_S

from .crashing import running, write_config
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
