"""The HTTP port over real sockets: what is answered, to whom, and that no client can hold up the stop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest
import structlog
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from collector_trio.errors import CollectorError
from collector_trio.ops import http
from collector_trio.ops.census import HTTP, NOBODY, UNCLAIMED, Owners
from collector_trio.ops.http import is_ours, open_port, serve
from collector_trio.ops.site import make_site

from .conftest import Recorder

LOG = structlog.get_logger()
STOP_S = 2.0  # without ours, hypercorn's shields take 5 s, or for ever; this takes milliseconds
BIG = b"x" * 50_000_000  # more than any socket buffer takes


@asynccontextmanager
async def serving(site: ASGIApp, owners: Owners | None = None, stop_s: float = STOP_S) -> AsyncIterator[int]:
    """Serve `site` beside the block; leaving it must not take longer than `stop_s`."""
    owners = owners or Owners()
    async with open_port("127.0.0.1:0", owners) as port, trio.open_nursery() as nursery:
        nursery.start_soon(serve, port, site, owners, LOG)
        yield int(port.url.rpartition(":")[2])
        nursery.cancel_scope.cancel()
        nursery.cancel_scope.deadline = trio.current_time()
        before = trio.current_time()
    assert trio.current_time() - before < stop_s


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def big(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", str(len(BIG)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BIG})


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a bug")


def client_of(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)


async def ask(port: int, text: bytes) -> bytes:
    """Send raw bytes, and return what comes until the connection ends."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            answer = b""
            with suppress(trio.BrokenResourceError):  # a reset is an end, too
                await stream.send_all(text)
                async for part in stream:
                    answer += part
            return answer


def get(path: str, host: str = "localhost") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


# What is answered


async def test_every_address_answers(recorder: Recorder) -> None:
    for name in ("binance", "okx"):
        recorder.open_session(recorder.add_stream(name), live_at=trio.current_time())
    async with serving(make_site(recorder.observer.look, {})) as port, client_of(port) as client:
        page = await client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "/metrics" in page.text
        assert (await client.get("/healthz")).json() == {"healthy": True, "reasons": []}
        assert (await client.get("/readyz")).json() == {"ready": True, "reasons": []}
        status = await client.get("/status.json")
        assert status.headers["content-type"] == "application/json"
        assert [stream["state"] for stream in status.json()["streams"]] == ["live", "live"]
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert 'collector_sockets{owner="none",state="CLOSE_WAIT"} 0.0' in metrics.text


async def test_what_is_not_ready_says_why(recorder: Recorder) -> None:
    recorder.add_stream("binance")
    recorder.journal._refuse(0, "disk full")
    async with serving(make_site(recorder.observer.look, {})) as port, client_of(port) as client:
        ready, healthy = await client.get("/readyz"), await client.get("/healthz")
    assert ready.status_code == 503
    assert "binance.spot/1: dialling" in ready.json()["reasons"]
    assert healthy.status_code == 503
    assert "journal" in healthy.json()["reasons"][0]
    recorder.journal._refused_since_ns = None


async def test_only_get_and_head_are_answered(recorder: Recorder) -> None:
    async with serving(make_site(recorder.observer.look, {})) as port, client_of(port) as client:
        head = await client.head("/status.json")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 100
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await client.request(method, "/status.json")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404


async def test_a_bug_in_a_page_is_a_500_and_the_port_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(broken) as port:
        assert b" 500 " in await ask(port, get("/"))
        assert b" 500 " in await ask(port, get("/"))
    said = capfd.readouterr()
    assert "ASGI" not in said.out + said.err  # hypercorn's own words


async def test_websockets_are_refused() -> None:
    async with serving(hello) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await _websocket(stream)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 403 ")


async def test_hypercorn_says_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(hello) as port:
        answer = await ask(port, get("/"))
    assert answer.endswith(b"hello")
    assert b"server:" not in answer.lower()
    assert capfd.readouterr() == ("", "")


# To whom


