"""What a power cut could cost, by the system calls of a real run: nothing stays unsynced for longer than promised, no
name is given before what it names is on the disk, and no name is left to chance.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import attrs
import pytest
import trio

from collector_trio.sim import Scenario, SimServer, serve

from .crashing import ROOT, followers_of, write_config

SYNC_EVERY_S = 0.25
SEGMENT_S = 6
# The sync itself, and that of a segment sealed before it, on a busy disk under strace: far less than a segment lasts,
# which is what it would be if only sealing synced.
SLACK_S = 4.0
WRITES = ("write", "writev", "pwrite64")
CALLS = "write,writev,pwrite64,fdatasync,fsync,rename,renameat,renameat2,openat,mkdir,mkdirat"


def can_trace() -> bool:
    return shutil.which("strace") is not None and (
        subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not can_trace(), reason="there is no strace here, or it may trace nothing")


@attrs.frozen(order=True)
class Call:
    """One system call that succeeded. `paths`: of its file descriptor, or its names."""

    at: float
    until: float
    name: str
    paths: tuple[str, ...]
    result: int


_LINE = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\)\s+= (-?\d+)(?:<[^>]*>)?.*<(\d+\.\d+)>$")


def read_trace(folder: Path) -> list[Call]:
    """Read what `strace -ff -ttt -T -y` wrote, of all threads and processes, as far as it concerns `folder`."""
    calls = []
    for path in folder.glob("trace.*"):
        for line in path.read_text(errors="replace").splitlines():
            found = _LINE.match(line)
            if found is None or int(found[4]) < 0:
                continue
            at, name, said = float(found[1]), found[2], found[3]
            if name.startswith(("rename", "mkdir")):
                paths = tuple(str(ROOT / text) for text in re.findall(r'"([^"]*)"', said))
            else:
                paths = tuple(re.findall(r"^\d+<([^>]*)>", said))
            if any(text.startswith(str(folder)) for text in paths):
                calls.append(Call(at, at + float(found[5]), name, paths, int(found[4])))
    return sorted(calls)


async def traced_run(folder: Path) -> list[Call]:
    """Record for some segments under strace, then stop; return what was called."""
    scenario = Scenario(symbols=("BTC-USDT",), quiet_symbols=(), trades_per_s=50.0)
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, scenario, seed=1))
        config = write_config(
            folder, server.endpoints_toml(), symbols=("BTC-USDT",), segment=f"{SEGMENT_S}s",
            store=f'sync_every = "{round(SYNC_EVERY_S * 1000)}ms"\n',
        )  # fmt: skip
        strace = ["strace", "-ff", "-ttt", "-T", "-y", "-s", "300", "-qq", "-e", f"trace={CALLS}", "-e", "signal=none"]
        command = [*strace, "-o", str(folder / "trace"), sys.executable, "-m", "collector_trio", "run"]
        process = await trio.lowlevel.open_process(
            [*command, "--config", str(config)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with trio.fail_after(60):
                while len(list((folder / "data" / "trades").glob("**/*.parquet"))) < 4:
                    assert process.poll() is None
                    await trio.sleep(0.1)
            for pid in followers_of(process.pid):  # strace itself would only let go
                os.kill(pid, signal.SIGTERM)
            with trio.fail_after(30):
                await process.wait()
        finally:
            for pid in followers_of(process.pid):
                os.kill(pid, signal.SIGKILL)
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        nursery.cancel_scope.cancel()
    return read_trace(folder)


def usual_pause_s(calls: list[Call]) -> float:
    """Return the median time from the end of one sync of the journal to the beginning of the next."""
    syncs = [call for call in calls if call.name == "fdatasync" and "/journal/" in call.paths[0]]
    return median(later.at - sooner.until for sooner, later in pairwise(syncs))


def longest_unsynced_s(calls: list[Call]) -> tuple[float, int]:
    """Return for how long anything written to the journal was unsynced at most, and how many writes there were."""
    longest, writes, waiting = 0.0, 0, defaultdict[str, list[float]](list)
    for call in calls:
        path = call.paths[0]
        if call.name in WRITES and "/journal/" in path and path.endswith(".open"):
            waiting[path].append(call.until)
            writes += 1
        elif call.name in ("fdatasync", "fsync") and path in waiting:
            covered = [until for until in waiting[path] if until <= call.at]
            longest = max([longest, *(call.until - until for until in covered)])
            waiting[path] = waiting[path][len(covered) :]
    assert not any(waiting.values()), "something was never synced"
    return longest, writes


async def test_nothing_accepted_is_unsynced_for_long_and_every_name_is_made_to_last(tmp_path: Path) -> None:
    calls = await traced_run(tmp_path)
    data_dir = tmp_path / "data"
    longest_s, writes = longest_unsynced_s(calls)
    print(f"{writes} writes, at most {longest_s:.3f} s unsynced")
    assert writes > 100
    assert longest_s <= SYNC_EVERY_S + SLACK_S < SEGMENT_S
    assert usual_pause_s(calls) <= 2 * SYNC_EVERY_S

    folder_syncs = [call for call in calls if call.name == "fsync" and Path(call.paths[0]).is_dir()]

    def assert_lasts(call: Call, name: str) -> None:
        parent = str(Path(name).parent)
        later = [sync for sync in folder_syncs if sync.paths[0] == parent and sync.at >= call.until]
        assert later, f"{call.name} {name}: {parent} is not synced afterwards"
        assert later[0].at - call.until <= SYNC_EVERY_S + SLACK_S

    renames = [call for call in calls if call.name.startswith("rename") and not call.paths[-1].endswith("/current")]
    assert sum(call.paths[-1].endswith(".log") for call in renames) >= 2
    assert sum(call.paths[-1].endswith(".parquet") for call in renames) >= 4
    for call in renames:
        old, new = call.paths
        assert_lasts(call, new)
        before = [c for c in calls if c.paths[0] == old and c.until <= call.at]
        written = [c.until for c in before if c.name in WRITES]
        synced = [c.at for c in before if c.name in ("fsync", "fdatasync")]
        assert written
        assert max(synced) >= max(written), f"{old} was renamed before it was synced"

    made = {path: call for call in reversed(calls) if call.name.startswith("mkdir") for path in call.paths}
    for path, call in made.items():
        if not path.startswith(str(data_dir / "tmp")):
            assert_lasts(call, path)
    for segment in {call.paths[0] for call in calls if call.name in WRITES and call.paths[0].endswith(".open")}:
        if "/journal/" in segment:
            assert_lasts(min(call for call in calls if call.paths[0] == segment), segment)
