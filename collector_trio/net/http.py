"""The one door to HTTP: a client per exchange and market, whose every failure is `HttpFailed`."""

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
import httpx
import trio

from collector_trio import __version__
from collector_trio.errors import ConnectionEnded, HttpFailed
from collector_trio.net.dial import Connector, tcp
from collector_trio.net.transport import CONNECTIONS, TIMES, OneShotTransport

REQUEST_S = 30.0  # from asking to the last byte, the wait for a free connection included


@attrs.frozen
class Answer:
    """A body, and when it was asked for and its head came (trio time): the dial is not in between."""

    body: bytes
    asked_at: float
    answered_at: float


@attrs.frozen
class HttpClient:
    """Asks one host, for as long as the block of `open_client` runs."""

    base_url: str
    _client: httpx.AsyncClient

    async def get(self, path: str) -> bytes:
        """Return the body found at `path` (with its query), which is appended to the base URL's own path.

        Raises HttpFailed for whatever is not an answer with data: no connection, no whole answer within `REQUEST_S`, a
        status other than 2xx (with `retry_after_s` where the server says), an HTML page, a body of more than 64 MiB.
        """
        return (await self.ask(path)).body

    async def ask(self, path: str) -> Answer:
        """Return the same with the times at which it was asked and answered. Raises as `get`."""
        url = f"{self.base_url.rstrip('/')}/{path.lstrip('/')}"
        response = await self._request("GET", url)
        body = response.content
        if body.lstrip()[:1] == b"<" or response.headers.get("content-type", "").startswith("text/html"):
            problem = f"an HTML page instead of data: {_excerpt(body)}"
            raise HttpFailed(url, problem, status=response.status_code)
        now = trio.current_time()
        return Answer(body, *response.extensions.get(TIMES, (now, now)))

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
            status = response.status_code
            problem = f"HTTP {status} {response.reason_phrase}: {_excerpt(response.content)}"
            raise HttpFailed(url, problem, status=status, retry_after_s=_retry_after_s(response.headers))
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


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the seconds to wait: given as such, or as a date, held against the server's own clock if it tells."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            until = parsedate_to_datetime(text)
            now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
            seconds = (until - now).total_seconds()
        except (ValueError, TypeError):  # TypeError: one of the dates has no time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