@pytest.mark.parametrize("host", [
    "localhost", "localhost:8087", "127.0.0.1", "127.0.0.1:80", "[::1]:8087", "LocalHost.", "127.0.0.2",
    "a.localhost:1", "",
])  # fmt: skip
def test_loopback_has_these_names(host: str) -> None:
    assert is_ours(host, "127.0.0.1")


@pytest.mark.parametrize("host", [
    "evil.example", "evil", "localhost.evil.example", "127.0.0.1.evil.example:8087", "192.0.2.1:8087",
    "[2001:db8::1]:1", "evil.example.", "127.0.0.1@evil.example",
])  # fmt: skip
def test_loopback_has_no_other_name(host: str) -> None:
    assert not is_ours(host, "127.0.0.1")


@pytest.mark.parametrize(("listen", "host", "ours"), [
    ("0.0.0.0", "192.0.2.1:8087", True),
    ("0.0.0.0", "collector:8087", True),
    ("0.0.0.0", "evil.example", False),
    ("collector.example.com", "collector.example.com:8087", True),
    ("192.0.2.1", "192.0.2.1:8087", True),
    ("192.0.2.1", "evil.example", False),
    ("::", "[2001:db8::1]:8087", True),
])  # fmt: skip
def test_beyond_loopback_addresses_and_short_names_are_ours(listen: str, host: str, ours: bool) -> None:
    assert is_ours(host, listen) is ours


async def test_a_strangers_name_is_refused(recorder: Recorder) -> None:
    async with serving(make_site(recorder.observer.look, {})) as port:
        refused = await ask(port, get("/status.json", host="evil.example"))
        assert refused.startswith(b"HTTP/1.1 421 ")
        assert b"'evil.example' is no name of this collector" in refused
        assert b" 200 " in await ask(port, b"GET /healthz HTTP/1.0\r\n\r\n")  # a load balancer's probe names nobody


# The port


async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    async with open_port("127.0.0.1:0", Owners()) as port:
        taken = port.url.removeprefix("http://")
        with pytest.raises(CollectorError, match=f'\\[http\\] listen = "{taken}": another process listens there'):
            async with open_port(taken, Owners()):
                pass


async def test_an_address_that_is_not_ours_is_one_clear_error() -> None:
    with pytest.raises(CollectorError, match=r"\[http\] listen"):
        async with open_port("192.0.2.1:8087", Owners()):
            pass


async def test_an_empty_listen_opens_nothing() -> None:
    async with open_port("", Owners()) as port:
        assert (port.url, port.listeners) == ("", ())


async def test_a_port_on_ipv6_and_on_all_addresses_has_a_url_for_this_machine() -> None:
    async with open_port("0.0.0.0:0", Owners()) as port:
        assert port.url.startswith("http://127.0.0.1:")
    try:
        async with open_port("[::1]:0", Owners()) as port:
            assert port.url.startswith("http://[::1]:")
    except CollectorError:
        pytest.skip("no IPv6 here")


async def test_the_port_and_its_clients_are_ours_in_the_census() -> None:
    owners = Owners()
    async with serving(hello, owners) as port, await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(b"GET")
        await trio.testing.wait_all_tasks_blocked()
        states = sorted(socket.state for socket in owners.sockets() if socket.owner == HTTP)
        assert states == ["ESTABLISHED", "LISTEN"]
    assert not owners.claimed


# Clients that hang


async def _nothing(stream: trio.SocketStream) -> None:
    pass


async def _half_a_request(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: loc")


async def _half_a_body(stream: trio.SocketStream) -> None:
    await stream.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")


async def _half_closed(stream: trio.SocketStream) -> None:
    await stream.send_all(get("/"))
    await stream.send_eof()


async def _many_requests(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)


async def _http2(stream: trio.SocketStream) -> None:
    await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))


async def _http2_upgrade(stream: trio.SocketStream) -> None:
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    )


async def _websocket(stream: trio.SocketStream) -> None:
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )


