import base64
import ssl

import pytest
import trio

from collector_trio.errors import ConnectionEnded, HttpFailed
from collector_trio.net import dial as dial_module
from collector_trio.net.connect import connect
from collector_trio.net.dial import dial
from collector_trio.net.http import open_client
from collector_trio.net.proxies import choose_proxy, parse_proxy

from .conftest import Certificates
from .peers import Batches, Dialled, Peer, Script, serving
from .proxying import OK4, OK6, OK_NAME, Heard, Way, http_proxy, socks_proxy

ENVIRON = {
    "HTTPS_PROXY": "http://env:3128",
    "ALL_PROXY": "socks5://all:1080",
    "NO_PROXY": "binance.com,.local,okx.com:8443",
}


@pytest.mark.parametrize(
    ("url", "configured", "environ", "chosen"),
    [
        ("wss://ws.okx.com/", "", {}, None),
        ("wss://ws.okx.com/", "", ENVIRON, "http://env:3128"),
        ("https://ws.okx.com/", "", ENVIRON, "http://env:3128"),
        ("wss://ws.okx.com/", "", {"https_proxy": "lower", "HTTPS_PROXY": "upper"}, "lower"),
        ("ws://ws.okx.com/", "", ENVIRON, "socks5://all:1080"),
        ("wss://ws.okx.com/", "", {"ALL_PROXY": "socks5://all:1080"}, "socks5://all:1080"),
        ("wss://ws.okx.com/", "", {"HTTPS_PROXY": ""}, None),
        ("wss://ws.okx.com/", "http://conf:1", ENVIRON, "http://conf:1"),
        ("wss://stream.binance.com:9443/ws", "", ENVIRON, None),
        ("wss://stream.binance.com:9443/ws", "http://conf:1", ENVIRON, None),
        ("wss://stream.binance.com:9443/ws", "http://conf:1", {}, "http://conf:1"),
        ("wss://okx.com:8443/ws", "", ENVIRON, None),
        ("wss://okx.com/ws", "", ENVIRON, "http://env:3128"),
        ("wss://okx.com/ws", "", {**ENVIRON, "NO_PROXY": "*"}, None),
        ("ws://127.0.0.1:80/", "http://conf:1", ENVIRON, None),
        ("ws://127.9.9.9:80/", "http://conf:1", ENVIRON, None),
        ("wss://[::1]/", "http://conf:1", ENVIRON, None),
        ("wss://localhost/", "http://conf:1", ENVIRON, None),
    ],
)
def test_which_proxy_a_url_is_reached_through(
    url: str, configured: str, environ: dict[str, str], chosen: str | None
) -> None:
    assert choose_proxy(url, configured, environ) == chosen


def test_a_proxy_url_is_read_with_its_defaults_and_escapes() -> None:
    proxy = parse_proxy("socks5h://me:p%40ss@proxy.example")
    assert (proxy.host, proxy.port, proxy.user, proxy.password) == ("proxy.example", 1080, "me", "p@ss")
    assert parse_proxy("proxy.example").port == 8080
    assert "p@ss" not in repr(proxy)
    assert "p@ss" not in str(proxy)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@proxy:1",
        "ftp://proxy",
        "http://",
        "http://proxy:port",
        "socks4://x",
        "http://[::1",
        "http://me:secret#1@proxy:1",
        "http://me:sec/ret@proxy:1",
        "http://me:sec?secret@proxy",
        "me:secret@[proxy:1",
    ],
)
def test_a_proxy_url_that_cannot_be_used_is_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(ConnectionEnded, match=r"proxy: .* is not of the form http://host:port") as ended:
        parse_proxy(url)
    assert "sec" not in str(ended.value)


@pytest.mark.parametrize("url", [f"socks5://{'u' * 256}:p@proxy", f"socks5h://u:{'%C3%A9' * 128}@proxy"])
def test_a_name_or_password_that_socks_has_no_room_for_is_said(url: str) -> None:
    with pytest.raises(ConnectionEnded, match=r"proxy: socks5h?://proxy: SOCKS5 takes names and passwords of 255 "):
        parse_proxy(url)


def test_a_proxy_is_shown_without_its_user_and_password() -> None:
    proxy = parse_proxy("socks5://me:secret@proxy.example:9050")
    assert "secret" not in f"{proxy} {proxy!r}"
    assert str(proxy) == "proxy socks5://proxy.example:9050"


async def greeting(peer: Peer) -> None:
    await peer.send(b"hello " + await peer.stream.receive_some(100))


