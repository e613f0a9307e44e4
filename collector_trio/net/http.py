"""The one door to HTTP: a client per exchange and market, whose every failure is `HttpFailed`."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import httpx
import trio

from collector_trio import __version__
from collector_trio.errors import ConnectionEnded, HttpFailed, Refusal
from collector_trio.net.dial import Connector, tcp
from collector_trio.net.refusals import excerpt, retry_after_s
from collector_trio.net.transport import CONNECTIONS, TIMES, OneShotTransport

REQUEST_S = 30.0  # from asking to the last byte, the wait for a free connection included


@attrs.frozen
class HttpAnswer:
    """What a server answered; header names are looked up in any case. `asked_at` and `answered_at`: when it was asked
    and the answer's head came (trio time), without the dial.
    """

    body: bytes
    headers: httpx.Headers
    asked_at: float
    answered_at: float


@attrs.frozen
class HttpClient:
    """Asks one host, for as long as the block of `open_client` runs."""

    base_url: str
    _client: httpx.AsyncClient

    async def get(self, path: str) -> bytes:
        """Return the body of what `ask` returns."""
        return (await self.ask(path)).body

    async def ask(self, path: str) -> HttpAnswer:
        """Return what is found at `path` (with its query), which is appended to the base URL's own path.

        Raises HttpFailed for whatever is not an answer with data: no connection, no whole answer within `REQUEST_S`, a
        status other than 2xx, an HTML page, a body of more than 64 MiB.
        """
        url = f"{self.base_url.rstrip('/')}/{path.lstrip('/')}"
        response = await self._request("GET", url)
        body = response.content
        if body.lstrip()[:1] == b"<" or response.headers.get("content-type", "").startswith("text/html"):
            began = excerpt(body)
            problem = f"an HTML page instead of data: {began}"
            raise HttpFailed(url, problem, Refusal(response.status_code, None, began))
        now = trio.current_time()
        return HttpAnswer(body, response.headers, *response.extensions.get(TIMES, (now, now)))

    async def post_json(self, body: bytes) -> None:
        """Send `body` to the base URL itself; what is answered does not matter beyond its status. Raises HttpFailed."""
        await self._request("POST", self.base_url, content=body, headers={"Content-Type": "application/json"})

    async def _request(self, method: str, url: str, **options: Any) -> httpx.Response:
        try:
            with trio.fail_after(REQUEST_S):
                response = await self._client.request(method, url, **options)
        except trio.TooSlowError:
            raise HttpFailed(url, f"no whole answer within {REQUEST_S:g} s") from None
        except (ConnectionEnded, httpx.HTTPError, httpx.InvalidURL) as error:
            raise HttpFailed(url, str(error) or type(error).__name__) from error
        if not response.is_success:
            headers, began = response.headers, excerpt(response.content)
            wait_s = retry_after_s(headers.get("retry-after", ""), headers.get("date", ""), datetime.now(UTC))
            problem = f"HTTP {response.status_code} {response.reason_phrase}: {began}"
            raise HttpFailed(url, problem, Refusal(response.status_code, wait_s, began))
        return response


@asynccontextmanager
async def open_client(
    base_url: str,
    *,
    ssl_context: ssl.SSLContext,
    proxy: str | None,
    transport: httpx.AsyncBaseTransport | None = None,
    connector: Connector = tcp,
) -> AsyncIterator[HttpClient]:
    """Open a client for `base_url`. Each request has its own connection, closed with the answer: nothing idles between
    polls.

    At most `CONNECTIONS` requests run at a time. Redirects are not followed: no exchange's API needs them. `transport`
    takes the place of the network in tests.
    """
    async with httpx.AsyncClient(
        transport=transport or OneShotTransport(ssl_context, proxy, connector),
        limits=httpx.Limits(max_keepalive_connections=0, max_connections=CONNECTIONS),
        timeout=REQUEST_S,
        trust_env=False,  # choose_proxy has read the environment already
        headers={
            "User-Agent": f"collector-trio/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        },
    ) as client:
        yield HttpClient(base_url, client)
