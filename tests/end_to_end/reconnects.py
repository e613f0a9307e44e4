"""Thousands of reconnects over loopback, plain and TLS, ended in every way there is, with the recorder's own streams.

    python -m tests.end_to_end.reconnects 10000

prints what was measured as JSON. The peers are another process, so that fds and memory here are the recorder's own.
What differs from a recorder: the backoff draws no delay and the dial budgets are endless, or this would take a day.
"""

import ctypes
import gc
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from math import sqrt
from pathlib import Path
from statistics import fmean, linear_regression
from typing import Any

import attrs
import structlog
import trio
import trustme

from collector_trio.exchanges import EXCHANGES
from collector_trio.net.connect import Connection
from collector_trio.net.tap import Sink
from collector_trio.ops.state import resident_bytes
from collector_trio.streams import supervisor
from collector_trio.streams.session import Connect
from collector_trio.streams.supervisor import Stream, keep_stream

from .ending_peers import ENDINGS, HANDSHAKES
from .reconnecting import ENDLESS, Kept, keeping, planned

STREAMS = 10
LOOK_EVERY_S = 0.2
SLOW = {"silence": 0.004, "no-answer": 0.002}  # of all dials: they cost a deadline each
OTHERS = ("no-listener", "leaves-in-tls")
HIDDEN = ("started", "memory", "_close_wait")
MEMORY_EVERY = 100  # sessions
T_95 = 2.101  # Student's t, 18 degrees of freedom: twenty blocks
BLOCKS = 20


@attrs.define
class Chaos:
    """Chooses how each connection will end."""

    ports: list[int]
    random: random.Random
    over: bool = False
    ways: Counter[str] = attrs.field(factory=Counter)

    def choose(self) -> str:
        if self.over:
            return "stay"
        for way, chance in SLOW.items():
            if self.random.random() < chance:
                return way
        fast = [way for way in (*HANDSHAKES, *ENDINGS, *OTHERS) if way not in (*SLOW, "stay")]
        return self.random.choice(fast)

    def door(self, connect: Connect) -> Connect:
        def dial(url: str, sink: Sink) -> AbstractAsyncContextManager[Connection]:
            way, secure = self.choose(), url.startswith("wss")
            self.ways[("wss " if secure else "ws ") + way] += 1
            port = self.ports[secure]
            if way == "no-listener":
                port = self.ports[3]
            elif way == "leaves-in-tls":
                port = self.ports[2]
            return connect(f"{'wss' if secure else 'ws'}://127.0.0.1:{port}/{way}", sink)

        return dial


@attrs.define
class Looks:
    """What was seen at every census."""

    started: float
    censuses: int = 0
    most_sockets: int = 0
    most_of_one_stream: int = 0
    unowned: int = 0
    most_time_wait: int = 0
    oldest_close_wait_s: float = 0.0
    memory: list[tuple[int, int, int, int]] = attrs.field(factory=list)  # sessions so far, and what `memory_now` says
    _close_wait: dict[tuple[int, str], float] = attrs.field(factory=dict)

    def look(self, kept: Kept, chaos: Chaos) -> None:
        kept.owners.find_leaks()
        now, sockets = time.monotonic(), kept.owners.sockets()
        by_owner = Counter(found.owner for found in sockets)
        self.most_sockets = max(self.most_sockets, len(sockets))
        self.most_of_one_stream = max(self.most_of_one_stream, *by_owner.values(), 0)
        self.unowned += by_owner["none"] + by_owner["unclaimed"]
        waiting = {(found.fd, found.local) for found in sockets if found.state == "CLOSE_WAIT"}
        self._close_wait = {key: self._close_wait.get(key, now) for key in waiting}
        self.oldest_close_wait_s = max(
            [self.oldest_close_wait_s, *(now - since for since in self._close_wait.values())]
        )
        self.most_time_wait = max(self.most_time_wait, time_wait(chaos.ports))
        self.censuses += 1
        if not self.memory or kept.sessions() >= self.memory[-1][0] + MEMORY_EVERY:
            gc.collect()  # what is garbage already is not held
            self.memory.append((kept.sessions(), *memory_now()))

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in attrs.asdict(self).items() if name not in HIDDEN}


def time_wait(ports: list[int]) -> int:
    """Count the sockets in TIME_WAIT of connections to the peers, on either side: they have no fd, so the kernel's list
    is the only one they are in.
    """
    wanted = {f"{port:04X}" for port in ports}
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = ((fields[1][-4:], fields[2][-4:], fields[3]) for fields in map(str.split, lines))
    return sum(state == "06" and bool({local, peer} & wanted) for local, peer, state in ends)


class _Mallinfo(ctypes.Structure):
    """What glibc's malloc has, https://man7.org/linux/man-pages/man3/mallinfo.3.html."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    ]


def memory_now() -> tuple[int, int, int]:
    """Return the resident bytes, the bytes that C code has allocated and not freed, and Python's blocks. The first also
    has what the allocators keep for later, which is why it alone cannot tell a leak from a fragmented heap.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    now = mallinfo()
    return resident_bytes(), now.uordblks + now.hblkhd, sys.getallocatedblocks()