def told(data: list[bytes]) -> bytes:
    return b"|".join(data)


@pytest.mark.parametrize(
    ("url", "way", "said"),
    [
        ("http://{}", http_proxy, b"CONNECT exchange.invalid:443 HTTP/1.1\r\n"),
        (
            "http://me:p%40ss@{}",
            http_proxy,
            b"Proxy-Authorization: Basic " + base64.b64encode(b"me:p@ss") + b"\r\n",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", OK4),
            b"\x05\x01\x00|\x05\x01\x00\x03\x10exchange.invalid\x01\xbb",
        ),
        ("socks5h://{}", lambda h, p: socks_proxy(h, p, b"\x05\x00", OK6), b"\x03\x10exchange.invalid\x01\xbb"),
        (
            "socks5://me:pass@{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x02", b"\x01\x00", OK_NAME),
            b"\x01\x02me\x04pass",
        ),
        ("socks5://me:pass@{}", lambda h, p: socks_proxy(h, p, b"\x05\x00", OK_NAME), b"\x05\x02\x00\x02|"),
    ],
)
async def test_a_proxy_is_told_the_name_and_then_is_a_plain_connection(
    url: str, way: Way, said: bytes, dialled: Dialled
) -> None:
    heard = Heard()
    async with serving(greeting) as port, serving(way(heard, port)) as proxy_port:
        stream = await dial("exchange.invalid", 443, proxy=url.format(f"127.0.0.1:{proxy_port}"), connector=dialled)
        async with stream:
            await stream.send_all(b"you")
            data = b""
            while len(data) < 9:
                data += await stream.receive_some()
    assert data == b"hello you"
    assert said in told(heard.data)


async def closing(peer: Peer) -> None:
    pass


def saying(data: bytes) -> Way:
    async def script(peer: Peer) -> None:
        await peer.send(data)
        await peer.until_left()

    return lambda heard, port: script


