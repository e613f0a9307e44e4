"""Whatever ends a connection: its socket is closed, a new session follows, and the table `sessions` tells the story."""

import os
from pathlib import Path

import pytest
import trio

from collector_trio.ops.census import NOBODY, UNCLAIMED
from collector_trio.sim import Fault, Scenario

from .recorder import NO_REST, recording, rows

KINDS = {
    "close": ("closed", "1001"),
    "drop": ("eof", ""),
    "abort": ("reset", ""),
    "stall": ("silent", "no data"),
}


def open_sockets() -> set[str]:
    """Name every socket this process has open to or from loopback, by inode."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_a_disconnect_of_any_kind_is_followed_by_a_new_session_and_told(kind: str, tmp_path: Path) -> None:
    reason, detail = KINDS[kind]
    before = open_sockets()
    async with recording(
        tmp_path, serve_with={"scenario": Scenario()}, symbols=("BTC-USDT",), exchanges=("binance",), segment="60s"
    ) as running:
        await running.until(running.all_live, "live")
        stream = running.streams[0]
        first = stream.session
        running.server.inject(Fault(kind, duration_s=3600))
        await running.until(lambda: stream.session is not first and stream.is_live, "live again")
    assert open_sockets() == before
    story = rows(
        tmp_path,
        "sessions",
        "session, stream, reason, detail, live_at < closed_at, frames > 0, peer",
        "session",
        NO_REST,
    )
    assert [row[2] for row in story] == [reason, "stopped"]
    assert story[0][0] == 1 < story[1][0]  # requests for whole books have numbers, too
    assert detail in story[0][3]
    assert all(row[1] == "binance.spot/1" and row[4] and row[5] for row in story)
    assert all(row[6] == f"127.0.0.1:{running.server.port}" for row in story)


async def test_every_descriptor_of_a_running_collector_has_an_owner(tmp_path: Path) -> None:
    async with recording(
        tmp_path, serve_with={"scenario": Scenario()}, symbols=("BTC-USDT",), markets=("spot", "perp"), segment="1s"
    ) as running:
        await running.until(lambda: len(running.streams) == 5 and running.all_live(), "live")
        owners = running.owners
        for _ in range(20):  # through several segments, with threads at work
            assert owners.find_leaks() == []
            found = owners.census()
            assert NOBODY not in {each.owner for each in found}
            await trio.sleep(0.1)
        names = {stream.plan.name for stream in running.streams}
        assert {each.owner for each in found} >= names | {"journal", "lock", "follower tables", "trio", "stdio"}
        assert all(sum(each.owner == name for each in found) == 1 for name in names)
    assert {each.owner for each in owners.census()} <= {"trio", "stdio", "inherited", "simulator", UNCLAIMED}
    assert not owners.leaked


async def test_a_refused_handshake_is_retried_and_told(tmp_path: Path) -> None:
    scenario = Scenario(faults=(Fault("refuse", at_s=0.0, count=2, status=503),))
    async with recording(
        tmp_path, serve_with={"scenario": scenario}, symbols=("BTC-USDT",), exchanges=("binance",)
    ) as running:
        await running.until(running.all_live, "live in the end")
    story = rows(tmp_path, "sessions", "reason, detail, live_at IS NULL, frames", "session", NO_REST)
    assert [row[0] for row in story] == ["refused", "refused", "stopped"]
    assert all("503" in row[1] and row[2] and row[3] == 0 for row in story[:2])


async def test_many_disconnects_leave_no_socket_behind(tmp_path: Path) -> None:
    kinds = ("close", "drop", "abort")
    async with recording(
        tmp_path, serve_with={"scenario": Scenario()}, symbols=("BTC-USDT",), exchanges=("okx",), segment="60s"
    ) as running:
        await running.until(running.all_live, "live")
        steady = len(open_sockets())
        for turn in range(3):
            sessions = [stream.session for stream in running.streams]
            running.server.inject(Fault(kinds[turn % 3]))
            await running.until(
                lambda sessions=sessions: (
                    all(s.session not in sessions for s in running.streams) and running.all_live()
                ),
                "live again",
            )
        truth = running.server.truth
        await running.until(lambda: truth.opened - truth.closed == 2, "the exchange sees two connections")
        assert len(open_sockets()) == steady
