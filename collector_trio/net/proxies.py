"""Which proxy a URL is reached through, and how to ask it for a tunnel: HTTP CONNECT (RFC 9110, 9.3.6) or SOCKS5 (RFC
1928, 1929).

Either way the proxy looks the host's name up. Whatever it does, it is one reason: `dial` gives it its deadline.

The protocols are h11's and socksio's, which do no I/O. python-socks (3.2.1) would bring its own way to open sockets,
past our one door, its owners and the simulated networks of the tests; it takes one read of the socket for a whole
answer to CONNECT, and what comes behind that for nothing. Its protocols alone are not public.
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
_MOST_BYTES = 255  # of a name or password, in SOCKS5
_ADVICE = {407: '; [net] proxy = "scheme://user:password@host:port" gives them'}


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

    This machine is always reached directly, and so is what NO_PROXY names. Otherwise `configured` wins when not empty;
    else HTTPS_PROXY (for https and wss), then ALL_PROXY. Lower-case names win over upper-case ones, as with curl.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    names = ("https_proxy", "all_proxy") if parts.scheme in _SECURE else ("all_proxy",)
    from_environ = (environ.get(name) or environ.get(name.upper()) for name in names)
    found = configured or next(filter(None, from_environ), None)
    if found is None:
        return None
    port = parts.port or (443 if parts.scheme in _SECURE else 80)
    spared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return None if proxy_bypass_environment(f"{host}:{port}", {"no": spared}) else found


def parse_proxy(url: str) -> Proxy:
    """Read `http://user:password@host:port`, `socks5://…` or `socks5h://…`. Raises ConnectionEnded: `proxy`."""
    url = url if "://" in url else f"http://{url}"
    shown = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2]}"  # without the password
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ConnectionEnded("proxy", f"{shown} is not of the form http://host:port or socks5://host:port")
    user, password = None if parts.username is None else unquote(parts.username), unquote(parts.password or "")
    if parts.scheme != "http" and max(len((user or "").encode()), len(password.encode())) > _MOST_BYTES:
        raise ConnectionEnded("proxy", f"{shown}: SOCKS5 takes names and passwords of {_MOST_BYTES} bytes at most")
    return Proxy(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], user, password)


async def open_tunnel(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Have `proxy`, which `stream` leads to, connect to `host`. Raises ConnectionEnded and what `stream` raises."""
    try:
        await (_connect if proxy.scheme == "http" else _socks)(stream, proxy, host, port)
    except (h11.ProtocolError, SOCKSError) as error:
        raise _lied(proxy, str(error)) from error


def _lied(proxy: Proxy, how: str) -> ConnectionEnded:
    return ConnectionEnded("proxy", f"{proxy} answered what no such proxy does: {how}")


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
                answer = f"HTTP {event.status_code} {event.reason.decode('latin-1')}".rstrip()
                raise ConnectionEnded("proxy", f"{proxy} answered {answer}{_ADVICE.get(event.status_code, '')}")
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

    async def versioned(count: int) -> bytes:
        data = await exactly(count)
        if data[0] != 5:
            raise _lied(proxy, f"version {data[0]} in place of 5")
        return data

    socks = socks5.SOCKS5Connection()
    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.user is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    socks.send(socks5.SOCKS5AuthMethodsRequest(methods))
    await stream.send_all(socks.data_to_send())
    chosen = socks.receive_data(await versioned(2))
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
    head = await versioned(2)
    if head[1] != 0:  # not every proxy goes on after a failure
        raise ConnectionEnded("proxy", f"{proxy} could not reach {host}:{port}: {_failure(head[1:])}")
    head += await exactly(3)  # reserved, address type, first byte of the address
    length = {1: 4, 4: 16, 3: head[4] + 1}.get(head[3])
    if length is None:
        raise _lied(proxy, f"an address of unknown type {head[3]}")
    socks.receive_data(head + await exactly(length - 1 + 2))


def _failure(code: bytes) -> str:
    try:
        return socks5.SOCKS5ReplyCode(code).name.lower().replace("_", " ")
    except ValueError:
        return f"code {code[0]}, which SOCKS5 does not know"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