def fit(memory: list[tuple[int, int]]) -> list[float]:
    """Fit a line to the last half: growth per session, and half the width of its 95 % confidence interval. Empty where
    there are too few looks.

    By the means of twenty blocks: looks that follow one another are not independent.
    """
    half = memory[len(memory) // 2 :]
    if len(half) < BLOCKS:
        return []
    size = len(half) / BLOCKS
    blocks = [half[int(n * size) : int((n + 1) * size)] for n in range(BLOCKS)]
    x = [fmean(sessions for sessions, _ in block) for block in blocks]
    y = [fmean(resident for _, resident in block) for block in blocks]
    slope, intercept = linear_regression(x, y)
    rest = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / (BLOCKS - 2)
    return [round(slope, 3), round(T_95 * sqrt(rest / sum((a - fmean(x)) ** 2 for a in x)), 3)]


def tenths(memory: list[tuple[int, int, int, int]], column: int) -> list[int]:
    return [look[column] for look in memory[:: max(1, len(memory) // 10)]]


async def keep_and_cancel(stream: Stream, kept: Kept, chaos: Chaos) -> None:
    """Keep a stream, and end every other one ourselves now and then, in the midst of whatever it is doing."""
    while True:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if stream.plan.name[-1] in "56789":  # the others' peers may be silent until that is noticed
                    nursery.start_soon(cancel_some_time, scope, chaos)
                await keep_stream(stream, EXCHANGES[stream.plan.exchange], kept.around)
        chaos.ways["cancelled by us"] += 1


async def cancel_some_time(scope: trio.CancelScope, chaos: Chaos) -> None:
    await trio.sleep(chaos.random.uniform(0.0, 4.0))
    while chaos.over:  # noqa: ASYNC110
        await trio.sleep(LOOK_EVERY_S)
    scope.cancel()


async def reconnect(sessions: int, ports: list[int], tls: ssl.SSLContext, seed: int, data_dir: Path) -> dict[str, Any]:
    chaos, schemes = Chaos(ports, random.Random(seed)), ("ws", "wss")
    plans = [planned(f"{schemes[n % 2]}://127.0.0.1/", number=n + 1) for n in range(STREAMS)]
    async with keeping(data_dir, [], tls=tls, connect=chaos.door) as kept, trio.open_nursery() as nursery:
        kept.streams = [Stream(plan) for plan in plans]
        chaos.over = True
        for stream in kept.streams:
            nursery.start_soon(keep_and_cancel, stream, kept, chaos)
        await kept.until(kept.all_live, "live at first")
        fds, memory, looks = len(os.listdir("/proc/self/fd")), resident_bytes(), Looks(time.monotonic())
        chaos.over = False
        while kept.sessions() < sessions:
            looks.look(kept, chaos)
            await trio.sleep(LOOK_EVERY_S)
        chaos.over, seconds = True, time.monotonic() - looks.started
        await kept.until(kept.all_live, "live in the end")
        looks.look(kept, chaos)
        result = {
            "seed": seed,
            "sessions": kept.sessions(),
            "live_sessions": sum(stream.lived + stream.is_live for stream in kept.streams),
            "seconds": round(seconds, 1),
            "plan": len(plans),
            "in_the_end": in_the_end(kept, ports) | {"fds_more_than_at_first": len(os.listdir("/proc/self/fd")) - fds},
            "at_every_census": looks.document(),
            "resident_bytes_at_first": memory,
            "over_the_last_half": {
                name: {
                    "per_session": fit([(look[0], look[n]) for look in looks.memory]),
                    "by_tenth": tenths(looks.memory, n),
                }
                for n, name in enumerate(("resident_bytes", "allocated_bytes", "python_blocks"), 1)
            },
            "ended": dict(sum((stream.ended for stream in kept.streams), Counter())),
            "ways": dict(sorted(chaos.ways.items())),
            "leaked": dict(kept.owners.leaked),
        }
        nursery.cancel_scope.cancel()
    return result | {"sockets_after_the_stop": len(kept.owners.sockets())}


def in_the_end(kept: Kept, ports: list[int]) -> dict[str, Any]:
    """Count what is open: zombies are connections that are established and no stream's present session."""
    states = Counter(found.state for found in kept.owners.sockets())
    return {
        "connections": states.total(),
        "by_state": dict(states),
        "zombies": states["ESTABLISHED"] - sum(stream.session is not None for stream in kept.streams),
        "time_wait_without_fd": time_wait(ports),
        "resident_bytes": resident_bytes(),
    }


def main(sessions: int, seed: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    supervisor.STREAM_DIALS = ENDLESS
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder) / "server.pem"
        issued = authority.issue_cert("localhost", "127.0.0.1")
        certificate.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        command = [sys.executable, "-m", "tests.end_to_end.ending_peers", str(certificate)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peers:
            assert peers.stdout is not None
            ports = json.loads(peers.stdout.readline())
            result = trio.run(reconnect, sessions, ports, tls, seed, Path(folder) / "data")
            assert peers.stdin is not None
            peers.stdin.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6))
