"""A connection is cancelled at each of its checkpoints in turn, and leaves no socket behind at any of them."""

import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio

from collector_trio.net.connect import CLOSE_S, connect
from collector_trio.net.http import open_client

from .conftest import Certificates
from .frames import PING, frame
from .peers import Batches, Dialled, Peer, Script, serving
from .test_proxies import OK4, Heard, http_proxy, socks_proxy

NO_TLS = ssl.create_default_context()
Life = Callable[[Dialled], Awaitable[None]]


@attrs.define(eq=False)
class CancelAt(trio.abc.Instrument):
    """Cancels `scope` after so many steps of `task` and the tasks below it."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    steps: int

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        above: trio.lowlevel.Task | None = task
        while above is not None and above is not self.task:
            above = above.parent_nursery.parent_task if above.parent_nursery else None
        if above is self.task:
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()


async def cancelled_everywhere(life: Life) -> int:
    """Cancel `life` after its first step, its second, … until it is over before; return how many steps it has.

    After each the process has as many file descriptors as before it, once the peers have noticed.
    """
    task = trio.lowlevel.current_task()
    steps = 0
    while True:
        steps += 1
        dialled, fds = Dialled(), len(os.listdir("/proc/self/fd"))
        with trio.fail_after(5), trio.CancelScope() as scope:
            instrument = CancelAt(task, scope, steps)
            trio.lowlevel.add_instrument(instrument)
            started_at = trio.current_time()
            try:
                await life(dialled)
            finally:
                trio.lowlevel.remove_instrument(instrument)
                assert not dialled.still_open, f"left open when cancelled after step {steps}"
        assert not task.child_nurseries
        assert trio.current_time() - started_at < CLOSE_S  # in fact at once
        with trio.fail_after(5):
            while len(os.listdir("/proc/self/fd")) != fds:  # noqa: ASYNC110  it happens in sockets
                await trio.sleep(0.001)
        if instrument.steps > 0:
            return steps


async def exchange(peer: Peer) -> None:
    await peer.accept(behind=frame(b"first"))
    await peer.receive(1)
    await peer.send(frame(b"second") + frame(b"", PING) + frame(b"third", 0x82))
    await peer.until_left()


WAYS = ("ws", "wss", "wss through http", "wss through socks5")


@asynccontextmanager
async def reachable(way: str, script: Script, certificates: Certificates) -> AsyncIterator[tuple[str, str | None]]:
    """Serve `script`, and give its URL and that of the proxy it is reached through."""
    scheme, _, proxy_scheme = way.partition(" through ")
    async with AsyncExitStack() as servers:
        port = await servers.enter_async_context(serving(script, certificates.server if scheme == "wss" else None))
        url, proxy = f"{scheme}://127.0.0.1:{port}/", None
        if proxy_scheme:
            heard = Heard()
            between = http_proxy(heard, port) if proxy_scheme == "http" else socks_proxy(heard, port, b"\x05\x00", OK4)
            proxy = f"{proxy_scheme}://127.0.0.1:{await servers.enter_async_context(serving(between))}"
        yield url, proxy


@pytest.mark.parametrize("way", WAYS)
async def test_a_websocket_cancelled_at_any_checkpoint_leaves_no_socket(way: str, certificates: Certificates) -> None:
    async with reachable(way, exchange, certificates) as (url, proxy):

        async def life(dialled: Dialled) -> None:
            sink = Batches()
            async with connect(
                url, sink, clock=time.time_ns, ssl_context=certificates.client, proxy=proxy, connector=dialled
            ) as connection:
                await connection.send("go on")
                await sink.wait_for(3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(everywhere := Everywhere(life))
        assert everywhere.steps > 15


async def test_a_request_cancelled_at_any_checkpoint_leaves_no_socket(certificates: Certificates) -> None:
    async def script(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nda")
        await peer.send(b"ta")

    async with serving(script, certificates.server) as port:

        async def life(dialled: Dialled) -> None:
            url = f"https://127.0.0.1:{port}"
            async with open_client(url, ssl_context=certificates.client, proxy=None, connector=dialled) as http:
                assert await http.get("/") == b"data"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(everywhere := Everywhere(life))
        assert everywhere.steps > 10


@attrs.define
class Everywhere:
    """Runs `cancelled_everywhere` in a task that has nothing else below it."""

    life: Life
    steps: int = 0
    __name__ = "everywhere"

    async def __call__(self) -> None:
        self.steps = await cancelled_everywhere(self.life)
