"""The follower as a child: restarted when it dies, told of segments, given time at the end and no more."""

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from collector_trio.config import parse_duration
from collector_trio.followers import child as child_module
from collector_trio.followers.child import Bell, FollowerChild
from collector_trio.followers.cursor import Cursor, load_cursor

from ..journal.writing import leave_open
from .recordings import record_some

ROOT = Path(__file__).parents[2]

# A follower that says on a file what it does. It does as it is told there, too.
SCRIPTED = """
import os, signal, sys, time
folder, script = sys.argv[1:]
def say(text):
    with open(folder + "/said", "a") as file:
        file.write(text + "\\n")
say(f"begin {os.getpid()}")
if script == "die":
    sys.exit(3)
for line in sys.stdin:
    say(line.strip())
say("end of input")
if script == "linger":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
if script == "fail":
    sys.exit(4)
"""


@attrs.define
class Told:
    """What the scripted followers said so far."""

    folder: Path

    def lines(self) -> list[str]:
        try:
            return (self.folder / "said").read_text().splitlines()
        except FileNotFoundError:
            return []

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines() if line.startswith("begin ")]

    async def until(self, count: int) -> list[str]:
        """Wait until so many lines were said."""
        with trio.fail_after(30):
            while len(self.lines()) < count:  # noqa: ASYNC110 - another process writes them
                await trio.sleep(0.005)
        return self.lines()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the scripted follower stand in for the real one; the last script given is used for the next process."""
    scripts = ["follow"]
    real = trio.lowlevel.open_process

    async def open_process(command: list[str], **options: object) -> trio.Process:
        assert command[1:4] == ["-m", "collector_trio", "follow"]
        return await real([sys.executable, "-S", "-c", SCRIPTED, str(tmp_path), scripts[-1]], **options)  # type: ignore[arg-type]

    monkeypatch.setattr("collector_trio.followers.child.trio.lowlevel.open_process", open_process)
    return scripts


@attrs.define
class Kept:
    child: FollowerChild
    bell: Bell
    stop: trio.Event
    ended: trio.Event


@asynccontextmanager
async def keeping(data_dir: Path, finish_s: float = 10.0) -> AsyncIterator[Kept]:
    """Keep a child beside the block; at its end the child is stopped, unless the test did."""
    kept = Kept(FollowerChild("tables", data_dir, "json", "debug"), Bell(), trio.Event(), trio.Event())

    async def keep() -> None:
        log = structlog.get_logger()
        await kept.child.keep(kept.bell, kept.stop, lambda: finish_s, random.Random(1), log)
        kept.ended.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            yield kept
            kept.stop.set()


def is_gone(pid: int) -> bool:
    """Tell that a process has ended and was waited for: not even a zombie is left."""
    return not Path(f"/proc/{pid}").exists()


async def test_it_is_told_of_every_segment_or_of_several_at_once(told: Told, script: list[str], tmp_path: Path) -> None:
    async with keeping(tmp_path) as kept:
        await told.until(1)
        for count in range(2, 5):
            kept.bell.ring()
            assert (await told.until(count))[-1] == "sealed"
        kept.bell.ring()
        kept.bell.ring()
        kept.stop.set()
        await kept.ended.wait()

    assert told.lines()[-1] == "end of input"
    assert is_gone(told.pids()[0])
    assert kept.child.pid is None
    assert kept.child.restarts == 0


@pytest.mark.parametrize(
    ("keep_s", "said"), [(None, []), (90 * 86400.0, ["--keep-tables", "7776000.000000s"]), (1.5, ["1.500000s"])]
)
async def test_it_is_told_how_long_to_keep_tables(
    tmp_path: Path, keep_s: float | None, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    async def refuse(command: list[str], **options: object) -> trio.Process:
        commands.append(command)
        raise OSError

    monkeypatch.setattr("collector_trio.followers.child.trio.lowlevel.open_process", refuse)
    child, stop = FollowerChild("tables", tmp_path, "json", "info", keep_s), trio.Event()
    stop.set()
    await child.keep(Bell(), stop, lambda: 1.0, random.Random(1), structlog.get_logger())

    [command] = commands
    assert command[2:7] == ["collector_trio", "follow", "--data-dir", str(tmp_path), "--log"]
    assert command[10:][-len(said) :] == said if said else command[10:] == []
    if keep_s is not None:
        assert parse_duration(command[-1]) == keep_s


async def test_a_ring_before_anybody_waits_is_heard() -> None:
    bell = Bell()
    bell.ring()

    with trio.fail_after(1):
        await bell.wait()
    with trio.move_on_after(0.01) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_child_that_is_killed_is_restarted_and_that_is_said(
    told: Told, script: list[str], tmp_path: Path, logged: list[EventDict]
) -> None:
    async with keeping(tmp_path) as kept:
        await told.until(1)
        assert kept.child.pid == told.pids()[0]
        os.kill(told.pids()[0], signal.SIGKILL)
        await told.until(2)
        kept.bell.ring()
        assert (await told.until(3))[-1] == "sealed"
        assert kept.child.pid == told.pids()[1]

    assert kept.child.restarts == 1
    assert all(is_gone(pid) for pid in told.pids())
    (event,) = logged
    assert (event["event"], event["log_level"], event["code"]) == ("follower died", "error", -signal.SIGKILL)
    assert (event["follower"], 0 <= event["restart_in_s"] <= 1) == ("tables", True)


async def test_a_child_that_dies_again_and_again_is_restarted_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict], autojump_clock: MockClock
) -> None:
    async def die(self: FollowerChild, bell: Bell, stop: trio.Event, finish_s: float) -> int:
        starts.append(trio.current_time())
        return 3

    starts: list[float] = []
    monkeypatch.setattr(FollowerChild, "_run_once", die)
    kept = FollowerChild("tables", tmp_path, "json", "info")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep, Bell(), stop, lambda: 1.0, random.Random(5), structlog.get_logger())
        await trio.sleep(600)
        stop.set()

    delays = [after - before for before, after in pairwise(starts)]
    assert all(delay <= bound for delay, bound in zip(delays, [1, 2, 4, 8, 16, 30, *[30] * 99], strict=False))
    assert max(delays[:-1]) > 15
    assert len(starts) < 80
    assert kept.restarts == len(starts) - 1 == len(logged)


async def test_no_process_to_be_had_is_like_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict], autojump_clock: MockClock
) -> None:
    async def refuse(command: list[str], **options: object) -> trio.Process:
        tries.append(1)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    tries: list[int] = []
    monkeypatch.setattr("collector_trio.followers.child.trio.lowlevel.open_process", refuse)
    async with keeping(tmp_path):
        await trio.sleep(20)

    assert len(tries) > 3
    assert {event["code"] for event in logged} == {11}


async def test_a_stop_that_comes_while_it_is_down_starts_it_once_more(
    told: Told, script: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sealed wants to be stored: after a clean stop everything is in Parquet."""
    monkeypatch.setattr(child_module, "backoff", lambda random_: iter([3600.0]))
    script.append("die")
    async with keeping(tmp_path) as kept:
        await told.until(1)
        with trio.fail_after(10):
            while not kept.child.restarts:  # noqa: ASYNC110 - another process dies
                await trio.sleep(0.005)
        script.append("follow")
        kept.stop.set()
        await kept.ended.wait()

    assert [line.split()[0] for line in told.lines()] == ["begin", "begin", "end"]
    assert all(is_gone(pid) for pid in told.pids())


