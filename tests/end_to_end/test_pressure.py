"""A process that was stopped and a disk that refuses: healthy sessions live on, nothing piles up, and what the exchange
drops meanwhile is a gap that says why.
"""

import errno
import os
import signal
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from collector_trio.sim import Fault, Scenario, SimServer, serve
from collector_trio.streams.session import GRACE_S, SOCKET_SILENCE_S

from .crashing import running, write_config
from .recorder import NO_REST, PATIENCE_S, recording, rows, store_what_is_left

STOPPED_S = SOCKET_SILENCE_S + GRACE_S + 2.0  # longer than a wholly silent socket is borne
BUSY = Scenario(symbols=("BTC-USDT", "ETH-USDT"), quiet_symbols=(), trades_per_s=100.0)


async def test_a_process_that_is_stopped_and_continued_keeps_its_sessions_and_misses_nothing(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUSY, seed=3))
        config = write_config(tmp_path, server.endpoints_toml())
        connections = server.truth.connections
        async with running(config, tmp_path / "log") as process:
            with trio.fail_after(PATIENCE_S):
                while sum(connection.data > 100 for connection in connections) < 3:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(STOPPED_S)
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


@attrs.define
class Disk:
    """Stands before `os.write`; refuses what goes to the journal while it is `full`."""

    full: bool = False

    def write(self, fd: int, data: bytes, write=os.write) -> int:  # type: ignore[no-untyped-def]
        if self.full and "/journal/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)


async def test_while_the_disk_refuses_nothing_is_read_nobody_is_judged_and_what_is_dropped_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    monkeypatch.setattr("os.write", disk.write)
    async with recording(tmp_path, serve_with={"scenario": BUSY, "seed": 4}, segment="60s") as collector:
        await collector.until(lambda: len(collector.streams) == 3 and collector.all_live(), "all streams live")
        sessions = [stream.session for stream in collector.streams]
        await trio.sleep(1)

        disk.full = True
        await trio.sleep(0.2)
        before = collector.frames()
        await trio.sleep(STOPPED_S)
        assert collector.frames() == before  # what comes waits in the kernel and at the exchange, not in us
        assert [stream.session for stream in collector.streams] == sessions
        collector.server.inject(Fault("abort", "okx.business"))
        collector.server.inject(Fault("abort", "binance.spot"))
        await trio.sleep(0.5)
        disk.full = False

        await collector.until(lambda: collector.all_live() and collector.frames() > before + 500, "recording goes on")
        okx_public = next(n for n, stream in enumerate(collector.streams) if stream.plan.name.startswith("okx.public"))
        assert collector.streams[okx_public].session is sessions[okx_public]
        await collector.quiesce()
    reasons = {reason for (reason,) in rows(tmp_path, "sessions", "reason", "1", NO_REST)}
    assert "silent" not in reasons
    assert "unproven" not in reasons
    gaps = rows(tmp_path, "gaps", '"table", exchange, symbol, state, missing, cause', "recv_ns")
    trades = [gap for gap in gaps if gap[0] == "trades"]
    assert {gap[1] for gap in trades} == {"binance", "okx"}
    assert {gap[5] for gap in gaps} == {"backpressure"}
    for exchange, symbol in {gap[1:3] for gap in trades}:
        where = f"exchange = '{exchange}' AND symbol = '{symbol}'"
        ((hole,),) = rows(tmp_path, "trades", "max(id) - min(id) + 1 - count(*)", "1", where)
        assert hole == sum(gap[4] for gap in trades if gap[1:3] == (exchange, symbol) and gap[3] == "open") > 0
