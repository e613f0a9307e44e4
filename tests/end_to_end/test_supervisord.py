"""The shipped supervisord program under a real supervisord: what is killed comes back, what is wrong stays down, and a
restart costs what was published meanwhile, no more and no less.
"""

import configparser
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL
from typing import Any
from xmlrpc.client import Fault as XmlRpcFault
from xmlrpc.client import ServerProxy

import attrs
import pyarrow.dataset as ds
import pytest
import trio

from collector_trio.followers.cursor import lock_cursor
from collector_trio.sim import Scenario, SimServer, serve
from tests.truth.ledger import TRADES, Report, by_instrument, check, last_states, native

from .crashing import (
    ROOT,
    assert_every_frame_is_accounted_for,
    assert_nothing_is_doubled,
    tables_in,
    write_config,
)
from .recorder import PATIENCE_S, store_what_is_left

supervisor_xmlrpc = pytest.importorskip("supervisor.xmlrpc")

SHIPPED = ROOT / "deploy" / "supervisord" / "collector_trio.conf"
SECTION = "program:collector_trio"
LOAD = Scenario(symbols=("BTC-USDT", "ETH-USDT"), quiet_symbols=(), trades_per_s=60.0, book_changes_per_s=10.0)
SOCKETS = 5

AROUND = """
[unix_http_server]
file = {folder}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
identifier = collector_trio_test
"""


@attrs.frozen
class Supervisord:
    """A supervisord at work; `call` asks it as supervisorctl would."""

    folder: Path

    def _call(self, name: str, *arguments: object) -> Any:
        transport = supervisor_xmlrpc.SupervisorTransport(None, None, f"unix://{self.folder}/s.sock")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, name)(*arguments)

    async def call(self, name: str, *arguments: object) -> Any:
        return await trio.to_thread.run_sync(partial(self._call, name, *arguments))

    async def state(self, program: str = "collector_trio") -> dict[str, Any]:
        found: dict[str, Any] = await self.call("getProcessInfo", program)
        return found

    async def pid(self) -> int:
        return int((await self.state())["pid"])

    @property
    def log(self) -> str:
        return (self.folder / "collector_trio.log").read_text()


@asynccontextmanager
async def supervising(folder: Path, config: Path, more: str = "") -> AsyncIterator[Supervisord]:
    """Run supervisord beside the block, with the shipped program: only user, command and folders are the test's."""
    shipped = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    assert shipped.read(SHIPPED)
    shipped.remove_option(SECTION, "user")
    own = {
        "command": f"{sys.executable} -m collector_trio run --config {config}",
        "directory": str(ROOT),
        "stdout_logfile": f"{folder}/collector_trio.log",
    }
    shipped.read_dict({SECTION: own})
    path = folder / "supervisord.conf"
    with path.open("w") as file:
        file.write(AROUND.format(folder=folder))
        shipped.write(file)
        file.write(more)
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(path)]
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=DEVNULL, stderr=DEVNULL)
    running = Supervisord(folder)
    try:
        await until_async(partial(_answers, running), "supervisord answers")
        yield running
    finally:
        with trio.CancelScope(shield=True):
            process.send_signal(signal.SIGTERM)  # stops its programs first
            with trio.move_on_after(30):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _answers(running: Supervisord) -> bool:
    try:
        return await running.call("getState") is not None
    except (OSError, XmlRpcFault):
        return False


async def until_async(condition: Any, what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await trio.sleep(0.05)
        return
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


async def all_have_data(server: SimServer, since: int) -> None:
    """Wait until all sockets opened after the first `since` have brought data."""

    async def are_recorded() -> bool:
        return sum(c.closed_ns is None and c.data > 50 for c in server.truth.connections[since:]) == SOCKETS

    await until_async(are_recorded, f"{SOCKETS} sockets have data")


async def ended(data_dir: Path) -> None:
    """Wait until the last follower is gone, and do what it left."""

    async def is_free() -> bool:
        with lock_cursor(data_dir) as held:
            return held

    await until_async(is_free, "the last follower has ended")
    store_what_is_left(data_dir)


@attrs.frozen
class World:
    """What `check` asks for: the truth."""

    server: SimServer


def stored(data_dir: Path) -> dict[str, Any]:
    rows = {table: ds.dataset(data_dir / table, partitioning=None).to_table() for table in tables_in(data_dir)}
    order = [("recv_ns", "ascending"), ("frame", "ascending")]
    return {table: found.sort_by(order) for table, found in rows.items()}


def assert_nothing_is_lost(data_dir: Path, server: SimServer) -> Report:
    """Each published trade is a row or in the ledger, books are the truth's, frames are accounted for."""
    assert_nothing_is_doubled(data_dir)
    assert_every_frame_is_accounted_for(data_dir)
    report = check(World(server), stored(data_dir), 1, 40)  # type: ignore[arg-type]  # it asks for the truth alone
    assert report.trades > 0
    assert report.books > 0
    return report


async def test_a_recorder_that_is_killed_is_back_recovers_and_records(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, LOAD, seed=1))
        config = write_config(tmp_path, server.endpoints_toml(), markets=("spot", "perp"), segment="1s")
        async with supervising(tmp_path, config) as supervisord:
            await all_have_data(server, 0)
            first, opened = await supervisord.pid(), len(server.truth.connections)
            os.kill(first, signal.SIGKILL)
            await all_have_data(server, opened)
            state = await supervisord.state()
            assert state["statename"] == "RUNNING"
            assert state["pid"] != first
            await supervisord.call("stopProcess", "collector_trio")
            state = await supervisord.state()
            assert (state["statename"], state["exitstatus"]) == ("STOPPED", 0), supervisord.log[-2000:]
            await ended(data_dir)
        nursery.cancel_scope.cancel()
    report = assert_nothing_is_lost(data_dir, server)
    assert report.open_ids > 0  # what was published meanwhile is in the ledger
    ends = [row["reason"] for row in stored(data_dir)["sessions"].to_pylist() if not row["stream"].endswith(".rest")]
    assert ends.count("process died") == SOCKETS


