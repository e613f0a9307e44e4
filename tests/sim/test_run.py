"""What the command `sim` does, TLS, and the truth on disk."""

import json
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from trio_websocket import wrap_client_stream

from collector_trio.errors import CollectorError, ConfigError
from collector_trio.sim import Fault, Scenario, SimServer, run_sim

from .wire import FAST, TEXT, closed_with, connected, get, serving, subscribe


async def test_the_endpoints_block_can_be_pasted_and_names_the_port() -> None:
    async with serving() as server:
        assert server.endpoints_toml() == (
            f"[endpoints.binance.spot]\n"
            f'ws = "ws://127.0.0.1:{server.port}/stream"\n'
            f'rest = "http://127.0.0.1:{server.port}"\n'
            f"[endpoints.binance.perp]\n"
            f'ws_public = "ws://127.0.0.1:{server.port}/public/stream"\n'
            f'ws_market = "ws://127.0.0.1:{server.port}/market/stream"\n'
            f'rest = "http://127.0.0.1:{server.port}"\n'
            f"[endpoints.okx]\n"
            f'ws_public = "ws://127.0.0.1:{server.port}/ws/v5/public"\n'
            f'ws_business = "ws://127.0.0.1:{server.port}/ws/v5/business"\n'
            f'rest = "http://127.0.0.1:{server.port}"\n'
        )


async def test_a_server_without_perpetuals_has_no_endpoint_for_them() -> None:
    spot_only = SimServer(Scenario(markets=("spot",)))
    assert "perp" not in spot_only.endpoints_toml()
    assert (await get(spot_only, "/api/v5/public/instruments?instType=SWAP"))[1]["data"] == []


@pytest.mark.parametrize("kind", ["close", "drop", "abort"])
async def test_all_of_it_works_over_tls(kind: str) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(FAST, ssl_context=context) as server:
        assert f'ws = "wss://127.0.0.1:{server.port}/stream"' in server.endpoints_toml()
        async with httpx.AsyncClient(verify=trusting) as client:
            answer = await client.get(f"https://127.0.0.1:{server.port}/api/v3/exchangeInfo")
            assert answer.json()["symbols"][0]["symbol"] == "BTCUSDT"
        raw = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.SSLStream(raw, trusting, server_hostname="127.0.0.1") as stream, trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(nursery, stream, "127.0.0.1", "/stream?streams=btcusdt@trade")
            for _ in range(50):
                assert '"e":"trade"' in str(await websocket.get_message())
            server.inject(Fault(kind))
            assert await closed_with(websocket) == (1001 if kind == "close" else 1006)
            nursery.cancel_scope.cancel()


async def test_who_speaks_no_tls_to_a_tls_port_is_hung_up_on() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with (
        serving(ssl_context=context) as server,
        await trio.open_tcp_stream("127.0.0.1", server.port) as stream,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        while await stream.receive_some():
            pass


async def test_the_truth_is_on_disk_too(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with serving(FAST, truth_path=path) as server, connected(server, "/stream") as wire:
        await wire.ask(subscribe("btcusdt@trade"))
        for _ in range(10):
            await wire.message()
        server.inject(Fault("drop"))
        frames = await wire.to_the_end()
        await wire.stream.aclose()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    sent = [entry for entry in entries if entry["entry"] == "sent"]
    assert len(sent) == 10 + sum(frame.opcode == TEXT for frame in frames)
    assert sent == [{"entry": "sent", **row} for row in server.truth.rows()]
    assert [entry["entry"] for entry in entries if entry["entry"] != "sent"] == ["opened", "fault", "closed"]


async def test_run_sim_announces_and_serves_until_cancelled(tmp_path: Path) -> None:
    said: list[str] = []
    recording = tmp_path / "frames.txt"
    recording.write_text('{"stream":"btcusdt@trade","data":{"s":"BTCUSDT"}}\n{"result":null,"id":1}\n')
    announced = trio.Event()

    def announce(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            announced.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, announce=announce, replay=[recording], fast=True))
        with trio.fail_after(5):
            await announced.wait()
        nursery.cancel_scope.cancel()
    assert said[0] == f"replay: {recording}: 1 frames; skipped: 1 no symbol"
    assert said[1].startswith("[endpoints.binance.spot]\n")
    assert said[2] == "replay: binance.spot: waiting until somebody subscribes BTCUSDT"


async def run(**options: Any) -> None:
    defaults: dict[str, Any] = {
        "port": 0,
        "scenario": None,
        "seed": 0,
        "replay": [],
        "fast": False,
        "truth_path": None,
        "tls": None,
        "announce": lambda text: None,
    }
    await run_sim(**{**defaults, **options})


async def test_what_cannot_be_served_is_one_clear_error(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(ConfigError, match="none of calm, bumpy"):
        await run(scenario="nosuch")
    with pytest.raises(CollectorError, match="nothing: cannot be read"):
        await run(replay=[nothing])
    with pytest.raises(CollectorError, match="no certificate and key"):
        await run(tls=(nothing, nothing))
    with pytest.raises(CollectorError, match="nothing/truth: No such file"):
        await run(truth_path=nothing / "truth")
    async with serving() as server:
        with pytest.raises(CollectorError, match=f"port {server.port}: Address already in use"):
            await run(port=server.port)
