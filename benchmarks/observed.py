"""The recorder as `run` starts it, follower and all, with a task beside it that measures: a process of its own.

    python benchmarks/observed.py CONFIG SECONDS PROBE

Waits until every stream is live, measures for so long, stops, and prints one line of JSON (`Observed`).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from collector_trio import app
from collector_trio.config import parse_config
from collector_trio.exchanges import EXCHANGES
from collector_trio.garbage import spare_collections
from collector_trio.ops.log import set_up_logging
from collector_trio.ops.status import Status

LIVE_WITHIN_S = 30.0
LOOK_S = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.define
class Observed:
    """What one run was like, from when it was live. CPU is in cores; memory in bytes; lags in seconds."""

    seconds: float = 0.0
    frames: int = 0
    recorder_cpu: float = 0.0
    follower_cpu: float = 0.0
    recorder_peak: int = 0
    recorder_first: int = 0
    recorder_last: int = 0
    follower_peak: int = 0
    lag_p50: float = 0.0
    lag_p99: float = 0.0
    lag_max: float = 0.0
    behind_segments: int = 0
    behind_s: float = 0.0
    worst_behind_s: float = 0.0
    segments: int = 0
    gaps: int = 0
    sessions: int = 0
    streams: int = 0


@attrs.define
class Observer:
    """Sleeps `probe_s` at a time and notes how late it wakes, as whatever comes in is. Each probe costs, too."""

    seconds: float
    probe_s: float
    stop: trio.Event = attrs.field(factory=trio.Event)
    found: Observed = attrs.field(factory=Observed)

    async def watch(self, look: Callable[[], Status]) -> NoReturn:
        """Measure, then stop the run."""
        with trio.fail_after(LIVE_WITHIN_S):
            while not look().ready:  # noqa: ASYNC110  who looks on from outside can only look again
                await trio.sleep(0.1)
        await trio.sleep(1.0)  # connecting is over
        found, first = self.found, look()
        pid = first.followers[0].pid
        assert pid is not None
        begun, cpu, follower_cpu, late = trio.current_time(), time.process_time(), _cpu_s(pid), []
        found.recorder_first = first.memory_bytes
        looked = begun
        while (now := trio.current_time()) < begun + self.seconds:
            if now > looked + LOOK_S:
                looked = now
                behind = look().followers[0].lag_s
                found.worst_behind_s = max(found.worst_behind_s, behind)
            due = trio.current_time() + self.probe_s
            await trio.sleep_until(due)
            late.append(trio.current_time() - due)
        last = look()
        found.seconds = trio.current_time() - begun
        found.frames = last.journal.frames_accepted - first.journal.frames_accepted
        found.recorder_cpu = (time.process_time() - cpu) / found.seconds
        found.follower_cpu = (_cpu_s(pid) - follower_cpu) / found.seconds
        found.recorder_peak, found.follower_peak = _peak(os.getpid()), _peak(pid)
        found.recorder_last = last.memory_bytes
        late.sort()
        found.lag_p50, found.lag_p99, found.lag_max = late[len(late) // 2], late[len(late) * 99 // 100], late[-1]
        found.behind_segments, found.behind_s = last.followers[0].lag_segments, last.followers[0].lag_s
        found.segments = last.journal.segment - first.journal.segment
        found.gaps = last.gaps.open
        found.streams = len(last.streams)
        found.sessions = sum(stream.sessions for stream in last.streams)
        self.stop.set()
        await trio.sleep_forever()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main(config_path: str, seconds: str, probe_s: str) -> None:
    """Run, and print what was seen."""
    text = Path(config_path).read_text()
    config = parse_config(text, config_path, {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})
    set_up_logging("json", config.collector.log_level)
    spare_collections()
    observer = Observer(float(seconds), float(probe_s))

    async def run() -> app.Report:
        return await app.run(config, stop=observer.stop, watch=observer.watch)

    trio.run(run)
    print(json.dumps(attrs.asdict(observer.found)))  # noqa: T201  for the parent


if __name__ == "__main__":
    main(*sys.argv[1:])