async def test_a_wrong_config_stays_down_while_what_fails_otherwise_is_started_again(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[[record]]\nexchange = "binanse"\nmarket = "spot"\nsymbols = ["BTC-USDT"]\n')
    shipped = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    assert shipped.read(SHIPPED)
    keys = ("autostart", "autorestart", "exitcodes", "startsecs")
    same = "".join(f"{key} = {shipped[SECTION][key]}\n" for key in keys)
    starts = tmp_path / "starts"
    more = f'[program:other]\ncommand = sh -c "echo started >>{starts}; exit 1"\n{same}'
    async with supervising(tmp_path, config, more) as supervisord:

        async def both() -> bool:
            often = starts.exists() and len(starts.read_text().splitlines()) >= 3
            return often and (await supervisord.state())["statename"] == "EXITED"

        await until_async(both, "the other one was started three times, ours has ended")
        before = (await supervisord.state())["start"]
        seen = len(starts.read_text().splitlines())

        async def more_often() -> bool:
            return len(starts.read_text().splitlines()) >= seen + 3

        await until_async(more_often, "the other one was started three times more")
        state = await supervisord.state()
        assert (state["statename"], state["exitstatus"], state["start"]) == ("EXITED", 2, before)
    assert supervisord.log.count("binanse") == 1
    assert 'did you mean "binance"' in supervisord.log


async def test_a_restart_under_load_loses_exactly_what_was_published_while_nobody_listened(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, LOAD, seed=2))
        config = write_config(tmp_path, server.endpoints_toml(), markets=("spot", "perp"), segment="1s")
        async with supervising(tmp_path, config) as supervisord:
            await all_have_data(server, 0)
            opened = len(server.truth.connections)
            await supervisord.call("stopProcess", "collector_trio")
            assert (await supervisord.state())["exitstatus"] == 0, supervisord.log[-2000:]
            assert all(c.closed_ns is not None for c in server.truth.connections)
            await supervisord.call("startProcess", "collector_trio")
            await all_have_data(server, opened)
            await supervisord.call("stopProcess", "collector_trio")
            await ended(data_dir)
        nursery.cancel_scope.cancel()
    assert_nothing_is_lost(data_dir, server)
    rows = stored(data_dir)
    gaps, trades = by_instrument(rows["gaps"]), by_instrument(rows["trades"])
    assert len(trades) == 8
    old = {c.conn for c in server.truth.connections[:opened]}
    closed_us = max(c.closed_ns or 0 for c in server.truth.connections[:opened]) // 1000
    opened_us = min(c.opened_ns for c in server.truth.connections[opened:]) // 1000
    for instrument, found in trades.items():
        exchange, market, _ = instrument
        key = (exchange, market, TRADES[exchange], native(*instrument))
        facts = server.truth.facts[key]
        sent = [each for each in server.truth.sent if each.fact.key == key]
        first_new = min(each.fact.number for each in sent if each.conn not in old)
        last_old = max(row["id"] for row in found if row["id"] < first_new)
        (hole,) = [hole for hole in last_states(gaps[instrument], "trades") if hole["state"] == "open"]
        assert (hole["first_missing"], hole["last_missing"]) == (last_old + 1, first_new - 1)
        assert hole["cause"] == "process down"
        # Among them all that was published while no socket was open; the others were on their way when it was stopped.
        lost = [fact for fact in facts if last_old < fact.number < first_new]
        assert {fact.number for fact in facts if closed_us < fact.ts_us < opened_us} <= {f.number for f in lost}
        neighbours = [next(fact.ts_us for fact in facts if fact.number == n) for n in (last_old, first_new)]
        assert (hole["from_ts"], hole["to_ts"]) == tuple(ts // 1000 * 1000 for ts in neighbours)
    for instrument, found in gaps.items():
        for hole in last_states(found, "book"):
            assert hole["cause"] == "process down", (instrument, hole)
