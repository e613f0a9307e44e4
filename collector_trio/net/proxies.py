"""Which proxy a URL is reached through, and how to ask it for a tunnel: HTTP CONNECT (RFC 9110, 9.3.6) or SOCKS5 (RFC
1928, 1929).

Either way the proxy looks the host's name up.
"""

import base64
import ipaddress
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

import attrs
import h11
import trio
from socksio import socks5
from socksio.exceptions import SOCKSError

from collector_trio.errors import ConnectionEnded

_PORTS = {"http": 8080, "socks5": 1080, "socks5h": 1080}
_SECURE = ("https", "wss")


@attrs.frozen
class Proxy:
    """Where a proxy listens, and what to tell it."""

    scheme: str  # a key of _PORTS
    host: str
    port: int
    user: str | None = None
    password: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return f"proxy {self.scheme}://{self.host}:{self.port}"


def choose_proxy(url: str, configured: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy that `url` is reached through, None for a direct connection.

    This machine is always reached directly. Otherwise `configured` wins when not empty; else HTTPS_PROXY (for https and
    wss), then ALL_PROXY, unless NO_PROXY names the host. Lower-case names win over upper-case ones, as with curl.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    if configured:
        return configured
    names = ("https_proxy", "all_proxy") if parts.scheme in _SECURE else ("all_proxy",)
    found = next((value for name in names if (value := environ.get(name) or environ.get(name.upper()))), None)
    if found is None:
        return None
    port = parts.port or (443 if parts.scheme in _SECURE else 80)
    spared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return None if proxy_bypass_environment(f"{host}:{port}", {"no": spared}) else found


def parse_proxy(url: str) -> Proxy:
    """Read `http://user:password@host:port`, `socks5://…` or `socks5h://…`. Raises ConnectionEnded: `proxy`."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without the password
        raise ConnectionEnded("proxy", f"{shown} is not of the form http://host:port or socks5://host:port")
    user = None if parts.username is None else unquote(parts.username)
    return Proxy(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], user, unquote(parts.password or ""))


async def open_tunnel(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Have `proxy`, which `stream` leads to, connect to `host`. Raises ConnectionEnded and what `stream` raises."""
    try:
        await (_connect if proxy.scheme == "http" else _socks)(stream, proxy, host, port)
    except (h11.RemoteProtocolError, SOCKSError) as error:
        raise ConnectionEnded("proxy", f"{proxy} answered what no such proxy does: {error}") from error


async def _connect(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", target)]
    if proxy.user is not None:
        secret = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {secret}"))
    http = h11.Connection(h11.CLIENT)
    await stream.send_all(http.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b"")
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(16_384)
            http.receive_data(bytes(data))
            if not data:
                raise ConnectionEnded("proxy", f"{proxy} closed the connection instead of answering")
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                raise ConnectionEnded(
                    "proxy", f"{proxy} answered HTTP {event.status_code} {event.reason.decode('latin-1')}".rstrip()
                )
            break
    if http.trailing_data[0]:  # in TLS and WebSocket the client speaks first
        raise ConnectionEnded("proxy", f"{proxy} sent data of its own behind its answer")


async def _socks(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Greet, log in if asked to, request. socksio wants each answer whole, so we read exactly what each one has."""

    async def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await stream.receive_some(count - len(data))
            if not more:
                raise ConnectionEnded("proxy", f"{proxy} closed the connection instead of answering")
            data += more
        return data

    socks = socks5.SOCKS5Connection()
    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.user is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    socks.send(socks5.SOCKS5AuthMethodsRequest(methods))
    await stream.send_all(socks.data_to_send())
    chosen = socks.receive_data(await exactly(2))
    assert isinstance(chosen, socks5.SOCKS5AuthReply)
    if chosen.method not in methods:
        raise ConnectionEnded(
            "proxy", f"{proxy} accepts none of our ways to log in ({', '.join(m.name for m in methods)})"
        )
    if chosen.method is socks5.SOCKS5AuthMethod.USERNAME_PASSWORD:
        assert proxy.user is not None
        socks.send(socks5.SOCKS5UsernamePasswordRequest(proxy.user.encode(), proxy.password.encode()))
        await stream.send_all(socks.data_to_send())
        logged_in = socks.receive_data(await exactly(2))
        if not (isinstance(logged_in, socks5.SOCKS5UsernamePasswordReply) and logged_in.success):
            raise ConnectionEnded("proxy", f"{proxy} refused the user name or password")
    socks.send(socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (host, port)))
    await stream.send_all(socks.data_to_send())
    head = await exactly(5)  # version, reply, reserved, address type, first byte of the address
    length = {1: 4, 4: 16, 3: head[4] + 1}.get(head[3])
    if length is None:
        raise ConnectionEnded("proxy", f"{proxy} answered with an address of unknown type {head[3]}")
    reply = socks.receive_data(head + await exactly(length - 1 + 2))
    assert isinstance(reply, socks5.SOCKS5Reply)
    if reply.reply_code is not socks5.SOCKS5ReplyCode.SUCCEEDED:
        raise ConnectionEnded(
            "proxy", f"{proxy} could not reach {host}:{port}: {reply.reply_code.name.lower().replace('_', ' ')}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
