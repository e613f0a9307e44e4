"""The whole collector behind a proxy: everything it opens goes through it, and nobody is told the password."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from collector_trio import app
from collector_trio.config import Config
from collector_trio.sim import SimServer, serve
from collector_trio.streams.supervisor import Stream

from ..net.peers import Peer, Script, serving
from ..net.proxying import OK_NAME, Heard, http_proxy, socks_proxy
from .recorder import PATIENCE_S, config_for, rows, store_what_is_left

NAME = "exchange.invalid"  # only the proxy can resolve it
PASSWORD = "sesame-open"


def config_behind(proxy: str, data_dir: Path, server: SimServer) -> Config:
    endpoints = server.endpoints_toml().replace("127.0.0.1", NAME)
    return config_for(data_dir, endpoints + f'[net]\nproxy = "{proxy}"\ninsecure = true\n', symbols=("BTC-USDT",))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in sockets
            await trio.sleep(0.02)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_everything_goes_through_the_proxy_and_its_password_is_nowhere(scheme: str, tmp_path: Path) -> None:
    heard: list[Heard] = []

    def way(port: int) -> Script:
        async def script(peer: Peer) -> None:
            heard.append(Heard())
            if scheme == "http":
                await http_proxy(heard[-1], port)(peer)
            else:
                await socks_proxy(heard[-1], port, b"\x05\x02", b"\x01\x00", OK_NAME)(peer)

        return script

    streams: list[Stream] = []
    stop = trio.Event()
    with capture_logs() as logs:
        async with trio.open_nursery() as exchanges:
            server: SimServer = await exchanges.start(partial(serve, seed=3))
            async with serving(way(server.port)) as port:
                config = config_behind(f"{scheme}://me:{PASSWORD}@127.0.0.1:{port}", tmp_path, server)
                async with trio.open_nursery() as collector:
                    collector.start_soon(partial(app.run, config, stop=stop, streams=streams))
                    await until(lambda: len(streams) == 3 and all(one.is_live and one.frames > 20 for one in streams))
                    stop.set()
            exchanges.cancel_scope.cancel()
    store_what_is_left(tmp_path)
    assert len(heard) >= 6  # three sockets, two listings, a whole book at least
    assert all(NAME.encode() in b"".join(one.data) for one in heard)
    assert len(rows(tmp_path, "trades")) > 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in json.dumps(logs, default=repr)


async def test_a_proxy_that_refuses_is_the_reason_in_the_log_and_in_sessions(tmp_path: Path) -> None:
    refusing = http_proxy(Heard(), 1, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    streams: list[Stream] = []
    with capture_logs() as logs:
        async with trio.open_nursery() as exchanges:
            server: SimServer = await exchanges.start(partial(serve, seed=3))
            plain = config_for(tmp_path, server.endpoints_toml(), symbols=("BTC-USDT",), exchanges=("okx",))
            stop = trio.Event()
            async with trio.open_nursery() as collector:  # so that the instruments are known
                collector.start_soon(partial(app.run, plain, stop=stop, streams=streams))
                await until(lambda: any(one.is_live for one in streams))
                stop.set()
            async with serving(refusing) as port:
                config = config_behind(f"http://me:{PASSWORD}@127.0.0.1:{port}", tmp_path, server)
                await app.run(config, for_s=3)
            exchanges.cancel_scope.cancel()
    store_what_is_left(tmp_path)
    why = f"proxy http://127.0.0.1:{port} answered HTTP 407 Proxy Authentication Required"
    ended = [entry for entry in logs if entry["event"] == "ended" and entry.get("reason") == "proxy"]
    assert ended
    assert all(entry["detail"].startswith(why) for entry in ended)
    assert len([entry for entry in ended if entry["log_level"] == "warning"]) == len({e["stream"] for e in ended})
    stored = rows(tmp_path, "sessions", "detail", where="reason = 'proxy'", order="opened_at")
    assert stored
    assert all(detail.startswith(why) for (detail,) in stored)
    assert PASSWORD not in json.dumps(logs, default=repr)