HANGING: list[Callable[[trio.SocketStream], Awaitable[None]]] = [
    _nothing, _half_a_request, _half_a_body, _half_closed, _many_requests, _http2, _http2_upgrade, _websocket,
]  # fmt: skip


@pytest.mark.parametrize("site", [hello, big], ids=["small answer", "answer nobody reads"])
@pytest.mark.parametrize("begin", HANGING, ids=lambda begin: begin.__name__.strip("_").replace("_", " "))
async def test_no_client_holds_up_the_stop(
    begin: Callable[[trio.SocketStream], Awaitable[None]], site: ASGIApp
) -> None:
    owners = Owners()
    async with serving(site, owners) as port:
        owners.ports[port] = "server side"
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        for stream in streams:
            await begin(stream)
        with trio.move_on_after(0.1):
            await trio.sleep_forever()
    left = [socket for socket in owners.sockets() if socket.owner not in (NOBODY, UNCLAIMED)]
    assert not left
    for stream in streams:
        await stream.aclose()


async def test_a_client_that_has_gone_leaves_nothing_behind(recorder: Recorder) -> None:
    owners = Owners()
    async with serving(make_site(recorder.observer.look, {}), owners) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await stream.receive_some()
        with trio.fail_after(20):
            while owners.claimed != 1:  # noqa: ASYNC110  the listener alone; it happens in sockets
                await trio.sleep(0.01)


async def test_a_client_without_a_whole_request_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.1)
    async with serving(hello) as port:
        assert await ask(port, b"GET / HTTP/1.1\r\nHo") == b""


async def test_a_client_that_sends_one_byte_at_a_time_is_left_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.2)
    async with serving(hello) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(20), suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"G")
                await trio.sleep(0.02)


async def test_a_client_that_reads_nothing_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.1)
    owners = Owners()
    async with serving(big, owners) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(get("/"))
        with trio.fail_after(20):
            while owners.claimed != 1:  # noqa: ASYNC110  the listener alone; it happens in sockets
                await trio.sleep(0.01)


async def test_a_crowd_of_clients_that_hang_is_bounded_and_keeps_nobody_from_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "CLIENTS", 3)
    owners = Owners()
    async with AsyncExitStack() as crowd, serving(hello, owners) as port:
        owners.ports[port] = "server side"  # where nobody claims them: the crowd's own ends are not counted
        begins = [_nothing, _half_a_request, _half_a_body, _half_closed]
        for n in range(40):
            stream = await crowd.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            with suppress(trio.BrokenResourceError):
                await begins[n % len(begins)](stream)
            if n % 8 == 0:
                assert (await ask(port, get("/healthz"))).endswith(b"hello")
        await trio.testing.wait_all_tasks_blocked()
        held = [found.state for found in owners.sockets() if found.owner == HTTP]
        assert len(held) <= 3 + 1  # and the listener
        assert "CLOSE_WAIT" not in held


async def test_clients_that_closed_their_half_and_read_nothing_are_not_in_close_wait_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.2)
    owners = Owners()
    async with serving(big, owners) as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
        for stream in streams:
            await stream.send_all(get("/"))
            await stream.send_eof()
        with trio.fail_after(20):
            while owners.claimed != 1:  # noqa: ASYNC110  the listener alone; it happens in sockets
                await trio.sleep(0.01)
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("bytes_", [
    b"\x00\xff" * 100, b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n" * 50,
    b"GET /%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"A" * 100_000,
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
])  # fmt: skip
async def test_nonsense_ends_its_own_connection_and_nothing_else(
    bytes_: bytes, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.3)
    async with serving(make_site(recorder.observer.look, {})) as port:
        await ask(port, bytes_)
        assert b" 200 " in await ask(port, get("/healthz"))


async def test_the_stop_waits_for_nobody_while_clients_come_and_go() -> None:
    async def knock(port: int) -> None:
        while True:
            try:
                await ask(port, get("/"))
            except OSError:
                return

    async with trio.open_nursery() as clients, serving(hello) as port:
        for _ in range(10):
            clients.start_soon(knock, port)
        await trio.sleep(0.3)
