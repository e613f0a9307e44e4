import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from collector_trio.errors import HttpFailed, Refusal
from collector_trio.net import transport as transport_module
from collector_trio.net.http import REQUEST_S, HttpClient, open_client
from collector_trio.net.transport import CONNECTIONS

from .conftest import Certificates
from .peers import Dialled, Peer, Script, open_sockets, serving, silence

NO_TLS = ssl.create_default_context()


def answer(body: bytes = b"{}", *, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n".encode() + body


def answering(data: bytes, *, stay: bool = False) -> Script:
    async def script(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(data)
        if stay:
            await peer.until_left()

    return script


@asynccontextmanager
async def client(
    port: int, dialled: Dialled, *, tls: ssl.SSLContext | None = None, proxy: str | None = None
) -> AsyncIterator[HttpClient]:
    base_url = f"{'https' if tls else 'http'}://localhost:{port}/api/v3"
    async with open_client(base_url, ssl_context=tls or NO_TLS, proxy=proxy, connector=dialled) as opened:
        yield opened
    assert not dialled.still_open


async def failure(script: Script, dialled: Dialled) -> HttpFailed:
    async with serving(script) as port, client(port, dialled) as http:
        with pytest.raises(HttpFailed) as failed:
            await http.get("/depth?symbol=BTCUSDT")
        assert not dialled.still_open
    assert failed.value.url == f"http://localhost:{port}/api/v3/depth?symbol=BTCUSDT"
    return failed.value


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
async def test_a_path_is_asked_for_below_the_base_and_its_body_returned(
    encrypted: bool, certificates: Certificates, dialled: Dialled
) -> None:
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        requests.append(await peer.read_head())
        await peer.send(answer(b'{"serverTime": 1}'))

    tls = (certificates.server, certificates.client) if encrypted else (None, None)
    async with serving(script, tls[0]) as port, client(port, dialled, tls=tls[1]) as http:
        assert await http.get("/depth?symbol=BTCUSDT&limit=5") == b'{"serverTime": 1}'
        assert await http.get("time") == b'{"serverTime": 1}'
    assert requests[0].startswith(b"GET /api/v3/depth?symbol=BTCUSDT&limit=5 HTTP/1.1\r\n")
    assert requests[1].startswith(b"GET /api/v3/time HTTP/1.1\r\n")
    for line in (b"Connection: close", b"Accept-Encoding: gzip", b"User-Agent: collector-trio/"):
        assert line in requests[0]


async def test_no_socket_idles_between_requests_even_if_the_server_would_keep_it(dialled: Dialled) -> None:
    async with serving(answering(answer(), stay=True)) as port, client(port, dialled) as http:
        for _ in range(5):
            await http.get("/time")
            assert not dialled.still_open
    assert len(dialled.inodes) == 5


async def test_a_gzipped_body_is_returned_decoded(dialled: Dialled) -> None:
    data = answer(gzip.compress(b"[1, 2]", mtime=0), headers="Content-Encoding: gzip\r\n")
    async with serving(answering(data)) as port, client(port, dialled) as http:
        assert await http.get("/x") == b"[1, 2]"


async def test_a_chunked_body_is_returned_whole(dialled: Dialled) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    async with serving(answering(data)) as port, client(port, dialled) as http:
        assert await http.get("/x") == b"[1,2]"


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_s"),
    [
        ("429 Too Many Requests", "Retry-After: 7\r\n", 7),
        ("418 I'm a teapot", "Retry-After: 0.5\r\n", 0.5),
        ("503 Service Unavailable", "", None),
        ("403 Forbidden", "Retry-After: soon\r\n", None),
        ("403 Forbidden", "Retry-After: inf\r\n", None),
        ("429 Busy", "Retry-After: -5\r\n", 0),
        (
            "503 Busy",
            "Date: Mon, 23 Nov 2026 12:00:00 GMT\r\nRetry-After: Mon, 23 Nov 2026 12:01:30 GMT\r\n",
            90,
        ),
        ("503 Busy", "Retry-After: Mon, 23 Nov 2015 12:01:30 GMT\r\n", 0),
        ("302 Found", "Location: /elsewhere\r\n", None),
        ("404 Not Found", "", None),
    ],
)
async def test_a_status_other_than_success_fails_with_what_the_server_says_of_coming_back(
    status: str, headers: str, retry_after_s: float | None, dialled: Dialled
) -> None:
    failed = await failure(answering(answer(b'{"msg": "no"}', status=status, headers=headers)), dialled)
    assert failed.refusal == Refusal(int(status[:3]), retry_after_s, '{"msg": "no"}')
    assert failed.problem.startswith(f"HTTP {status[:3]} ")
    assert failed.problem.endswith(': {"msg": "no"}')


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            answer(b" <!DOCTYPE html>\n<title>Just a moment"),
            "an HTML page instead of data: <!DOCTYPE html> <title>Just",
        ),
        (
            answer(b"blocked", headers="Content-Type: text/html; charset=utf-8\r\n"),
            "an HTML page instead of data: blocked",
        ),
        (answer(b"{", length=9), "protocol: peer closed connection without sending complete message body"),
        (b"", "protocol: "),
        (b"HTTP/1.1 200", "protocol: "),
        (b"nonsense\r\n\r\n", "protocol: "),
        (answer(b"not gzip", headers="Content-Encoding: gzip\r\n"), "protocol: not gzip, though it says so"),
        (
            answer(gzip.compress(b"x" * 99, mtime=0)[:-9], headers="Content-Encoding: gzip\r\n"),
            "protocol: gzip that breaks off",
        ),
        (answer(b"x", headers="Content-Encoding: br\r\n"), "protocol: content encoding br, but gzip was asked for"),
        (answer(b"x" * 1001), "protocol: a body of more than 1000 bytes"),
        (
            answer(gzip.compress(b"x" * 1001, mtime=0), headers="Content-Encoding: gzip\r\n"),
            "protocol: a body of more than 1000",
        ),
    ],
)
async def test_an_answer_that_is_no_data_fails_and_leaves_no_socket(
    data: bytes, problem: str, dialled: Dialled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "MAX_BODY_BYTES", 1000)
    failed = await failure(answering(data), dialled)
    assert failed.problem.startswith(problem)
    assert failed.refusal is None or failed.refusal.retry_after_s is None


