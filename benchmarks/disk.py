"""What the disk does to the recorder: how long an append takes, and how much memory there is while none is accepted.

    python benchmarks/disk.py CONFIG SECONDS

Runs the recorder as `run` does, refuses to let it write for so long in the middle, and prints one line of JSON
(`Refused`). The kernel refuses, for a process whose files may not grow (RLIMIT_FSIZE) sees a full disk.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import attrs
import trio
from made_up import Market

from collector_trio import app
from collector_trio.config import parse_config
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import in_thread, open_journal
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.ops.log import set_up_logging
from collector_trio.ops.status import Status

LIVE_WITHIN_S = 60.0
AROUND_S = 10.0  # for so long it records before it is refused, and after
LOOK_S = 0.1
SEGMENT_S = 10.0


@attrs.frozen
class Appends:
    """How long appends took, in microseconds."""

    p50: float
    p99: float
    p999: float
    worst: float


def appends(folder: Path, rate: int, batch: int, seconds: float, *, reserves: bool) -> Appends:
    """Append `rate` messages a second, four trades to each 40-level diff and `batch` to a read, while the journal's
    own task syncs every second in its thread, reserves space (or does not), and seals.
    """
    market, took = Market(), list[int]()
    reads = [market.mix(batch, 5) for _ in range(2000)]

    async def work() -> None:
        with (
            lock_data_dir(folder),
            open_journal(
                folder,
                recover(folder).numbers,
                clock=time.time_ns,
                segment_s=SEGMENT_S,
                sync_every_s=1.0,
                offload=in_thread(trio.CapacityLimiter(1)),
            ) as journal,
        ):
            journal._reserves = reserves
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                begun = trio.current_time()
                for number in range(int(rate * seconds / batch)):
                    await trio.sleep_until(begun + number * batch / rate)
                    start = time.perf_counter_ns()
                    accepted = journal.append(1, time.time_ns(), reads[number % len(reads)])
                    took.append(time.perf_counter_ns() - start)
                    assert accepted
                nursery.cancel_scope.cancel()

    trio.run(work)
    took.sort()
    shares = [took[int(len(took) * share)] / 1000 for share in (0.5, 0.99, 0.999)]
    return Appends(shares[0], shares[1], shares[2], took[-1] / 1000)


@attrs.define
class Refused:
    """The recorder's resident memory in bytes: at most, before, during and after a refusal; frames accepted in each."""

    before: int = 0
    during: int = 0
    after: int = 0
    frames_before: int = 0
    frames_during: int = 0
    frames_after: int = 0


@attrs.define
class Refuser:
    """Watches a run, and has the kernel refuse its writes for `seconds`."""

    seconds: float
    stop: trio.Event = attrs.field(factory=trio.Event)
    found: Refused = attrs.field(factory=Refused)

    async def watch(self, look: Callable[[], Status]) -> NoReturn:
        """Measure, then stop the run."""
        with trio.fail_after(LIVE_WITHIN_S):
            while not look().ready:  # noqa: ASYNC110  who looks on from outside can only look again
                await trio.sleep(0.1)
        found = self.found
        found.before, found.frames_before = await _peak(look, AROUND_S)
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
        found.during, found.frames_during = await _peak(look, self.seconds)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        found.after, found.frames_after = await _peak(look, AROUND_S)
        self.stop.set()
        await trio.sleep_forever()


async def _peak(look: Callable[[], Status], seconds: float) -> tuple[int, int]:
    """Return the most memory that was seen for so long, and the frames accepted meanwhile."""
    until, most, first = trio.current_time() + seconds, 0, look().journal.frames_accepted
    while trio.current_time() < until:
        await trio.sleep(LOOK_S)
        status = look()
        most = max(most, status.memory_bytes)
    return most, status.journal.frames_accepted - first


def main(config_path: str, seconds: str) -> None:
    """Run, and print what was seen."""
    text = Path(config_path).read_text()
    config = parse_config(text, config_path, {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})
    set_up_logging("json", config.collector.log_level)
    refuser = Refuser(float(seconds))

    async def run() -> app.Report:
        return await app.run(config, stop=refuser.stop, watch=refuser.watch)

    trio.run(run)
    print(json.dumps(attrs.asdict(refuser.found)))  # noqa: T201  for the parent


if __name__ == "__main__":
    main(*sys.argv[1:])
