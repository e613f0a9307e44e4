"""One HTTP request on one connection of its own: what httpx sends requests through.

httpx's own transport is not used, because it can leave sockets behind (httpcore 1.0.9, both reproduced in
tests/net/test_http.py): a request that is cancelled during the TLS handshake never closes its socket, and a pooled
connection that the server closes stays in CLOSE_WAIT until the pool is next used. Here the connection is over before
the answer is returned.
"""

import ssl
import zlib

import h11
import httpx
import trio

from collector_trio.errors import ConnectionEnded
from collector_trio.net.dial import Connector, close_now, describe, dial, start_tls, tcp

CONNECTIONS = 4
TIMES = "collector_trio.times"  # extension of an answer: when it was asked for, and when its head came (trio time)
MAX_BODY_BYTES = 64 * 1024 * 1024
_MAX_HEAD_BYTES = 64 * 1024
_RECEIVE_BYTES = 65_536


class OneShotTransport(httpx.AsyncBaseTransport):
    """Opens a connection per request, at most `CONNECTIONS` at a time, and closes it when the body is read."""

    def __init__(self, ssl_context: ssl.SSLContext, proxy: str | None, connector: Connector = tcp) -> None:
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._connector = connector
        self._slots = trio.CapacityLimiter(CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, its body read and decoded. The caller sets the deadline. Raises ConnectionEnded."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        async with self._slots:
            stream = await dial(url.host, port, proxy=self._proxy, connector=self._connector)
            if url.scheme == "https":
                stream = await start_tls(stream, url.host, self._ssl_context, proxy=self._proxy)
            try:
                return await _exchange(stream, request)
            except h11.RemoteProtocolError as error:
                raise ConnectionEnded("protocol", str(error)) from error
            except (trio.BrokenResourceError, OSError) as error:
                raise ConnectionEnded("reset", describe(error)) from error
            finally:
                await close_now(stream)


async def _exchange(stream: trio.abc.Stream, request: httpx.Request) -> httpx.Response:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"connection"]
    sent = h11.Request(
        method=request.method, target=request.url.raw_path, headers=[*headers, (b"Connection", b"close")]
    )
    asked_at = trio.current_time()  # connected: what comes now is the way there and back
    await stream.send_all(http.send(sent) or b"")
    content = await request.aread()
    if content:
        await stream.send_all(http.send(h11.Data(data=content)) or b"")
    await stream.send_all(http.send(h11.EndOfMessage()) or b"")
    head: h11.Response | None = None
    headed_at = asked_at
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            head, headed_at = event, trio.current_time()
        elif isinstance(event, h11.Data):
            body += event.data
            _check_size(body)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            kept = [
                (name, value) for name, value in head.headers if name not in (b"content-encoding", b"content-length")
            ]
            encoding = dict(head.headers).get(b"content-encoding", b"identity")
            plain = _decoded(bytes(body), encoding)
            times = {TIMES: (asked_at, headed_at)}
            return httpx.Response(head.status_code, headers=kept, content=plain, extensions=times)


def _decoded(body: bytes, encoding: bytes) -> bytes:
    """Return the plain body. httpx is not left to do it: it sets no bound, and a little gzip can become very much."""
    if encoding.lower() == b"identity" or not body:
        return body
    if encoding.lower() != b"gzip":
        raise ConnectionEnded("protocol", f"content encoding {encoding.decode('latin-1')}, but gzip was asked for")
    decoder = zlib.decompressobj(wbits=31)  # gzip's header and checksum
    try:
        plain = decoder.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise ConnectionEnded("protocol", f"not gzip, though it says so: {error}") from error
    _check_size(plain)
    if not decoder.eof:
        raise ConnectionEnded("protocol", "gzip that breaks off")
    return plain


def _check_size(body: bytes | bytearray) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise ConnectionEnded("protocol", f"a body of more than {MAX_BODY_BYTES} bytes")