async def test_a_child_that_does_not_finish_in_time_is_killed(told: Told, script: list[str], tmp_path: Path) -> None:
    script.append("linger")
    async with keeping(tmp_path, finish_s=0.3) as kept:
        await told.until(1)
        began = trio.current_time()
        kept.stop.set()
        await kept.ended.wait()

    assert 0.3 <= trio.current_time() - began < 20  # it would linger for a minute
    assert told.lines()[1:] == ["end of input"]
    assert is_gone(told.pids()[0])


async def test_a_cancelled_owner_leaves_no_child_behind(told: Told, script: list[str], tmp_path: Path) -> None:
    script.append("linger")
    with trio.CancelScope() as scope:
        async with keeping(tmp_path):
            await told.until(1)
            scope.cancel()

    assert is_gone(told.pids()[0])


async def test_signals_to_the_recorders_group_do_not_reach_it(told: Told, script: list[str], tmp_path: Path) -> None:
    async with keeping(tmp_path) as kept:
        await told.until(1)
        assert kept.child.pid is not None
        assert os.getsid(kept.child.pid) == kept.child.pid != os.getsid(0)


KEEP = """
import random, sys
from pathlib import Path
import structlog, trio
from collector_trio.followers.child import Bell, FollowerChild

async def main():
    child = FollowerChild("tables", Path(sys.argv[1]), "json", "info")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, Bell(), trio.Event(), 5.0, random.Random(), structlog.get_logger())
        while child.pid is None:
            await trio.sleep(0.001)
        print(child.pid, flush=True)

trio.run(main)
"""


def test_a_recorder_that_is_killed_takes_its_follower_along_which_stores_first_what_is_sealed(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    leave_open(tmp_path)
    with subprocess.Popen([sys.executable, "-c", KEEP, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as recorder:
        assert recorder.stdout is not None
        follower = os.pidfd_open(int(recorder.stdout.readline()))
        recorder.kill()
        ended, _, _ = select.select([follower], [], [], 30)  # readable when it has ended, whoever its parent is
        os.close(follower)
        assert ended

    assert load_cursor(tmp_path).segment == 2


async def test_the_real_follower_stores_what_is_sealed_until_it_is_stopped(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    async with keeping(tmp_path) as kept:
        with trio.fail_after(30):
            while load_cursor(tmp_path).segment < 2:  # noqa: ASYNC110 - another process moves it
                await trio.sleep(0.01)
        kept.stop.set()
        await kept.ended.wait()

    assert kept.child.restarts == 0
    assert load_cursor(tmp_path) == Cursor(2, 15)
