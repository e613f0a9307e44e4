"""SIGTERM while everything hangs that can: exit 0 within ten seconds, with all that was received on the disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from collector_trio.journal.segments import journal_dir, list_segments
from tests.net.peers import Peer, serving, silence

from .crashing import COMMAND, ROOT, followers_of, frames_in
from .recorder import PATIENCE_S, config_text, store_what_is_left

STOP_S = 10.0
SYNC_S = 0.25  # of the slow disk: sealing a segment takes six
ACTIVE_ALERT = 'memory = { normal = "..1 B", alert_above = "2 B", every = "1s" }'
SLOW_DISK = f"""
import os, sys, time
for name in ("fsync", "fdatasync"):
    def slow(fd, sync=getattr(os, name)):
        time.sleep({SYNC_S})
        sync(fd)
    setattr(os, name, slow)
from collector_trio.__main__ import main
main()
"""


@attrs.define
class Rig:
    """A recorder on a slow disk, and what it speaks with."""

    process: trio.Process
    exchanges: trio.Process
    data_dir: Path
    hung_requests: list[str]
    hung_posts: list[str]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                assert self.process.returncode is None
                await trio.sleep(0.05)


@asynccontextmanager
async def started(*command: str, **options: int) -> AsyncIterator[trio.Process]:
    """Run a program beside the block; whatever has become of it, it is gone afterwards, and its children are."""
    process = await trio.lowlevel.open_process(command, cwd=ROOT, **options)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            for pid in (*followers_of(process.pid), process.pid) if process.returncode is None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[Rig]:
    """Record from simulated exchanges in a process of their own; nothing answers for OKX's REST and for the webhook."""
    requests: list[str] = []
    posts: list[str] = []

    def never_answers(heard: list[str]) -> Callable[[Peer], Awaitable[None]]:
        async def script(peer: Peer) -> None:
            await peer.read_head()
            heard.append(peer.request.split()[1].decode())
            await silence(peer)

        return script

    async with AsyncExitStack() as stack:
        hanging = await stack.enter_async_context(serving(never_answers(requests)))
        webhook = await stack.enter_async_context(serving(never_answers(posts)))
        exchanges = await stack.enter_async_context(started(*COMMAND, "sim", stdout=subprocess.PIPE))
        assert exchanges.stdout is not None
        endpoints = ""
        while "[endpoints.okx]" not in endpoints or not endpoints.endswith("\n"):
            endpoints += (await exchanges.stdout.receive_some()).decode()
        okx = re.search(r"\[endpoints\.okx\].*", endpoints, re.DOTALL)
        assert okx is not None
        endpoints = endpoints.replace(okx[0], re.sub(r'rest = "[^"]*"', f'rest = "http://127.0.0.1:{hanging}"', okx[0]))
        config = folder / "config.toml"
        alerts = f'[alerts]\nwebhook = "http://127.0.0.1:{webhook}/"\n{ACTIVE_ALERT}\n'
        config.write_text(config_text(folder / "data", endpoints, segment="10s", store=alerts))
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-c", SLOW_DISK, "run", "--config", str(config)]
            process = await stack.enter_async_context(started(*command, stdout=subprocess.DEVNULL, stderr=log.fileno()))
        yield Rig(process, exchanges, folder / "data", requests, posts)


async def peers_hang(rig: Rig) -> None:
    """Nothing is answered any more: no close frame, no handshake, no request."""
    rig.exchanges.send_signal(signal.SIGSTOP)


async def the_follower_is_stuck(rig: Rig) -> None:
    await rig.until(lambda: followers_of(rig.process.pid))
    for pid in followers_of(rig.process.pid):
        os.kill(pid, signal.SIGSTOP)


async def a_request_hangs(rig: Rig) -> None:
    await rig.until(lambda: rig.hung_requests)


async def the_webhook_hangs(rig: Rig) -> None:
    await rig.until(lambda: rig.hung_posts)


HINDRANCES: list[Callable[[Rig], Awaitable[None]]] = [
    a_request_hangs,
    the_webhook_hangs,
    the_follower_is_stuck,
    peers_hang,
]


def batches_in(data_dir: Path) -> int:
    """Count the batches on the disk, without asking what they are."""
    found = 0
    for path in (data_dir / "journal").glob("*-*"):
        with suppress(FileNotFoundError):  # renamed just now
            found += path.read_bytes().count(b"\n#b ")
    return found


async def test_a_stop_waits_for_nobody_and_all_that_was_received_is_on_the_disk(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        await rig.until(lambda: batches_in(rig.data_dir) > 20)
        for hinder in HINDRANCES:
            await hinder(rig)
        await trio.sleep(1.0)  # time enough for a sync to be under way
        rig.process.send_signal(signal.SIGTERM)
        told_at = time.monotonic()
        with trio.fail_after(STOP_S):
            assert await rig.process.wait() == 0, (tmp_path / "log").read_text()[-3000:]
        print(f"stopped within {time.monotonic() - told_at:.1f} s")
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    [stopped] = [entry for entry in entries if entry["event"] == "stopped"]
    assert stopped["frames"] > 20
    assert [entry["left"] for entry in entries if entry["event"] == "webhook not told of everything"] == [1]
    assert frames_in(rig.data_dir) >= stopped["frames"]  # whole books by REST are frames, too
    assert not [segment for segment in list_segments(journal_dir(rig.data_dir)) if segment.is_open]
    assert not [entry for entry in entries if "leak" in entry["event"]]
    store_what_is_left(rig.data_dir)  # nobody holds the cursor: the follower is gone