@pytest.mark.parametrize(
    ("url", "way", "how"),
    [
        (
            "http://{}",
            lambda h, p: http_proxy(h, p, b"HTTP/1.1 407 Auth Needed\r\n\r\n"),
            'answered HTTP 407 Auth Needed; [net] proxy = "scheme://user:password@host:port" gives them',
        ),
        (
            "http://{}",
            saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n<html>no!"),
            "answered HTTP 403 Forbidden",
        ),
        ("http://{}", saying(b"HTTP/1.0 502 Bad Gateway\r\n\r\n"), "answered HTTP 502 Bad Gateway"),
        ("http://{}", saying(b"x" * 100_000), "answered what no such proxy does"),
        ("http://{}", saying(b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n"), "answered what no such proxy does"),
        (
            "http://{}",
            saying(b"HTTP/1.1 200 OK\r\n\r\nmore"),
            "sent data of its own behind its answer",
        ),
        ("http://{}", saying(b"nonsense\r\n\r\n"), "answered what no such proxy does"),
        ("http://{}", lambda h, p: closing, ""),
        ("socks5://{}", lambda h, p: closing, ""),
        ("socks5://{}", saying(b"\x05\xff"), "accepts none of our ways to log in (NO_AUTH_REQUIRED)"),
        ("socks5://{}", saying(b"HTTP/1.1 400 Bad"), "answered what no such proxy does"),
        ("socks5://{}", saying(b"\x05\x02"), "accepts none of our ways to log in (NO_AUTH_REQUIRED)"),
        (
            "socks5://me:pass@{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x02", b"\x01\x01", OK4),
            "refused the user name or password",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", b"\x05\x04" + OK4[2:]),
            "could not reach exchange.invalid:443: host unreachable",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", b"\x05\x00\x00\x09\x00"),
            "an address of unknown type 9",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", b"\x05\x77" + OK4[2:]),
            "could not reach exchange.invalid:443: code 119, which SOCKS5 does not know",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", b"\x05\x02"),
            "could not reach exchange.invalid:443: connection not allowed by ruleset",
        ),
        (
            "socks5://{}",
            lambda h, p: socks_proxy(h, p, b"\x05\x00", b"HTTP/1.1 200 OK\r\n\r\n"),
            "answered what no such proxy does: version 72 in place of 5",
        ),
        ("socks5://{}", saying(b"\x00\x00"), "answered what no such proxy does: version 0 in place of 5"),
        ("socks5://{}", saying(b"\x15\x03\x03\x00\x02"), "answered what no such proxy does: version 21"),
    ],
)
async def test_a_proxy_that_does_not_serve_us_is_said_to_be_the_reason_and_nothing_stays_open(
    url: str, way: Way, how: str, dialled: Dialled
) -> None:
    async with serving(way(Heard(), 1)) as port:
        with pytest.raises(ConnectionEnded) as ended:
            await dial("exchange.invalid", 443, proxy=url.format(f"127.0.0.1:{port}"), connector=dialled)
        assert not dialled.still_open
    assert ended.value.reason == "proxy"
    assert f"127.0.0.1:{port}" in ended.value.detail
    assert how in ended.value.detail


async def test_a_proxy_that_is_not_there_is_said_to_be_the_reason(dialled: Dialled) -> None:
    with pytest.raises(ConnectionEnded, match=r"proxy: proxy http://127.0.0.1:1: .*Connection refused"):
        await dial("exchange.invalid", 443, proxy="http://127.0.0.1:1", connector=dialled)


async def hanging(peer: Peer) -> None:
    await peer.until_left()


async def drip(peer: Peer) -> None:
    """Keep answering, and never come to an end."""
    while True:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await trio.sleep(0.01)


async def after_greeting(peer: Peer) -> None:
    await peer.send(b"\x05\x00")
    await peer.until_left()


@pytest.mark.parametrize(
    ("scheme", "script"), [("http", hanging), ("http", drip), ("socks5", hanging), ("socks5", after_greeting)]
)
async def test_a_proxy_that_hangs_has_its_deadline(
    scheme: str, script: Script, dialled: Dialled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "PROXY_S", 0.2)
    async with serving(script) as port:
        with pytest.raises(ConnectionEnded) as ended:
            await dial("exchange.invalid", 443, proxy=f"{scheme}://me:secret@127.0.0.1:{port}", connector=dialled)
        assert not dialled.still_open
    assert str(ended.value) == f"timeout: proxy {scheme}://127.0.0.1:{port}: no connection within 0.2 s"


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def yes_and_gone(peer: Peer) -> None:
    await peer.read_head()
    await peer.send(ESTABLISHED)


async def yes_and_reset(peer: Peer) -> None:
    await yes_and_gone(peer)
    await peer.stream.receive_some()
    await peer.reset()


async def yes_and_garbage(peer: Peer) -> None:
    await yes_and_gone(peer)
    await peer.stream.receive_some()
    await peer.send(b"<html>Please log in to this hotel's network</html>")
    await peer.until_left()


async def yes_and_silence(peer: Peer) -> None:
    await yes_and_gone(peer)
    await peer.until_left()


@pytest.mark.parametrize("script", [yes_and_gone, yes_and_reset, yes_and_garbage, yes_and_silence])
async def test_a_proxy_that_promises_a_tunnel_and_has_none_is_named(
    script: Script, dialled: Dialled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "TLS_S", 0.5)
    context = ssl.create_default_context()
    async with serving(script) as port:
        proxy = f"http://me:secret@127.0.0.1:{port}"
        with pytest.raises(ConnectionEnded) as ended:
            async with connect(
                "wss://exchange.invalid/stream",
                Batches(),
                clock=lambda: 0,
                ssl_context=context,
                proxy=proxy,
                connector=dialled,
            ):
                raise AssertionError("there is no connection")
        async with open_client(
            "https://exchange.invalid", ssl_context=context, proxy=proxy, connector=dialled
        ) as client:
            with pytest.raises(HttpFailed) as failed:
                await client.get("/time")
        assert not dialled.still_open
    assert ended.value.reason == ("timeout" if script is yes_and_silence else "tls")
    for said in (str(ended.value), str(failed.value)):
        assert f"TLS with exchange.invalid through proxy http://127.0.0.1:{port}" in said
        assert "secret" not in said


async def test_a_tunnel_carries_tls_to_the_exchange_whose_name_the_certificate_has(
    certificates: Certificates, dialled: Dialled
) -> None:
    async def exchange(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    heard = Heard()
    async with serving(exchange, certificates.server) as port:
        for scheme, proxy in (
            ("http", http_proxy(heard, port)),
            ("socks5h", socks_proxy(heard, port, b"\x05\x00", OK_NAME)),
        ):
            async with serving(proxy) as proxy_port:
                url = f"{scheme}://me:secret@127.0.0.1:{proxy_port}"
                async with open_client(
                    "https://localhost", ssl_context=certificates.client, proxy=url, connector=dialled
                ) as client:
                    assert await client.get("/time") == b"{}"
    assert not dialled.still_open