async def test_a_reset_fails(dialled: Dialled) -> None:
    async def script(peer: Peer) -> None:
        await peer.read_head()
        await peer.reset()

    assert (await failure(script, dialled)).problem.startswith("reset: ")


async def test_a_host_that_is_not_there_fails_without_a_status(dialled: Dialled) -> None:
    async with client(1, dialled) as http:
        with pytest.raises(HttpFailed, match=r"dial: localhost:1: .*Connection refused") as failed:
            await http.get("/x")
    assert failed.value.refusal is None


async def test_requests_beyond_the_number_of_connections_wait_their_turn(dialled: Dialled) -> None:
    most = now = 0

    async def script(peer: Peer) -> None:
        nonlocal most, now
        await peer.read_head()
        now += 1
        most = max(most, now)
        await trio.testing.wait_all_tasks_blocked()
        now -= 1
        await peer.send(answer())

    async with serving(script) as port, client(port, dialled) as http, trio.open_nursery() as nursery:
        for _ in range(3 * CONNECTIONS):
            nursery.start_soon(http.get, "/x")
    assert most == CONNECTIONS


async def test_an_answer_that_takes_too_long_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def connector(host: str, port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(drip, theirs)
        return ours

    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(1)
                await stream.send_all(b".")

    async with trio.open_nursery() as nursery:
        async with open_client("http://slow.example", ssl_context=NO_TLS, proxy=None, connector=connector) as http:
            with pytest.raises(HttpFailed, match="no whole answer within 30 s"):
                await http.get("/x")
        assert trio.current_time() == REQUEST_S
        nursery.cancel_scope.cancel()


async def test_a_transport_may_take_the_place_of_the_network() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/down":
            raise httpx.ConnectError("no network")
        return httpx.Response(200, json={"path": request.url.path})

    transport = httpx.MockTransport(answer)
    async with open_client("https://x.example/api/", ssl_context=NO_TLS, proxy=None, transport=transport) as http:
        assert await http.get("/time") == b'{"path":"/api/time"}'
        with pytest.raises(HttpFailed, match="no network"):
            await http.get("/down")


async def test_httpx_alone_leaves_a_socket_open_when_cancelled_in_the_tls_handshake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why we have a transport of our own: httpcore 1.0.9. When this fails it may no longer be needed."""
    opened: list[trio.SocketStream] = []
    open_tcp_stream = trio.open_tcp_stream

    async def remembering(*args: Any, **options: Any) -> trio.SocketStream:
        opened.append(await open_tcp_stream(*args, **options))
        return opened[-1]

    monkeypatch.setattr(trio, "open_tcp_stream", remembering)
    async with serving(silence) as port, httpx.AsyncClient(trust_env=False) as http:
        with trio.move_on_after(0.05):
            await http.get(f"https://127.0.0.1:{port}/")
    (stream,) = opened
    assert stream.socket.fileno() != -1
    await stream.aclose()


async def test_httpx_alone_keeps_a_socket_that_the_server_has_closed() -> None:
    """Why no connection is kept between requests: httpcore looks after an idle one only when it is used again."""
    may_close = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(answer())
        await may_close.wait()

    async with serving(script) as port:
        before = open_sockets()
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.get(f"http://127.0.0.1:{port}/")
            assert len(open_sockets() - before) == 2
            may_close.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(open_sockets() - before) == 1


async def test_when_an_answer_was_asked_for_and_came_is_told_without_the_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def dialling(host: str, port: int) -> trio.abc.Stream:
        await trio.sleep(3)
        return ours

    async def server() -> None:
        await theirs.receive_some()
        await trio.sleep(2)
        await theirs.send_all(answer(b"12", length=2)[:-1])
        await trio.sleep(5)
        await theirs.send_all(b"2")

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with open_client("http://x", ssl_context=NO_TLS, proxy=None, connector=dialling) as http:
            found = await http.ask("/time")
    assert (found.body, found.asked_at - begun, found.answered_at - begun) == (b"12", 3, 5)


async def test_json_is_posted_to_the_base_itself_and_only_the_status_of_the_answer_matters(dialled: Dialled) -> None:
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        head, _, body = (await peer.read_head()).partition(b"\r\n\r\n")
        requests.append(head + b"|" + body + await peer.receive(len(b'{"x": 1}') - len(body)))
        await peer.send(answer(b"<html>thanks</html>", status="202 Accepted", headers="Content-Type: text/html\r\n"))

    async with serving(script) as port:
        url = f"http://localhost:{port}/hook?key=1"
        async with open_client(url, ssl_context=NO_TLS, proxy=None, connector=dialled) as http:
            await http.post_json(b'{"x": 1}')
        assert not dialled.still_open
    assert requests[0].startswith(b"POST /hook?key=1 HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in requests[0]
    assert requests[0].endswith(b'|{"x": 1}')


async def test_a_post_that_is_refused_is_a_failure(dialled: Dialled) -> None:
    async with serving(answering(answer(status="410 Gone"))) as port:
        async with open_client(f"http://localhost:{port}/", ssl_context=NO_TLS, proxy=None, connector=dialled) as http:
            with pytest.raises(HttpFailed) as failed:
                await http.post_json(b"{}")
        assert not dialled.still_open
    assert failed.value.refusal is not None
    assert failed.value.refusal.status == 410
