"""Run as a process: `run` records onto a small disk until that is full, and goes on when there is room again.

`python -m tests.end_to_end.filling FOLDER disk`: FOLDER/data is a small file system of our own, and refuses itself.
`python -m tests.end_to_end.filling FOLDER floor`: reading stops before, at `min_free`.

What was published and what was recorded are compared here, where both can be seen; prints what happened as JSON.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.sim import Fault, Scenario, SimServer, serve
from tests.small_disk import MIB, Ballast

from .crashing import (
    ask,
    assert_every_frame_is_accounted_for,
    assert_tables_are_the_truth,
    assert_the_journal_says_the_same,
    files,
    is_free,
    running,
    stop_cleanly,
    until,
    write_config,
)
from .recorder import PATIENCE_S, store_what_is_left

LOAD = Scenario(symbols=("BTC-USDT",), quiet_symbols=(), trades_per_s=60.0, book_changes_per_s=10.0)
FLOOR = 4 * MIB
STILL_S = 1.5  # for so long nothing more is accepted: the ballast has taken what the journal gave back
FULL_S = 2.0  # for so long the disk stays full after that
INSTANTS = 20  # at which each book is compared


@attrs.define
class Recorder:
    """A running collector, as its HTTP port tells of it."""

    log: Path
    client: httpx.AsyncClient

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [said for said in self.events() if said["event"] == event]

    async def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        answer = await self.client.get(self.said("http")[0]["url"].rstrip("/") + path)
        return answer.status_code, answer.json()

    async def until(self, path: str, condition: Callable[[int, dict[str, Any]], bool], what: str) -> dict[str, Any]:
        with trio.move_on_after(PATIENCE_S):
            while True:
                code, found = await self.ask(path)
                if condition(code, found):
                    return found
                await trio.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}; the last answer: {found}")


async def main(folder: Path, how: str) -> None:
    seed = random.randrange(10**6)
    found: dict[str, Any] = {"seed": seed}
    data_dir, log = folder / "data", folder / "log"
    ballast, leaves = Ballast(data_dir / "ballast"), FLOOR - MIB if how == "floor" else 0
    config = {"segment": "1s", "listen": "127.0.0.1:0", "min_free": f"{FLOOR} B" if how == "floor" else "0 B"}
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as client:
        server: SimServer = await nursery.start(partial(serve, LOAD, seed=seed))
        path = write_config(folder, server.endpoints_toml(), symbols=LOAD.symbols, markets=LOAD.markets, **config)
        recorder = Recorder(log, client)
        async with running(path, log) as process:
            await until(lambda: recorder.said("http"), "the port listens")
            await recorder.until("/readyz", lambda code, _: code == 200, "ready")
            await recorder.until(
                "/status.json", lambda _, status: status["followers"][0]["stored_segment"] > 1, "segments are stored"
            )
            before_kib = resident_kib(process.pid)
            found |= await fill(recorder, server, partial(ballast.grow, leaves), data_dir)
            found["grown_bytes"] = (resident_kib(process.pid) - before_kib) * 1024
            ballast.remove()
            before = found["accepted"]
            await recorder.until("/readyz", lambda code, _: code == 200, "ready again")
            await recorder.until(
                "/status.json",
                lambda _, status: status["journal"]["frames_accepted"] > before + 300,
                "recording goes on",
            )
            await stop_cleanly(server, process, data_dir, log)
        nursery.cancel_scope.cancel()
    await until(lambda: is_free(data_dir), "the follower has ended")
    store_what_is_left(data_dir)
    report = assert_tables_are_the_truth(data_dir, server, seed, INSTANTS)
    if how == "disk":  # else the journal is not whole any more
        assert_every_frame_is_accounted_for(data_dir)
        assert_the_journal_says_the_same(data_dir, folder / "again")
    causes = ask(f"""SELECT "table", list(DISTINCT cause) FROM {files(data_dir, "gaps")} GROUP BY 1""")
    found |= attrs.asdict(report) | {
        "causes": dict(causes),
        "reasons": Counter(reason for (reason,) in ask(f"SELECT reason FROM {files(data_dir, 'sessions')}")),
        "log": Counter(said["event"] for said in recorder.events()),
        "left": [str(path) for path in (data_dir / "tmp").glob("**/*")],
    }
    sys.stdout.write(json.dumps(found))


async def fill(recorder: Recorder, server: SimServer, grow: Callable[[], None], data_dir: Path) -> dict[str, Any]:
    """Let the disk become full and stay so for a while, in which two exchanges lose their connections."""
    still_since, accepted, stored, left = time.monotonic(), -1, 0, None
    with trio.fail_after(PATIENCE_S):
        while accepted < 0 or time.monotonic() - still_since < STILL_S:
            await trio.to_thread.run_sync(grow)
            _, status = await recorder.ask("/status.json")
            if not status["journal"]["refusing"]:
                stored = status["followers"][0]["stored_segment"]
            elif left is None:
                left = [number for number in numbers_in(data_dir) if number <= stored]
            if (now := status["journal"]["frames_accepted"]) != accepted or not status["journal"]["refusing"]:
                accepted, still_since = now, time.monotonic()
            await trio.sleep(0.05)
    code, ready = await recorder.ask("/readyz")
    struck = [server.inject(Fault("abort", target)) for target in ("binance.spot", "okx.business")]
    with trio.move_on_after(FULL_S):
        while True:
            await trio.to_thread.run_sync(grow)
            await trio.sleep(0.05)
    _, after = await recorder.ask("/status.json")
    return {
        "ready": [code, ready["reasons"]],
        "accepted": accepted,
        "accepted_later": after["journal"]["frames_accepted"],
        "sessions": [stream["session"] for stream in status["streams"]],
        "sessions_later": [stream["session"] for stream in after["streams"]],
        "struck": struck,
        "stored": stored,  # segments up to here were when it was last seen to accept
        "stored_left": left,  # which of them were still there when it was first seen to refuse
    }


def resident_kib(pid: int) -> int:
    """Return what the kernel says that a process has in RAM."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


def numbers_in(data_dir: Path) -> list[int]:
    return [segment.number for segment in list_segments(journal_dir(data_dir))]


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
